"""What it costs that a thousand watch: writes with and without them, how old events are when they arrive, memory.

Slices come in turn on the same server, so that the machine's noise is in both; a ratio is that of one pair of slices.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

from benchmarks import contestants, history
from benchmarks.bench import Bench
from benchmarks.contestants import PROJECT, ContestantError
from benchmarks.scale import Scale
from benchmarks.watchers import CONNECTIONS, WATCHERS

MEASURES = "watch_writes", "watch_delivery_p99_ms", "watch_bytes_per_watcher"
_SLICES = 3  # of each kind in a round
_SETTLE = 0.5  # seconds; whoever has caught up joins the poller within a tenth of one
_STREAMS = 2 * WATCHERS // CONNECTIONS
_SERVICE = replace(
    contestants.SERVICE,
    name="service_watched",
    environment={**contestants.SERVICE.environment, "ENROLLMENT_MAX_STREAMS": f"{_STREAMS}"},
)


class Crowd:
    """The process of the watchers, and its orders; see watchers.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, order: str) -> dict[str, float]:
        """Give an order, and wait until it is done."""
        if self._process.stdin is None or self._process.stdout is None or self._process.poll() is not None:
            raise ContestantError("the watchers have ended")
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise ContestantError(f"the watchers have ended: {order}")
        report: dict[str, float] = json.loads(line)
        return report


def watched(bench: Bench, url: str) -> None:
    """EnrollStudent a second with a thousand watchers over that without, delivery, and memory a watcher."""
    with (
        bench.measuring(*MEASURES),
        bench.running(_SERVICE, url) as server,
        # What reading a history takes once is not the watchers' doing, and theirs begin behind it.
        crowd(server.address, bench.scale, history.read_all(server.address).resume_token) as order,
    ):
        ratios, delivery = [], []
        # Once before anything counts, so that every cache is filled.
        _rate(bench, server.address)
        before = server.memory_mb()
        order("open")
        bench.note("watch_bytes_per_watcher", (server.memory_mb() - before) * 1e6 / WATCHERS)
        _rate(bench, server.address)
        order("close")
        for _ in range(_SLICES):
            without = _rate(bench, server.address)
            order("open")
            time.sleep(_SETTLE)
            order("record")
            ratios.append(_rate(bench, server.address) / without)
            report = order("report")
            if not report["events"]:
                raise ContestantError("nothing was delivered to the watchers")
            delivery.append(report["p99_ms"])
            order("close")
        bench.note("watch_writes", median(ratios))
        bench.note("watch_delivery_p99_ms", median(delivery))


def _rate(bench: Bench, address: str) -> float:
    return bench.generator.drive(address, "enroll", bench.scale, seconds=bench.scale.short_seconds).rate


@contextmanager
def crowd(address: str, scale: Scale, token: str) -> Iterator[Crowd]:
    """The process of the watchers, which ends with the block; those of all events begin at a token."""
    command = [sys.executable, "-m", "benchmarks.watchers", address, f"{scale.students}", f"{scale.courses}", token]
    process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield Crowd(process)
        finally:
            process.kill()
