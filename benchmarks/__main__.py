"""`python -m benchmarks`: start everything, measure everything in one run, print the tables, write build/bench.*."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks import chart, generator, growth, report, rounds, scale
from benchmarks.bench import Bench
from benchmarks.database import Database

_BUILD = Path("build")
_OPEN_FILES = 4096


def main() -> int:
    """Run the benchmark; 1 if anything could not be measured or did not add up."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    began = time.monotonic()
    chosen = scale.from_environment()
    logs = _BUILD / "bench"
    logs.mkdir(parents=True, exist_ok=True)
    _allow_open_files()
    try:
        program = generator.build(logs / "load")
    except generator.GeneratorError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    with Database(logs / "postgres") as database:
        settings = database.settings()
        console.print(settings)
        bench = Bench(chosen, database, generator.Generator(program), logs, console)
        bench.title(f"Loading {chosen.students:,} students and {chosen.enrollments:,} enrollments")
        database.load("template", chosen)
        try:
            for number in range(chosen.rounds):
                rounds.run(bench, number)
            if chosen.growth_factor:
                growth.run(bench)
        except KeyboardInterrupt:
            bench.complain("interrupted: what follows is from the rounds so far")
        _finish(bench, settings)
    console.print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 1 if bench.complaints else 0


def _finish(bench: Bench, settings: str) -> None:
    report.write(_BUILD, bench.samples, bench.scale, settings)
    (_BUILD / "bench.svg").write_text(chart.svg(report.figures(bench.samples)))
    bench.console.print(report.medians_table(bench.samples))
    bench.console.print(report.targets_table(bench.samples))
    if shares := bench.generator.cpu_share:
        bench.console.print(f"The load generator took {max(shares):.0%} of one core at the most.")
    for text in bench.complaints:
        bench.console.print(f"Not counted: {text}", style="red", markup=False)
    bench.console.print(f"Written: {_BUILD / 'bench.json'}, bench.svg, bench-rounds.json; logs in {bench.logs}")


def _allow_open_files() -> None:
    """Room for the connections of clients and servers where the usual limit is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _OPEN_FILES:
        wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
