"""What one round measures, each part on a fresh copy of the data where it would be in another's way."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import auth, contestants, dataset, history, new_students, pgbench, slices, strain, watch
from benchmarks.bench import Bench
from benchmarks.importing import import_rows


def run(bench: Bench, number: int) -> None:
    """Run round `number`, from 0."""
    bench.title(f"Round {number + 1} of {bench.scale.rounds}")
    _on_a_copy(bench, slices.in_turn, strain.overload, strain.overload_at_the_edge, auth.authenticated)
    loads = (_import, _copy) if number % 2 == 0 else (_copy, _import)
    newcomers = (new_students.by_service, new_students.by_copy)
    for load in (*loads, *(newcomers if number % 2 == 0 else reversed(newcomers))):
        _on_a_copy(bench, load)
    _on_a_copy(bench, strain.isolation)
    _on_a_copy(bench, history.read, watch.watched)


def _on_a_copy(bench: Bench, *parts: Callable[[Bench, str], None]) -> None:
    url = bench.database.copy("template", "work", bench.scale)
    bench.generator.fresh_database()
    for part in parts:
        part(bench, url)
    bench.check_books("work")


def _import(bench: Bench, url: str) -> None:
    with bench.measuring("import.service"), bench.running(contestants.SERVICE, url) as server:
        pairs = dataset.import_pairs(bench.scale)
        with bench.phase("import"):
            bench.note("import.service", import_rows(server.address, pairs))


def _copy(bench: Bench, url: str) -> None:
    with bench.measuring("import.copy"):
        sequences = bench.database.last_sequences("work")
        pairs = dataset.import_pairs(bench.scale)
        with bench.phase("import"):
            bench.note("import.copy", pgbench.copy_rows(bench.database, url, pairs, sequences))
