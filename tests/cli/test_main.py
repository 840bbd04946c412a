"""The command line as a whole."""

from __future__ import annotations

from tests.support.processes import run

HEAVY = {"grpc", "sqlalchemy", "asyncpg", "alembic", "uvloop"}


def loaded_by(*arguments: str) -> set[str]:
    """Which heavy packages are in memory after a command."""
    code = (
        "import sys; from enrollment_service.cli.main import cli\n"
        f"try: cli({list(arguments)!r})\n"
        f"finally: print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    return set(run("-c", code).stderr.splitlines()[-1].split())


def test_a_command_loads_only_what_it_works_with() -> None:
    """A container's health check starts a process every few seconds."""
    assert loaded_by("--help") == set()
    assert loaded_by("health", "--timeout", "0.1") == {"grpc"}
