"""Several server processes on one port: starts them, replaces one that dies, stops them together.

The kernel spreads connections over processes that share a port. This process only watches: it never starts gRPC,
which must not be running where processes are started from, and never listens itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog

from enrollment_service.cli.endings import UNUSABLE
from enrollment_service.settings import Settings

if TYPE_CHECKING:
    from enrollment_service.telemetry.shared import SharedMetrics

log = structlog.get_logger()

# A worker that dies sooner than this is started again only after a pause, doubled each time.
SOON = 5.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


@contextlib.contextmanager
def reserved(listen: str) -> Iterator[str]:
    """Keeps the port for our workers while the block runs; yields the address with the port filled in.

    Raises:
        OSError: another program serves on the address.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without sharing: fails where anybody else is, even a server that would share.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(port)))
        number = probe.getsockname()[1]
    with socket.socket(family, socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, number))
        yield f"{listen.rpartition(':')[0]}:{number}"


async def supervise(settings: Settings, metrics: SharedMetrics | None) -> int:
    """Runs the workers until SIGTERM or SIGINT; returns the exit status.

    A second signal changes nothing: the workers' drain is never cut short.

    Args:
        settings: where and how the workers serve.
        metrics: what they share, if anybody wants to see it.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Whoever started us may have held them back until now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    with reserved(settings.listen) as listen:
        log.info("starting workers", listen=listen, workers=settings.workers)
        keepers = [asyncio.create_task(_keep_alive(listen, index, stop, metrics)) for index in range(settings.workers)]
        statuses = await asyncio.gather(*keepers)
    log.info("workers stopped")
    return max(statuses)


async def _keep_alive(listen: str, index: int, stop: asyncio.Event, metrics: SharedMetrics | None) -> int:
    """One worker and its successors, until all are told to stop."""
    pause = FIRST_PAUSE
    while True:
        started = time.monotonic()
        status = await _run_worker(listen, index, stop, metrics)
        if metrics is not None:
            metrics.ended(index, died=not stop.is_set())
        if stop.is_set():
            # One that was told before it could listen for the signal died of it: it had nothing to lose yet.
            return 0 if status == -signal.SIGTERM else status
        if status == UNUSABLE:
            stop.set()
            return status
        log.warning("worker died", worker=index, status=status)
        pause = FIRST_PAUSE if time.monotonic() - started > SOON else min(pause * 2, LONGEST_PAUSE)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
        if stop.is_set():
            return 0


async def _run_worker(listen: str, index: int, stop: asyncio.Event, metrics: SharedMetrics | None) -> int:
    """One worker from start to end; its standard input ends when this process does, whatever ends it."""
    shared = {} if metrics is None else metrics.starting(index)
    number = [] if metrics is None else [f"--metrics={index}"]
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "enrollment_service",
        "worker",
        *number,
        stdin=asyncio.subprocess.PIPE,
        env={**os.environ, "ENROLLMENT_LISTEN": listen, **shared},
    )
    ended = asyncio.create_task(worker.wait())
    told = asyncio.create_task(stop.wait())
    await asyncio.wait([ended, told], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not ended.done():
        with contextlib.suppress(ProcessLookupError):
            worker.terminate()
    return await ended
