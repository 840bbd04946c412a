"""More calls than can be served: each is answered or told why, and nobody else notices. Over the wire."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2

from benchmarks import dataset
from benchmarks.contestants import ContestantError
from benchmarks.generator import Generator
from benchmarks.scale import Scale
from benchmarks.toolchain import build_generator
from dev.golang import BuildError
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import SERVICE, Client, client_of
from tests.support.databases import Connection
from tests.support.locks import held, until, until_waiting, waiting_in
from tests.support.processes import Processes, ServerProcess
from tests.support.refusals import check_form, refusal_of, refused
from tests.support.services import ServiceLog

CALLS = 10_000
STUDENTS = 5_000
COURSES = 20
SEATS = 100
DEADLINE = 50.0  # seconds: a busy machine takes its time, but every call must be answered

# What gRPC does by itself, which the service did once.
UNLIMITED_STREAMS = """
from enrollment_service.api import server
from enrollment_service.cli.main import cli
server._options = lambda settings: [("grpc.max_concurrent_streams", 10_000)]
cli(["serve"])
"""

# The same without a bound on what gRPC keeps: nothing is refused, and nothing is served in time.
UNLIMITED_QUEUE = UNLIMITED_STREAMS.replace(
    "10_000)]", "10_000), ('grpc.server.max_pending_requests', 2**31 - 1), "
    "('grpc.server.max_pending_requests_hard_limit', 2**31 - 1)]"
)  # fmt: skip
TIMES = 3
GATE = 0.3
FULL_SPEED = 0.7  # the machine's noise is a third
SLICES = 3
SMALL = Scale(students=20_000, courses=1_500, seconds=2.0, warmup=1.0, short_seconds=0.5)


@pytest.fixture
async def populated(connection: Connection) -> None:
    """Students, and courses with fewer seats than there are students who want one."""
    await connection.execute(
        f"INSERT INTO students (full_name, email) SELECT 'A', n || '@example.org' FROM generate_series(1, {STUDENTS}) n"
    )
    await connection.execute(
        f"INSERT INTO courses (code, title) SELECT 'C' || n, 'A' FROM generate_series(1, {COURSES}) n"
    )
    await connection.execute(
        "INSERT INTO course_seats (course_id, capacity, last_sequence, last_event_time) "
        f"SELECT id, {SEATS}, 1, create_time FROM courses"
    )
    await connection.execute(
        "INSERT INTO enrollment_events (course_id, sequence, kind, previous_state, state, enrolled_count, "
        f"waitlisted_count, capacity, event_time) SELECT id, 1, 2, 0, 0, 0, 0, {SEATS}, create_time FROM courses"
    )


@dataclass
class Peer:
    """Somebody on a connection of their own who asks one thing after the other; how long each answer took."""

    seconds: list[float] = field(default_factory=list)

    async def ask(self, question: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        while True:
            began = time.monotonic()
            await question()
            self.seconds.append(time.monotonic() - began)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def connections(process: ServerProcess, count: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(process.address)) for _ in range(count)]
        await asyncio.gather(*(client.channel.channel_ready() for client in clients))
        yield clients


async def outcome(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> str:
    """OK, or why not; what says nothing at all is its bare code."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        if not refusal.reason:
            return f"bare {refusal.code}"
        check_form(refusal, error)
        assert refusal.reason != "OVERLOADED" or refusal.retry_delay is not None
        return refusal.reason
    return "OK"


def stampede(clients: list[Client]) -> list[Coroutine[Any, Any, str]]:
    """Reads and writes in turn, as many on each connection."""
    calls = []
    for number in range(CALLS):
        stub = clients[number % len(clients)].stub
        student_id = 1 + number // 2 % STUDENTS
        if number // len(clients) % 2:
            read = pb.ListStudentCoursesRequest(student_id=student_id)
            calls.append(outcome(stub.ListStudentCourses(read, timeout=DEADLINE)))
        else:
            write = pb.EnrollStudentRequest(student_id=student_id, course_ids=[1 + number % COURSES])
            calls.append(outcome(stub.EnrollStudent(write, timeout=DEADLINE)))
    return calls


@dataclass
class Seen:
    """What became of a stampede, and what others noticed of it meanwhile."""

    outcomes: Counter[str]
    seconds: float
    quiet: list[float]
    health: list[float]


async def run_stampede(process: ServerProcess, count: int) -> Seen:
    """The stampede on so many connections, with a quiet peer and a health check on connections of their own."""
    async with connections(process, count) as clients, connections(process, 2) as (quiet_client, health_client):

        async def is_healthy() -> None:
            assert await health_client.health(SERVICE) == health_pb2.HealthCheckResponse.SERVING

        quiet, health = Peer(), Peer()
        began = time.monotonic()
        calls = [asyncio.ensure_future(call) for call in stampede(clients)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)  # it is at its height
        peers = [
            asyncio.create_task(quiet.ask(lambda: quiet_client.call("GetStudent", student_id=1))),
            asyncio.create_task(health.ask(is_healthy)),
        ]
        outcomes = Counter(await asyncio.gather(*calls))
        seconds = time.monotonic() - began
        for peer in peers:
            assert not peer.done(), peer.exception()
            peer.cancel()
        await asyncio.wait(peers)
        return Seen(outcomes, seconds, quiet.seconds, health.seconds)


