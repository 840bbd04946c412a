"""SECURITY.md: every threat names its test, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache

from tests.docs.documents import PROJECT, read, rows, section

PAGE = "SECURITY.md"


@cache
def names_in(path: str) -> set[str]:
    """The names of the tests in a file."""
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return {node.name for node in functions if node.name.startswith("test_")}


def tables() -> list[str]:
    """The tables of threats."""
    return re.findall(r"\| What they try \|.*\n(?:\|.*\n)+", read(PAGE))


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", read(PAGE))
    assert len(named) > 40
    assert [f"{path}::{name}" for path, name in named if name not in names_in(path)] == []
    assert len(re.findall("::test_", read(PAGE))) == len(named)


def test_every_line_of_the_promise_names_tests_that_exist() -> None:
    promise = section("docs/operating.md", "What is promised")
    lines = re.split(r"^- \*\*", promise, flags=re.MULTILINE)[1:]
    assert len(lines) == 8
    for line in lines:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)
        assert named, line
        assert [name for path, name in named if name not in names_in(path)] == []


def test_every_threat_names_a_test() -> None:
    threats = [row for table in tables() for row in rows(table)]
    assert len(threats) > 40
    assert [row[0] for row in threats if not re.fullmatch(r"(`tests/[\w/]+\.py::\w+`(, )?)+", row[2])] == []


def test_whoever_may_attack_has_a_section() -> None:
    attackers = re.findall(r"^## (.*)$", read(PAGE), re.MULTILINE)[2:-1]
    assert len(attackers) == 7
    for attacker in attackers:
        section = read(PAGE).split(f"## {attacker}\n")[1].split("\n## ")[0]
        assert "| What they try |" in section, attacker
