"""What is left of the speed while something goes wrong: too many calls, a row that somebody holds, a large import.

Usual and strained slices come in turn on the same server, so that the machine's noise is in both.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median

import asyncpg
import grpc

from benchmarks import contestants, dataset
from benchmarks.bench import Bench
from benchmarks.contestants import ContestantError
from benchmarks.importing import import_rows
from dev.door import running_envoy
from enrollment_service.cli.pace import Pace
from enrollment_service.v1.enrollment_pb2 import EnrollStudentRequest
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceStub

_TIMES = 3  # what is offered over what it can do
_TIMES_AT_THE_EDGE = 3, 10
_REPLICAS = 3
_SLICES = 2  # of each kind in a round
_IN_FLIGHT = 16
_WAITERS = 8
_FLOOR_MS = 50.0
_PIECE = 10_000
_PATIENCE = 30.0


def overload(bench: Bench, url: str) -> None:
    """Three times as many calls as it can do: what is answered in time, and the speed right after it."""
    measures = [f"x3.{call}" for call in ("list", "enroll")] + [f"x3_after.{call}" for call in ("list", "enroll")]
    with bench.measuring(*measures), bench.running(contestants.SERVICE, url) as server, bench.phase("overload"):
        for call in ("list", "enroll"):
            best, within, after = [], [], []
            for _ in range(_SLICES):
                best.append(_rate(bench, server.address, call))
                offered = _TIMES * best[-1]
                within.append(bench.generator.overload(server.address, call, bench.scale, offered) / best[-1])
                after.append(_rate(bench, server.address, call) / best[-1])
            bench.note(f"x3.{call}", median(within))
            bench.note(f"x3_after.{call}", median(after))


def overload_at_the_edge(bench: Bench, url: str) -> None:
    """Three and ten times as many calls as servers behind the door can do: what is answered in time, over their best.

    Each time with servers of its own: what is left over from the time before would be in the way of the best.
    """
    for call in ("list", "enroll"):
        measures = {times: f"x{times}_edge.{call}" for times in _TIMES_AT_THE_EDGE}
        with bench.measuring(*measures.values()):
            within: dict[int, list[float]] = {times: [] for times in measures}
            for _ in range(_SLICES):
                with _edge(bench, url) as address, bench.phase("overload_edge"):
                    best = _rate(bench, address, call)
                    for times, ratios in within.items():
                        ratios.append(bench.generator.overload(address, call, bench.scale, times * best) / best)
            for times, measure in measures.items():
                bench.note(measure, median(within[times]))


@contextmanager
def _edge(bench: Bench, url: str) -> Iterator[str]:
    """The address of a door to some servers."""
    listen = f"127.0.0.1:{contestants.free_port()}"
    with ExitStack() as stack:
        replicas = [replace(contestants.SERVICE, name=f"replica_{number}") for number in range(_REPLICAS)]
        servers = [stack.enter_context(bench.running(replica, url)).address for replica in replicas]
        stack.enter_context(running_envoy(listen, *servers))
        yield listen


def _rate(bench: Bench, address: str, call: str) -> float:
    return bench.generator.drive(address, call, bench.scale, seconds=bench.scale.short_seconds).rate


def isolation(bench: Bench, url: str) -> None:
    """Single calls in other courses, while one seat row is held and while a file is imported, over the usual."""
    measures = "hol_p99", "hol_import_p99", "hol_ms.usual", "hol_ms.held", "hol_ms.import"
    with bench.measuring(*measures), bench.running(contestants.SERVICE, url) as server, bench.phase("hol"):
        pairs = iter(dataset.import_pairs(bench.scale, each=5))
        usual, held, importing = [], [], []
        for _ in range(_SLICES):
            usual.append(_p99_ms(bench, server.address))
            with _row_held(url, server.address, bench.generator.next_hot_course(bench.scale)):
                held.append(_p99_ms(bench, server.address))
            with _import_under_way(server.address, pairs):
                importing.append(_p99_ms(bench, server.address))
        for name, slices in (("usual", usual), ("held", held), ("import", importing)):
            bench.note(f"hol_ms.{name}", median(slices))
        bench.note("hol_p99", _ratio(held, usual))
        bench.note("hol_import_p99", _ratio(importing, usual))


def _p99_ms(bench: Bench, address: str) -> float:
    seconds = bench.scale.short_seconds
    return bench.generator.drive(address, "enroll", bench.scale, in_flight=_IN_FLIGHT, seconds=seconds).p99_us / 1000


def _ratio(strained: list[float], usual: list[float]) -> float:
    """Whatever takes less than the floor nobody notices."""
    return max(median(strained), _FLOOR_MS) / max(median(usual), _FLOOR_MS)


@contextmanager
def _row_held(url: str, address: str, course_id: int) -> Iterator[None]:
    """Another session holds the seat row of a course, and callers wait for it."""
    loop = asyncio.new_event_loop()
    holder = loop.run_until_complete(asyncpg.connect(url))
    try:
        with grpc.insecure_channel(address) as channel:
            loop.run_until_complete(holder.execute("BEGIN"))
            hold = "SELECT FROM course_seats WHERE course_id = $1 FOR UPDATE"
            loop.run_until_complete(holder.fetch(hold, course_id))
            stub = EnrollmentServiceStub(channel)
            requests = [EnrollStudentRequest(student_id=1 + n, course_ids=[course_id]) for n in range(_WAITERS)]
            waiters = [stub.EnrollStudent.future(request, timeout=_PATIENCE) for request in requests]
            yield
            loop.run_until_complete(holder.execute("ROLLBACK"))
            for waiter in waiters:
                waiter.exception()  # served, or told that the row was locked for too long
    finally:
        loop.run_until_complete(holder.close())
        loop.close()


@contextmanager
def _import_under_way(address: str, pairs: Iterator[tuple[int, int]]) -> Iterator[None]:
    """Somebody imports, piece by piece, for as long as the block lasts."""
    enough = threading.Event()
    problems: list[str] = []
    pace = Pace()

    def run() -> None:
        while not enough.is_set():
            piece = [pair for _, pair in zip(range(_PIECE), pairs, strict=False)]
            if not piece:
                problems.append("the import ran out of pairs")
                return
            try:
                import_rows(address, piece, pace)
            except ContestantError as error:
                problems.append(str(error))
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
    if problems:
        raise ContestantError(problems[0])
