"""The rooms of the house: who may know whom, read from the source with `ast`. What is checked are folders.

Imports run one way: `cli -> app -> api -> engine -> store -> domain`. Everything below names rooms, so a module that is
added or split later is held to the rules of the room it stands in, and one that stands in none fails.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "enrollment_service"
PROJECT = Path(__file__).parents[1]
ROOT = PROJECT / PACKAGE

# From the door to the foundation: a room may know those after it, never those before.
ROOMS = ["__main__", "cli", "app", "api", "engine", "store", "domain"]
# Known from every room but the domain; they know none.
SHARED = ["settings", "telemetry"]
# What other services import: the stubs, and nothing else of ours.
CLIENT = ["client"]
STUBS = "v1"

STANDARD = {
    *("__future__", "collections", "contextlib", "dataclasses", "datetime", "enum", "functools", "hashlib"),
    *("heapq", "itertools", "json", "operator", "typing", "uuid"),
}
WIRE = {"grpc", "grpc_health", "grpc_reflection", "google", f"{PACKAGE}.{STUBS}"}
DATABASE = {"sqlalchemy", "asyncpg"}
# The one command that runs migrations, the one that hands out the contract, and those that are clients of a server.
MIGRATES = {"cli.migrate"}
CONTRACT = {"cli.descriptors"}
CALLS = {"cli.json_call", "cli.health", "cli.upload", "cli.rows", "cli.roster", "cli.target"}


@cache
def modules() -> dict[str, ast.Module]:
    """The source of every module of ours but the stubs, by its name within the package."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] != STUBS:
            found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """The full names of all that a module imports anywhere in it, also within functions."""
    found: set[str] = set()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def room_of(module: str) -> str:
    return module.split(".")[0]


def ours(module: str) -> set[str]:
    """The modules of ours that a module imports."""
    names = {name.removeprefix(f"{PACKAGE}.") for name in imports(module)}
    return {name for name in names if name in modules() and name != "__init__"}


def foreign(module: str) -> set[str]:
    """The top-level packages of others that a module imports."""
    return {name.split(".")[0] for name in imports(module) if name.split(".")[0] != PACKAGE}


def touches(module: str, packages: set[str]) -> set[str]:
    return {name for name in imports(module) for package in packages if f"{name}.".startswith(f"{package}.")}


def reachable(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for imported in ours(waiting.pop()) - seen:
            seen.add(imported)
            waiting.append(imported)
    return seen


def inside(*rooms: str) -> list[str]:
    return sorted(module for module in modules() if room_of(module) in rooms)


def test_every_module_stands_in_a_room() -> None:
    rooms = {room_of(module) for module in modules()} - {"__init__"}
    assert rooms - {*ROOMS, *SHARED, *CLIENT} == set()
    assert {*ROOMS, *SHARED} - rooms == set()


def test_every_room_of_the_package_is_on_the_map() -> None:
    (tree,) = [block for block in (PROJECT / "README.md").read_text().split("```") if f"\n{PACKAGE}/" in block]
    on_disk = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    shown = {name for name in on_disk if f"\n  {name}/" in tree}
    assert shown == on_disk - {"migrations"}


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_knows_a_room_before_its_own(room: str) -> None:
    before = set(ROOMS[: ROOMS.index(room)]) | set(CLIENT)
    if room == "cli":
        before -= set(CLIENT)  # its commands are clients of a running server
    known = {module: {name for name in ours(module) if room_of(name) in before} for module in inside(room)}
    assert {module: names for module, names in known.items() if names} == {}


def test_what_is_shared_knows_no_room() -> None:
    for module in inside(*SHARED):
        assert {room_of(name) for name in reachable(module)} <= set(SHARED), module


def test_the_client_knows_only_the_stubs() -> None:
    for module in inside(*CLIENT):
        assert {room_of(name) for name in reachable(module)} <= set(CLIENT), module


def test_no_module_reaches_itself() -> None:
    assert {module for module in modules() if module in reachable(module)} == set()


@pytest.mark.parametrize("module", inside("domain"))
def test_the_domain_is_pure(module: str) -> None:
    assert foreign(module) - STANDARD == set()
    assert {room_of(name) for name in ours(module)} <= {"domain"}


def test_the_domain_reads_no_clock_and_rolls_no_dice() -> None:
    for module in inside("domain"):
        calls = {ast.unparse(node.func) for node in ast.walk(modules()[module]) if isinstance(node, ast.Call)}
        assert not {call for call in calls if call.endswith((".now", ".utcnow", ".today", "uuid4", "open"))}, module


def test_only_the_door_and_clients_know_the_wire() -> None:
    allowed = {*inside("api", "app", *CLIENT), *CONTRACT, *CALLS}
    assert {module: found for module in modules() if module not in allowed and (found := touches(module, WIRE))} == {}


def test_only_the_store_knows_the_database() -> None:
    strangers = [module for module in modules() if room_of(module) != "store"]
    assert {module: found for module in strangers if (found := touches(module, DATABASE))} == {}
    assert {module for module in modules() if touches(module, {"alembic"})} == MIGRATES


def test_the_batcher_knows_nothing_of_enrollment() -> None:
    assert ours("engine.batcher") == {"domain.errors"}


def test_production_never_comes_to_the_tools_of_a_developer() -> None:
    outside = {path.name for path in PROJECT.iterdir() if (path / "__init__.py").exists()} - {PACKAGE}
    assert {"dev", "tests", "demo", "benchmarks", "faults"} <= outside
    assert {module: found for module in modules() if (found := foreign(module) & outside)} == {}


def test_tests_mirror_the_rooms() -> None:
    folders = {path.name for path in (PROJECT / "tests").iterdir() if (path / "__init__.py").exists()}
    rooms = {room for room in [*ROOMS, *SHARED] if (ROOT / room).is_dir()}
    assert rooms <= folders
