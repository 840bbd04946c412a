"""Whether ten times the rows make the service slower: the same calls on the data set and on a larger one, in turns."""

from __future__ import annotations

from benchmarks import contestants
from benchmarks.bench import Bench


def run(bench: Bench) -> None:
    """Load the large data set, then measure both, as often as there are rounds."""
    large = bench.scale.grown()
    bench.title(f"{large.enrollments:,} enrollments (loading them takes a while)")
    with bench.measuring("grown_list.large", "grown_enroll.large", "grown_list.small", "grown_enroll.small"):
        bench.database.load("large", large)
        bench.database.warm("large", large)
        bench.database.copy("template", "work", bench.scale)
        bench.generator.fresh_database()
        for number in range(bench.scale.rounds):
            sizes = [("small", "work", bench.scale), ("large", "large", large)]
            for size, name, scale in sizes if number % 2 == 0 else reversed(sizes):
                with bench.running(contestants.SERVICE, bench.database.url(name)) as server:
                    for call in ("list", "enroll"):
                        with bench.phase("growth"):
                            measured = bench.generator.drive(server.address, call, scale)
                        bench.note(f"grown_{call}.{size}", measured.rate)
        bench.check_books("large")
