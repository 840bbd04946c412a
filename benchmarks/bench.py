"""One run of the benchmark: what it measures with, the figures so far, and what went wrong on the way."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import asyncpg
import psutil
from rich.console import Console
from rich.markup import escape

from benchmarks.contestants import Contestant, ContestantError, Running, running
from benchmarks.database import Database
from benchmarks.generator import Generator
from benchmarks.machine import Meter
from benchmarks.scale import Scale
from dev.door import DoorError

FAILURES = (
    ContestantError,
    DoorError,
    OSError,
    subprocess.SubprocessError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    psutil.Error,
)

Samples = dict[str, list[float | None]]


@dataclass
class Bench:
    """Shared by all measures. `samples` holds for each measure one value a round or a slice, None where it failed."""

    scale: Scale
    database: Database
    generator: Generator
    logs: Path
    console: Console
    meter: Meter
    go_program: Path | None = None  # None: it could not be built
    samples: Samples = field(default_factory=lambda: defaultdict(list))
    complaints: list[str] = field(default_factory=list)

    def title(self, text: str) -> None:
        """Show what comes next."""
        self.console.print(f"[bold]{text}[/bold]")

    def note(self, measure: str, value: float | None) -> None:
        """Keep one value and show it."""
        self.samples[measure].append(value)
        if value is not None:
            self.console.print(f"  {measure:28} {value:10,.2f}")

    def keep(self, measure: str, value: float | None) -> None:
        """Keep one value of many; see `show`."""
        self.samples[measure].append(value)

    def show(self, measures: Iterable[str], latest: int) -> None:
        """Show the medians of the latest values of measures."""
        for measure in measures:
            known = [value for value in self.samples[measure][-latest:] if value is not None]
            if known:
                self.console.print(f"  {measure:28} {median(known):10,.2f}")

    def complain(self, text: str) -> None:
        """Say that something cannot be counted, now and once more at the end."""
        if text not in self.complaints:
            self.complaints.append(text)
        self.console.print(f"  [red]{escape(text)}[/red]")

    def running(self, contestant: Contestant, url: str) -> AbstractContextManager[Running]:
        """Start a contestant for its turn."""
        return running(contestant, url, self.logs)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Record the CPU that other processes take during a block."""
        return self.meter.phase(name)

    @contextmanager
    def measuring(self, *measures: str) -> Iterator[None]:
        """Let a failure inside cost only those of the measures that are not noted yet: they get None."""
        before = {measure: len(self.samples[measure]) for measure in measures}
        try:
            yield
        except FAILURES as error:
            self.complain(f"{', '.join(m for m in measures if len(self.samples[m]) == before[m])}: {error}")
        for measure, count in before.items():
            if len(self.samples[measure]) == count:
                self.note(measure, None)

    def check_books(self, name: str) -> None:
        """Speed that loses count is worth nothing: counts, rows and events of a database must agree."""
        if wrong := self.database.courses_out_of_balance(name):
            self.complain(f"{wrong} courses have counts that their rows and events do not bear out")
