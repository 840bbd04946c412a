"""`make setup` takes the Python that is fastest, and knows it by how it was built."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dev.interpreter import is_optimized
from tests.support.processes import PROJECT

PLAIN = {"PGO_PROF_GEN_FLAG": "-fprofile-generate", "PGO_PROF_USE_FLAG": "-fprofile-use -fprofile-correction"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (PLAIN | {"CONFIG_ARGS": "'--prefix=/opt/python' '--enable-shared'"}, False),
        (PLAIN | {"CONFIG_ARGS": "'--enable-optimizations' '--with-lto'"}, True),
        (PLAIN | {"CONFIG_ARGS": "'--with-lto=full'"}, True),
        (PLAIN | {"CONFIG_ARGS": "'--enable-shared'", "PGO_PROF_USE_FLAG": ""}, True),  # as Debian leaves it
        ({"CONFIG_ARGS": ""}, False),
        ({"CONFIG_ARGS": None}, False),
    ],
)
def test_is_optimized(variables: dict[str, str | None], expected: bool) -> None:
    assert is_optimized(variables) is expected


def python(folder: Path, name: str, *, optimized: bool = False, recent: bool = True) -> str:
    """Something that `make setup` takes for a Python, until it is told to make the environment."""
    program = folder / name
    program.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f"-c) exit {0 if recent else 1};;\n"
        f"dev/interpreter.py) exit {0 if optimized else 1};;\n"
        "esac\n"
        "exit 7\n"
    )
    program.chmod(0o755)
    return str(program)


def taken(folder: Path, *arguments: str) -> str:
    """The Python that `make setup` decides for."""
    command = ["make", "setup", f"VENV={folder / 'venv'}", *arguments]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=30, check=False)
    lines = [line for line in ran.stdout.splitlines() if line.startswith("Creating")]
    return lines[0].rpartition(" ")[2] if lines else ran.stderr


def test_an_optimized_python_goes_before_a_newer_one(tmp_path: Path) -> None:
    known = [
        python(tmp_path, "too-old", optimized=True, recent=False),
        python(tmp_path, "plain"),
        python(tmp_path, "fast", optimized=True),
        python(tmp_path, "fast-too", optimized=True),
    ]
    assert taken(tmp_path, f"PYTHONS={' '.join(known)}") == known[2]


def test_without_an_optimized_python_the_first_is_taken(tmp_path: Path) -> None:
    known = [str(tmp_path / "missing"), python(tmp_path, "first"), python(tmp_path, "second")]
    assert taken(tmp_path, f"PYTHONS={' '.join(known)}") == known[1]


def test_a_python_that_is_named_is_taken(tmp_path: Path) -> None:
    plain, fast = python(tmp_path, "plain"), python(tmp_path, "fast", optimized=True)
    assert taken(tmp_path, f"PYTHONS={fast}", f"PYTHON={plain}") == plain


def test_without_a_python_it_says_what_is_needed(tmp_path: Path) -> None:
    assert "Needed: Python 3.11 or later" in taken(tmp_path, f"PYTHONS={python(tmp_path, 'old', recent=False)}")
