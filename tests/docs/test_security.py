"""SECURITY.md: every threat names its test, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache

from tests.docs.documents import PROJECT, read, rows

PAGE = "SECURITY.md"
# Stands before a table of threats that authentication will meet, whose tests come with it.
TO_COME = "<!-- auth -->"


@cache
def names_in(path: str) -> set[str]:
    """The names of the tests in a file."""
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return {node.name for node in functions if node.name.startswith("test_")}


def tables() -> list[tuple[bool, str]]:
    """The tables of threats, each with whether its tests are still to come."""
    found = re.findall(rf"({TO_COME}\n\n)?(\| What they try \|.*\n(?:\|.*\n)+)", read(PAGE))
    return [(bool(marker), table) for marker, table in found]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", read(PAGE))
    assert len(named) > 30
    assert [f"{path}::{name}" for path, name in named if name not in names_in(path)] == []
    assert len(re.findall("::test_", read(PAGE))) == len(named)


def test_every_threat_names_a_test() -> None:
    threats = [row for to_come, table in tables() if not to_come for row in rows(table)]
    assert len(threats) > 30
    assert [row[0] for row in threats if not re.fullmatch(r"(`tests/[\w/]+\.py::\w+`(, )?)+", row[2])] == []


def test_what_is_to_come_names_none() -> None:
    assert read(PAGE).count(TO_COME) == sum(to_come for to_come, _ in tables())
    assert [row for to_come, table in tables() if to_come for row in rows(table) if row[2]] == []


def test_whoever_may_attack_has_a_section() -> None:
    attackers = re.findall(r"^## (.*)$", read(PAGE), re.MULTILINE)[2:-1]
    assert len(attackers) == 7
    for attacker in attackers:
        section = read(PAGE).split(f"## {attacker}\n")[1].split("\n## ")[0]
        assert "| What they try |" in section, attacker
