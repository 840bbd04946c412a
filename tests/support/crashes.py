"""A PostgreSQL that keeps what it has committed, and is killed in the middle of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from dev.postgres import EmbeddedPostgres
from tests.support.databases import PATIENCE, destroyed, kill, temporary_folder
from tests.support.locks import until
from tests.support.processes import lasting_port


@contextmanager
def durable() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the test's own that flushes what it commits, to be killed."""
    with temporary_folder() as folder, destroyed(EmbeddedPostgres(folder / "postgres")) as postgres:
        # While it is away, a caller's connection must not take its port.
        home = folder / "postgres"
        home.mkdir()
        (home / "port").write_text(f"{lasting_port()}\n")
        postgres.ensure_running()
        yield postgres


async def killed(postgres: EmbeddedPostgres) -> None:
    """Kills it, and returns when nothing of it is left but its files."""
    pid = postgres.postmaster_pid()
    assert pid is not None
    children = psutil.Process(pid).children(recursive=True)
    kill(postgres)
    await until(lambda: postgres.postmaster_pid() is None)
    # They end by themselves; until then another server could not have the place.
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=PATIENCE)
    assert alive == []
