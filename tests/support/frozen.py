"""A PostgreSQL that stands still: its processes are stopped, its connections stay open, and nothing is answered."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil


@contextmanager
def frozen(postmaster: int) -> Iterator[None]:
    """All processes of a server of ours stand still for as long as the block lasts; the postmaster is named by pid."""
    server = psutil.Process(postmaster)
    stopped: list[psutil.Process] = []
    try:
        # The postmaster first: then no others can be added.
        _send(server, signal.SIGSTOP)
        stopped.append(server)
        for process in server.children(recursive=True):
            _send(process, signal.SIGSTOP)
            stopped.append(process)
        yield
    finally:
        for process in reversed(stopped):
            _send(process, signal.SIGCONT)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
