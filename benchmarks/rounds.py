"""What one round measures. It runs every contestant once on a fresh copy of the data, in an order that rotates."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import auth, contestants, dataset, new_students, pgbench, strain
from benchmarks.bench import Bench
from benchmarks.contestants import ContestantError
from benchmarks.importing import import_rows

# Two workers get more connections: the kernel deals connections out to processes, and not evenly.
_CONNECTIONS_OF_MANY = 16


def run(bench: Bench, number: int) -> None:
    """Run round `number`, from 0."""
    bench.title(f"Round {number + 1} of {bench.scale.rounds}")
    parts = [
        _echo,
        _fastapi,
        _asyncpg,
        _bare,
        _service,
        _service_2_workers,
        _pgbench,
        strain.overload,
        auth.authenticated,
    ]
    turn = number * 2 % len(parts)
    _on_a_copy(bench, *parts[turn:], *parts[:turn])
    loads = (_import, _copy) if number % 2 == 0 else (_copy, _import)
    newcomers = (new_students.by_service, new_students.by_copy)
    for load in (*loads, *(newcomers if number % 2 == 0 else reversed(newcomers))):
        _on_a_copy(bench, load)
    _on_a_copy(bench, strain.isolation)


def list_and_enroll(bench: Bench, address: str, name: str, prefix: str = "") -> None:
    """Measure both calls; the prefix is that of the generator's mode."""
    for call in ("list", "enroll"):
        with bench.measuring(f"{call}.{name}"):
            bench.note(f"{call}.{name}", bench.generator.drive(address, prefix + call, bench.scale).rate)


def _on_a_copy(bench: Bench, *parts: Callable[[Bench, str], None]) -> None:
    url = bench.database.copy("template", "work", bench.scale)
    bench.generator.fresh_database()
    for part in parts:
        part(bench, url)
    bench.check_books("work")


def _echo(bench: Bench, url: str) -> None:
    with bench.measuring("list.echo", "enroll.echo"), bench.running(contestants.ECHO, url) as server:
        list_and_enroll(bench, server.address, "echo", "echo-")


def _fastapi(bench: Bench, url: str) -> None:
    with bench.measuring("list.fastapi", "enroll.fastapi"), bench.running(contestants.FASTAPI, url) as server:
        list_and_enroll(bench, server.address, "fastapi", "rest-")


def _asyncpg(bench: Bench, url: str) -> None:
    with bench.measuring("list.asyncpg", "enroll.asyncpg"), bench.running(contestants.ASYNCPG, url) as server:
        list_and_enroll(bench, server.address, "asyncpg")


def _bare(bench: Bench, url: str) -> None:
    measures = "lone_p50_us.bare", "four_in_flight.bare"
    with bench.measuring(*measures), bench.running(contestants.BARE, url) as server:
        _few_in_flight(bench, server.address, "bare")


def _service(bench: Bench, url: str) -> None:
    measures = ["startup_s", "memory_mb", "list.service", "enroll.service", "lone_p50_us.service"]
    measures += ["four_in_flight.service", "p99_at_half_load_ms", "hot.service"]
    with bench.measuring(*measures), bench.running(contestants.SERVICE, url) as server:
        bench.note("startup_s", server.startup_s)
        bench.note("memory_mb", server.memory_mb())
        list_and_enroll(bench, server.address, "service")
        _few_in_flight(bench, server.address, "service")
        _half_load(bench, server.address)
        _hot(bench, server.address, "service")


def _service_2_workers(bench: Bench, url: str) -> None:
    name = "service_2_workers"
    measures = f"enroll.{name}", f"hot.{name}"
    with bench.measuring(*measures), bench.running(contestants.SERVICE_2_WORKERS, url) as server:
        server.require_workers(2)
        with bench.measuring(f"enroll.{name}"):
            many = bench.generator.drive(server.address, "enroll", bench.scale, connections=_CONNECTIONS_OF_MANY)
            bench.note(f"enroll.{name}", many.rate)
        _hot(bench, server.address, name)


def _few_in_flight(bench: Bench, address: str, name: str) -> None:
    seconds = bench.scale.short_seconds
    with bench.measuring(f"lone_p50_us.{name}"):
        lone = bench.generator.drive(address, "enroll", bench.scale, in_flight=1, seconds=seconds)
        bench.note(f"lone_p50_us.{name}", lone.p50_us)
    with bench.measuring(f"four_in_flight.{name}"):
        four = bench.generator.drive(address, "enroll", bench.scale, in_flight=4, seconds=seconds)
        bench.note(f"four_in_flight.{name}", four.rate)


def _half_load(bench: Bench, address: str) -> None:
    """Calls arrive at random moments, half as many as the server managed just now."""
    with bench.measuring("p99_at_half_load_ms"):
        if full := bench.samples["enroll.service"][-1]:
            half = bench.generator.drive(address, "enroll", bench.scale, rate=full / 2)
            bench.note("p99_at_half_load_ms", half.p99_us / 1000)


def _hot(bench: Bench, address: str, name: str) -> None:
    """Everybody wants one course. Only granted seats count, and as many must be taken in the database."""
    course = bench.generator.next_hot_course(bench.scale)
    with bench.measuring(f"hot.{name}"):
        hot = bench.generator.drive(address, "enroll", bench.scale, hot_course=course, connections=_CONNECTIONS_OF_MANY)
        taken = bench.database.seats_taken("work", course)
        if taken != hot.granted:
            raise ContestantError(f"{hot.granted} seats were granted, {taken} are taken")
        bench.note(f"hot.{name}", hot.rate)


def _pgbench(bench: Bench, url: str) -> None:
    with bench.measuring("enroll.pgbench"):
        bench.note("enroll.pgbench", pgbench.random_courses(bench.database, url, bench.scale))
    with bench.measuring("hot.pgbench"):
        courses = [bench.generator.next_hot_course(bench.scale) for _ in range(pgbench.HOT_TRIALS)]
        bench.note("hot.pgbench", pgbench.hot_course(bench.database, url, bench.scale, courses))


def _import(bench: Bench, url: str) -> None:
    with bench.measuring("import.service"), bench.running(contestants.SERVICE, url) as server:
        bench.note("import.service", import_rows(server.address, dataset.import_pairs(bench.scale)))


def _copy(bench: Bench, url: str) -> None:
    with bench.measuring("import.copy"):
        sequences = bench.database.last_sequences("work")
        pairs = dataset.import_pairs(bench.scale)
        bench.note("import.copy", pgbench.copy_rows(bench.database, url, pairs, sequences))
