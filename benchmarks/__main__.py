"""`python -m benchmarks`: start everything, measure everything in one run, print the tables, write build/bench.*."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks import chart, growth, machine, report, rounds, scale, toolchain
from benchmarks.bench import Bench
from benchmarks.database import Database
from benchmarks.generator import Generator
from benchmarks.machine import Meter
from dev.golang import BuildError

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
    interpreter = machine.interpreter()
    console.print(machine.name(), machine.describe(interpreter), sep="\n", markup=False, highlight=False)
    try:
        generator = Generator(toolchain.build_generator(logs / "load"))
    except BuildError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    with Database(logs / "postgres") as database:
        settings = database.settings()
        console.print(settings)
        bench = Bench(chosen, database, generator, logs, console, Meter(database.postmaster))
        _build_peer(bench)
        bench.title(f"Loading {chosen.students:,} students and {chosen.enrollments:,} enrollments")
        database.load("template", chosen)
        try:
            for number in range(chosen.rounds):
                rounds.run(bench, number)
            if chosen.growth_factor:
                growth.run(bench)
        except KeyboardInterrupt:
            bench.complain("interrupted: what follows is from the rounds so far")
        minutes = (time.monotonic() - began) / 60
        taken, disturbed = bench.meter.taken(), bench.meter.disturbed()
        found = machine.name(), interpreter, settings, asdict(chosen), taken, disturbed, minutes
        _finish(bench, report.Circumstances(*found))
    console.print(f"{minutes:.1f} minutes")
    return 1 if bench.complaints else 0


def _build_peer(bench: Bench) -> None:
    bench.title("Building the Go peer")
    try:
        bench.go_program = toolchain.build_peer(bench.logs / "go")
    except BuildError as error:
        bench.complain(str(error))


def _finish(bench: Bench, circumstances: report.Circumstances) -> None:
    report.write(_BUILD, bench.samples, circumstances)
    (_BUILD / "bench.svg").write_text(chart.svg(report.figures(bench.samples)))
    bench.console.print(report.medians_table(bench.samples))
    bench.console.print(report.targets_table(bench.samples))
    if shares := bench.generator.cpu_share:
        bench.console.print(f"The load generator took {max(shares):.0%} of one core at the most.")
    _say_who_disturbed(bench, circumstances)
    for text in bench.complaints:
        bench.console.print(f"Not counted: {text}", style="red", markup=False)
    bench.console.print(f"Written: {_BUILD / 'bench.json'}, bench.svg, bench-rounds.json; logs in {bench.logs}")


def _say_who_disturbed(bench: Bench, circumstances: report.Circumstances) -> None:
    if bench.database.postmaster() is None:
        bench.console.print("PostgreSQL is not ours, so its CPU counts as that of other processes.")
    shares = ", ".join(f"{phase} {cores:.2f}" for phase, cores in circumstances.others.items())
    bench.console.print(f"Cores that other processes took: {shares}", highlight=False)
    if circumstances.disturbed:
        bench.console.print(f"Disturbed: {', '.join(circumstances.disturbed)}", style="yellow")


def _allow_open_files() -> None:
    """Room for the connections of clients and servers where the usual limit is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _OPEN_FILES:
        wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
