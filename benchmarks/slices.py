"""Everybody in turn: all servers are up, and each works for half a second at a time.

What slows the machine for a while then slows all of them, and a ratio is that of two slices of one cycle. The order
rotates. Servers that wait for their turn take next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from statistics import median

from benchmarks import contestants
from benchmarks.bench import FAILURES, Bench
from benchmarks.contestants import Contestant, ContestantError, Running
from benchmarks.generator import Measured
from benchmarks.machine import cpu_seconds
from benchmarks.pgbench import Pgbench

_OURS, _TWO = contestants.SERVICE.name, contestants.SERVICE_2_WORKERS.name
_GO = ("go", "go_batching")
# Whose turn it is in each group of measures.
_TURNS = {
    "list": (_OURS, "echo", *_GO, "asyncpg", "fastapi", _TWO),
    "enroll": (_OURS, "echo", *_GO, "asyncpg", "fastapi", _TWO, "pgbench"),
    "explain": (_OURS,),
    "hot": (_OURS, *_GO, _TWO, "pgbench"),
    "lone_p50_us": (_OURS, "go", "bare"),
    "four_in_flight": (_OURS, "go", "bare"),
}
# Which mode of the generator a server speaks, where it is not our API.
_PREFIXES = {"echo": "echo-", "fastapi": "rest-"}
# Two workers get more connections: the kernel deals connections out to processes, and not evenly.
_CONNECTIONS, _CONNECTIONS_OF_MANY = 8, 16


def in_turn(bench: Bench, url: str) -> None:
    """Run the cycles of a round."""
    with ExitStack() as stack:
        servers = _start(bench, url, stack)
        turns = _Turns(bench, url, servers)
        for cycle in range(bench.scale.cycles):
            for group, names in _TURNS.items():
                first = cycle * 2 % len(names)
                with bench.phase(group):
                    turns.take(group, [*names[first:], *names[:first]])
        bench.show((f"{group}.{name}" for group, names in _TURNS.items() for name in names), latest=bench.scale.cycles)
        _half_load(bench, servers)


def _start(bench: Bench, url: str, stack: ExitStack) -> dict[str, Running]:
    """All servers, ours first, while nothing else runs."""
    servers: dict[str, Running] = {}
    with bench.measuring("startup_s", "memory_mb"):
        server = servers[_OURS] = stack.enter_context(bench.running(contestants.SERVICE, url))
        bench.note("startup_s", server.startup_s)
        bench.note("memory_mb", server.memory_mb())
    for contestant in _others(bench):
        try:
            servers[contestant.name] = stack.enter_context(bench.running(contestant, url))
            if contestant is contestants.SERVICE_2_WORKERS:
                servers[contestant.name].require_workers(2)
        except FAILURES as error:
            bench.complain(f"{contestant.name}: {error}")
    return servers


def _others(bench: Bench) -> Iterator[Contestant]:
    yield from (contestants.SERVICE_2_WORKERS, contestants.ECHO, contestants.ASYNCPG, contestants.BARE)
    yield contestants.FASTAPI
    if bench.go_program:
        yield from contestants.go_peers(bench.go_program)


class _Turns:
    """One turn of somebody in one group of measures."""

    def __init__(self, bench: Bench, url: str, servers: dict[str, Running]) -> None:
        self._bench = bench
        self._servers = servers
        self._pgbench = Pgbench(bench.database, url, bench.scale, bench.generator)

    def take(self, group: str, names: Sequence[str]) -> None:
        """Let each of them work for a slice."""
        for name in names:
            measure = f"{group}.{name}"
            with self._bench.measuring(measure):
                self._bench.keep(measure, self._pgbench_turn(group) if name == "pgbench" else self._turn(group, name))

    def _pgbench_turn(self, group: str) -> float:
        return self._pgbench.hot() if group == "hot" else self._pgbench.random()

    def _turn(self, group: str, name: str) -> float:
        server = self._servers.get(name)
        if server is None:
            raise ContestantError(f"{name} is not up")
        if group == "lone_p50_us":
            return self._drive(server, name, "enroll", in_flight=1).p50_us
        if group == "four_in_flight":
            return self._drive(server, name, "enroll", in_flight=4).rate
        work = self._hot if group == "hot" else self._random
        return self._costing(group, name, server, lambda: work(server, name, group)).rate

    def _random(self, server: Running, name: str, call: str) -> Measured:
        return self._drive(server, name, call, connections=_CONNECTIONS_OF_MANY if name == _TWO else _CONNECTIONS)

    def _hot(self, server: Running, name: str, _: str) -> Measured:
        """Everybody wants one course. Only granted seats count, and as many must be taken in the database."""
        course = self._bench.generator.next_hot_course(self._bench.scale)
        hot = self._drive(server, name, "enroll", hot_course=course, connections=_CONNECTIONS_OF_MANY)
        taken = self._bench.database.seats_taken("work", course)
        if taken != hot.granted:
            raise ContestantError(f"{hot.granted} seats were granted, {taken} are taken")
        return hot

    def _drive(
        self, server: Running, name: str, call: str, *, in_flight: int = 64, connections: int = 8, hot_course: int = 0
    ) -> Measured:
        return self._bench.generator.slice(
            server.address,
            _PREFIXES.get(name, "") + call,
            self._bench.scale,
            in_flight=in_flight,
            connections=connections,
            hot_course=hot_course,
        )

    def _costing(self, group: str, name: str, server: Running, work: Callable[[], Measured]) -> Measured:
        """Record the CPU of the server and of PostgreSQL for each answer, in microseconds."""
        postmaster = self._bench.database.postmaster()
        before, database_before = cpu_seconds([server.process.pid]), cpu_seconds([postmaster] if postmaster else [])
        measured = work()
        own = cpu_seconds([server.process.pid]) - before
        self._bench.keep(f"cpu_us.{group}.{name}", own / measured.granted * 1e6)
        if postmaster:
            database = cpu_seconds([postmaster]) - database_before
            self._bench.keep(f"postgresql_us.{group}.{name}", database / measured.granted * 1e6)
        return measured


def _half_load(bench: Bench, servers: dict[str, Running]) -> None:
    """Calls arrive at random moments, half as many as the server managed just now."""
    with bench.phase("half_load"), bench.measuring("p99_at_half_load_ms"):
        best = [rate for rate in bench.samples[f"enroll.{_OURS}"][-bench.scale.cycles :] if rate]
        if _OURS not in servers or not best:
            raise ContestantError(f"{_OURS} is not up")
        half = bench.generator.drive(servers[_OURS].address, "enroll", bench.scale, rate=median(best) / 2)
        bench.note("p99_at_half_load_ms", half.p99_us / 1000)
