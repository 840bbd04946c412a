"""What the benchmark runs on: the machine, the interpreter, and the CPU that other processes take meanwhile.

Whoever works beside the benchmark slows all that is measured, and the slowest calls most of all. So it is recorded for
each phase how many cores others took, and a phase that was disturbed is marked.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dev.interpreter import optimized

# Cores. Below it, the slowest calls of a phase have not been seen to suffer.
DISTURBED = 0.2
_GIB = 2**30


def name() -> str:
    """The machine, in a line."""
    memory = psutil.virtual_memory().total / _GIB
    return f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def interpreter() -> dict[str, str | bool]:
    """The Python that runs the service and its peers."""
    version = f"{platform.python_implementation()} {platform.python_version()}"
    return {"version": version, "optimized": optimized()}


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_seconds(pids: Iterable[int]) -> float:
    """The CPU that processes, all below them and all of theirs that have ended have taken so far."""
    total = 0.0
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):
                    total += sum(one.cpu_times()[:4])  # of its own and of its children that have ended
    return total


def _busy_seconds() -> float:
    """The CPU that anybody has taken, the hosts of a virtual machine included."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


@dataclass
class Meter:
    """The cores that others took, by phase. `database` says which process PostgreSQL is; None if it runs elsewhere."""

    database: Callable[[], int | None]
    _others: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record a block as part of a phase."""
        began, busy, own = time.monotonic(), _busy_seconds(), self._own()
        try:
            yield
        finally:
            others = _busy_seconds() - busy - (self._own() - own)
            self._others[name] += max(others, 0.0)
            self._seconds[name] += time.monotonic() - began

    def taken(self) -> dict[str, float]:
        """Cores that others took, on average over each phase."""
        return {name: self._others[name] / seconds for name, seconds in self._seconds.items() if seconds > 0}

    def disturbed(self) -> list[str]:
        """The phases in which others took so much that the figures may suffer."""
        return [name for name, cores in self.taken().items() if cores > DISTURBED]

    def _own(self) -> float:
        postmaster = self.database()
        return cpu_seconds([os.getpid(), *([postmaster] if postmaster else [])])


def describe(found: dict[str, str | bool]) -> str:
    """The interpreter in a line, with a warning where figures would be too low."""
    built = "optimized" if found["optimized"] else "built WITHOUT optimization: everything in Python is slower"
    return f"{found['version']} ({sys.executable}), {built}"
