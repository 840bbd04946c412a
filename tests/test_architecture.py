"""Imports run one way: who may know whom, read from the source with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "enrollment_service"
ROOT = Path(__file__).parents[1] / PACKAGE

# From the top to the bottom of the house: nothing may reach upwards, not even through others.
FLOORS = [
    {"__main__"},
    {"server"},
    {"servicer", "calls"},
    {"validate", "convert", "importing"},
    {"writer", "reader", "catalog", "housekeeping"},
    {"batch", "loading"},
    {"rules", "footprint", "batching", "outcomes", "store"},
    {"commands", "state"},
    {"domain", "errors"},
]
# Decisions and plain data: no I/O, no framework.
PURE = ["rules", "state", "footprint", "batching", "commands", "domain", "errors"]
HARMLESS = {
    *("__future__", "collections", "contextlib", "dataclasses", "datetime", "enum", "functools", "hashlib"),
    *("heapq", "itertools", "operator", "typing", "uuid"),
}
WIRE = {"grpc", "grpc_health", "grpc_reflection", "google", f"{PACKAGE}.v1"}
DATABASE = {"sqlalchemy", "asyncpg", "alembic"}


@cache
def modules() -> dict[str, ast.Module]:
    """The source of every module of ours, by its name within the package."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] != "v1":
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


def ours(module: str) -> set[str]:
    """The modules of ours that a module imports."""
    return {
        name.removeprefix(f"{PACKAGE}.") for name in imports(module) if name.removeprefix(f"{PACKAGE}.") in modules()
    }


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


def on_floor(names: set[str]) -> Iterator[str]:
    return (module for module in modules() if module.split(".")[0] in names)


def test_the_floors_name_modules_that_exist() -> None:
    assert {name for floor in FLOORS for name in floor} | set(PURE) <= {name.split(".")[0] for name in modules()}


@pytest.mark.parametrize("height", range(1, len(FLOORS)))
def test_nothing_reaches_upwards(height: int) -> None:
    above = {module for floor in FLOORS[:height] for module in on_floor(floor)}
    assert {module: reachable(module) & above for module in on_floor(FLOORS[height]) if reachable(module) & above} == {}


def test_no_module_reaches_itself() -> None:
    assert {module for module in modules() if module in reachable(module)} == set()


@pytest.mark.parametrize("module", PURE)
def test_decisions_do_no_input_or_output(module: str) -> None:
    allowed = HARMLESS | ({"asyncio"} if module == "batching" else set())
    assert foreign(module) - allowed == set()
    assert ours(module) <= set(PURE)


def test_errors_know_nothing_of_ours() -> None:
    assert ours("errors") == set()


def test_the_batcher_knows_nothing_of_enrollment() -> None:
    assert ours("batching") == {"errors"}


def test_the_store_knows_nothing_of_the_wire() -> None:
    for module in on_floor({"store"}):
        assert touches(module, WIRE) == set(), module
        assert not any(touches(reached, WIRE) for reached in reachable(module)), module


@pytest.mark.parametrize(
    "module", ["servicer", "validate", "convert", "calls", "importing", "status", "tokens", "batch", "outcomes"]
)
def test_only_the_store_and_its_owners_know_sqlalchemy_statements(module: str) -> None:
    statements = touches(module, DATABASE) - touches(module, {"sqlalchemy.sql.expression"})
    assert statements == set()


def test_the_rules_read_no_clock_and_roll_no_dice() -> None:
    for module in ("rules", "state"):
        names = {node.attr for node in ast.walk(modules()[module]) if isinstance(node, ast.Attribute)}
        assert names & {"now", "utcnow", "today", "time", "monotonic", "random", "uuid4"} <= {"now"}, module
        calls = {ast.unparse(node.func) for node in ast.walk(modules()[module]) if isinstance(node, ast.Call)}
        assert not {call for call in calls if call.endswith((".now", ".utcnow", ".today", "uuid4"))}, module
