"""The configuration of the door, read as data: what a developer tries is what containers get."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from dev.door import EDGE, FOLDER, configured, envoy_program, furnish
from tests.support.door import require_envoy
from tests.support.processes import PROJECT, run

CONFIGURATION: dict[str, Any] = yaml.safe_load((EDGE / "envoy.yaml").read_text())


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a tree by its path."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {leaf: found for key, part in pairs for leaf, found in flat(part, f"{path}/{key}").items()}
    return {path: value}


def test_a_developer_tries_what_containers_get(tmp_path: Path) -> None:
    ours, theirs = flat(configured("127.0.0.1:1", ["127.0.0.1:2"], tmp_path)), flat(CONFIGURATION)
    assert set(ours) == set(theirs)
    changed = {(theirs[leaf], ours[leaf]) for leaf in ours if ours[leaf] != theirs[leaf]}
    files = {(old, new) for old, new in changed if f"{old}".startswith(f"{FOLDER}/")}
    assert {(Path(old).name, new) for old, new in files} == {
        (file, f"{tmp_path}/{file}")
        for file in ("enrollment.binpb", "openapi.json", "reference.html", "redoc.standalone.js", "strict.lua")
    }
    everywhere = CONFIGURATION["static_resources"]["listeners"][0]["address"]["socket_address"]["address"]
    assert changed - files == {(everywhere, "127.0.0.1"), (8080, 1), ("server", "127.0.0.1"), (50051, 2)}


async def test_envoy_takes_it_without_a_warning(tmp_path: Path) -> None:
    require_envoy()
    furnish(tmp_path)
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(configured("127.0.0.1:1", ["127.0.0.1:2"], tmp_path)))
    command = [f"{envoy_program()}", "--mode", "validate", "--log-level", "warning", "-c", f"{file}"]
    checked = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "OK" in checked.stdout


def test_every_file_that_it_names_is_there(tmp_path: Path) -> None:
    require_envoy()
    furnish(tmp_path)
    text = (EDGE / "envoy.yaml").read_text() + (EDGE / "secure.yaml").read_text()
    named = set(re.findall(rf"{FOLDER}/([\w.]+)", text))
    assert named | {"envoy.yaml", "secure.json"} == {file.name for file in tmp_path.iterdir()}


def test_on_an_address_of_the_network_every_name_is_its_own(tmp_path: Path) -> None:
    names = {
        listen: flat(configured(listen, ["127.0.0.1:2"], tmp_path)).values() for listen in ("0.0.0.0:1", "127.0.0.1:1")
    }
    assert "*" in names["0.0.0.0:1"]
    assert "*" not in names["127.0.0.1:1"]


def test_the_image_is_made_of_what_is_here() -> None:
    recipe = (EDGE / "Dockerfile").read_text()
    assert "-m dev.door /edge" in recipe  # which puts everything there that the configuration names
    assert f"COPY --from=build /edge {FOLDER}" in recipe
    assert f'"-c", "{FOLDER}/envoy.yaml"' in recipe
    allowed = (PROJECT / ".dockerignore").read_text().splitlines()
    copied = [
        word for line in recipe.splitlines() if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]  # fmt: skip
    assert copied
    for source in copied:
        assert (PROJECT / source).exists(), source
        assert any(f"!{part}" in allowed for part in (source, *map(str, Path(source).parents))), source


def test_the_image_can_be_made_without_what_only_developers_have(tmp_path: Path) -> None:
    require_envoy()
    missing = "import sys, runpy; sys.modules |= dict.fromkeys(['pytest', 'grpc_tools'])"
    made = run(
        "-c", f"{missing}; sys.argv[1:] = [{f'{tmp_path}'!r}]; runpy.run_module('dev.door', run_name='__main__')"
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert (tmp_path / "envoy.yaml").read_text() == (EDGE / "envoy.yaml").read_text()
    assert (tmp_path / "strict.lua").read_text().startswith("local contract = ")


def test_the_container_listens_where_compose_publishes_and_asks_where_the_server_is() -> None:
    services = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]
    leaves = flat(CONFIGURATION["static_resources"])
    ports = {value for leaf, value in leaves.items() if leaf.endswith("/port_value")}
    assert services["edge"]["ports"] == ["127.0.0.1:8080:8080"]
    assert services["server"]["environment"]["ENROLLMENT_LISTEN"] == "0.0.0.0:50051"
    assert ports == {8080, 50051}
    assert "server" in leaves.values()