EXPECTED = {"OK", "COURSE_FULL", "ALREADY_ENROLLED", "OVERLOADED"}


@pytest.mark.usefixtures("populated", "verified")
async def test_a_stampede_on_one_connection_is_served_and_nobody_else_notices(processes: Processes) -> None:
    process, _ = await processes.start(LOG_LEVEL="warning")
    seen = await run_stampede(process, 1)
    assert seen.outcomes.total() == CALLS
    assert seen.outcomes.keys() <= EXPECTED, seen
    assert seen.outcomes["OK"] >= CALLS / 2, seen
    # It waits for its turn among connections, not for the calls of the other one.
    assert median(seen.quiet) < seen.seconds / 10, seen
    assert median(seen.health) < seen.seconds / 10, seen


@pytest.mark.long
@pytest.mark.usefixtures("populated", "verified")
async def test_a_stampede_on_many_connections_is_served_or_told_why(processes: Processes) -> None:
    process, _ = await processes.start(LOG_LEVEL="warning")
    seen = await run_stampede(process, 20)
    assert seen.outcomes.total() == CALLS
    assert seen.outcomes.keys() <= EXPECTED, seen
    assert seen.outcomes["OK"] >= CALLS / 2, seen
    assert seen.quiet
    assert median(seen.health) < seen.seconds / 10, seen


@pytest.mark.usefixtures("populated")
async def test_with_the_limits_that_grpc_has_by_itself_calls_end_without_a_reason(processes: Processes) -> None:
    process, _ = await processes.start(("-c", UNLIMITED_STREAMS), LOG_LEVEL="warning")
    async with connections(process, 20) as clients:
        outcomes = Counter(await asyncio.gather(*stampede(clients)))
    assert outcomes["bare CANCELLED"] > 0, outcomes


async def test_the_log_counts_refused_calls_instead_of_telling_each(
    start_service: StartService, service_log: ServiceLog
) -> None:
    service = await start_service(max_waiting=1)
    students = [(await service.client.create_student()).student_id for _ in range(2)]
    (course_id,) = await service.client.courses(1)
    async with held(service.settings.database_url, course_id) as observer:
        waiting = asyncio.create_task(service.client.enroll(students[0], course_id))
        await until_waiting(observer)
        await until(lambda: waiting_in(service) == 1)
        for _ in range(3):
            with refused("RESOURCE_EXHAUSTED", "OVERLOADED") as refusal:
                await service.client.enroll(students[1], course_id)
            assert refusal.retry_delay == 1
    await waiting
    await until(lambda: any(line["event"] == "overloaded" for line in service_log.lines))
    (line,) = [line for line in service_log.lines if line["event"] == "overloaded"]
    assert line["refused"] == 3
    assert len(service_log.calls("EnrollStudent")) == 1


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """The benchmark's load generator: a client in Python cannot offer enough."""
    try:
        return Generator(build_generator(tmp_path_factory.mktemp("load") / "load"))
    except BuildError as error:
        pytest.skip(str(error))


@dataclass
class Slice:
    """Full speed, then three times as many calls, then full speed again; the last two over the first."""

    in_time: float
    after: float
    resident_mb: float


async def overloaded(process: ServerProcess, generator: Generator, mode: str) -> Slice:
    def run() -> Slice:
        best = generator.drive(process.address, mode, SMALL).rate
        in_time = generator.overload(process.address, mode, SMALL, TIMES * best)
        resident_mb = psutil.Process(process.pid).memory_info().rss / 1e6
        # The last call of the overload ends a second after it, and this begins to count another second later.
        try:
            after = generator.drive(process.address, mode, SMALL, seconds=SMALL.short_seconds).rate
        except ContestantError:  # hardly anything is answered: the queue is still there
            after = 0
        return Slice(in_time / best, after / best, resident_mb)

    return await asyncio.to_thread(run)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", ["list", "enroll"])
async def test_under_a_lasting_overload_useful_work_goes_on(
    processes: Processes, connection: Connection, generator: Generator, mode: str
) -> None:
    await dataset.load(connection, SMALL)
    process, _ = await processes.start()
    generator.fresh_database()
    slices = [await overloaded(process, generator, mode) for _ in range(SLICES)]
    assert median(one.in_time for one in slices) >= GATE, slices
    assert median(one.after for one in slices) >= FULL_SPEED, slices
    assert max(one.resident_mb for one in slices) < 250, slices


@pytest.mark.long
async def test_without_limits_answers_come_too_late_and_the_queue_outlasts_the_overload(
    processes: Processes, connection: Connection, generator: Generator
) -> None:
    await dataset.load(connection, SMALL)
    process, _ = await processes.start(("-c", UNLIMITED_QUEUE))
    generator.fresh_database()
    # The best that a disturbed slice starts from is too low, and three times that is no overload.
    slices = [await overloaded(process, generator, "list") for _ in range(SLICES)]
    assert min(one.in_time for one in slices) < GATE, slices
    assert median(one.in_time for one in slices) < GATE or median(one.after for one in slices) < FULL_SPEED, slices
