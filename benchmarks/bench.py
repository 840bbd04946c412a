"""One run of the benchmark: what it measures with, the figures so far, and what went wrong on the way."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil
from rich.console import Console
from rich.markup import escape

from benchmarks.contestants import Contestant, ContestantError, Running, running
from benchmarks.database import Database
from benchmarks.generator import Generator
from benchmarks.scale import Scale

_FAILURES = (
    ContestantError,
    OSError,
    subprocess.SubprocessError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    psutil.Error,
)

Samples = dict[str, list[float | None]]


@dataclass
class Bench:
    """Shared by all measures. `samples` holds for each measure one value a round, None where it failed."""

    scale: Scale
    database: Database
    generator: Generator
    logs: Path
    console: Console
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

    def complain(self, text: str) -> None:
        """Say that something cannot be counted, now and once more at the end."""
        if text not in self.complaints:
            self.complaints.append(text)
        self.console.print(f"  [red]{escape(text)}[/red]")

    def running(self, contestant: Contestant, url: str) -> AbstractContextManager[Running]:
        """Start a contestant for its turn."""
        return running(contestant, url, self.logs)

    @contextmanager
    def measuring(self, *measures: str) -> Iterator[None]:
        """Let a failure inside cost only those of the measures that are not noted yet: they get None."""
        before = {measure: len(self.samples[measure]) for measure in measures}
        try:
            yield
        except _FAILURES as error:
            self.complain(f"{', '.join(m for m in measures if len(self.samples[m]) == before[m])}: {error}")
        for measure, count in before.items():
            if len(self.samples[measure]) == count:
                self.note(measure, None)

    def check_books(self, name: str) -> None:
        """Speed that loses count is worth nothing: counts, rows and events of a database must agree."""
        if wrong := self.database.courses_out_of_balance(name):
            self.complain(f"{wrong} courses have counts that their rows and events do not bear out")
