"""A row that others have locked delays nobody but those who need it: one server, two, students, imports.

Latencies are compared in slices in turn, usual and held, and a slice's p99 by the median over the slices, because what
else the machine does must not pass for a finding. The negative control waits for locks as a single lane would.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle, pairwise
from typing import Any, cast

import grpc
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import PATIENCE, Client
from tests.support.databases import Connection, connected
from tests.support.locks import held as holding
from tests.support.locks import until, until_waiting, waiting_in
from tests.support.processes import SERVE, Processes
from tests.support.refusals import refusal_of, refused
from tests.support.verification import wrong_in

pytestmark = pytest.mark.timeout(120)

CALLERS = 16
SLICE = 0.4  # seconds
SLICES = 5
FLOOR = 0.050  # what may pass for usual on any machine, in seconds
LOCK_TIMEOUT_MS = 1_500
ONE_LANE = ("-m", "tests.support.broken", "one_lane")


class School:
    """Students who change their mind all the time, in courses that nobody has locked."""

    def __init__(self, clients: Sequence[Client], students: Sequence[int], courses: Sequence[int]) -> None:
        self._clients = cycle(clients)
        self._students = students
        self._courses = courses
        self._dice = random.Random(7)

    async def p99(self) -> float:
        """Of the calls of a slice, made by callers who ask again as soon as they are answered."""
        latencies: list[float] = []
        end = time.monotonic() + SLICE
        shares = [self._students[number::CALLERS] for number in range(CALLERS)]
        await asyncio.gather(*(self._caller(next(self._clients), share, end, latencies) for share in shares))
        return sorted(latencies)[int(len(latencies) * 0.99)]

    async def _caller(self, client: Client, students: Sequence[int], end: float, latencies: list[float]) -> None:
        while time.monotonic() < end:
            student_id, course_id = self._dice.choice(students), self._dice.choice(self._courses)
            for call in (client.enroll, client.unenroll):
                began = time.monotonic()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await call(student_id, course_id)
                latencies.append(time.monotonic() - began)


async def wanting(client: Client, student_ids: Sequence[int], *course_ids: int) -> None:
    """Callers who want what is held, again and again, until they are cancelled."""

    async def caller(student_id: int) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await client.enroll(student_id, *course_ids)
            for course_id in course_ids:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await client.unenroll(student_id, course_id)
            await asyncio.sleep(0.01)

    await asyncio.gather(*map(caller, student_ids))


async def deleting(client: Client, student_ids: Sequence[int]) -> None:
    """Callers who delete students by force, one after the other each, until they are cancelled."""
    left = list(student_ids)

    async def caller() -> None:
        while left:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await client.call("DeleteStudent", student_id=left.pop(), force=True)

    await asyncio.gather(caller(), caller())


async def importing(client: Client, student_ids: Sequence[int], course_ids: Sequence[int]) -> None:
    """An import that touches what is held, again and again, until it is cancelled."""
    chunk = pb.ImportEnrollmentsRequest(
        student_ids=[student_id for student_id in student_ids for _ in course_ids],
        course_ids=list(course_ids) * len(student_ids),
    )
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            stream: Any = client.stub.ImportEnrollments([chunk], timeout=20)
            await stream.read()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def busy(work: Any) -> AsyncIterator[None]:
    """Something goes on for as long as the block lasts."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def compared(
    processes: Processes, database_url: str, kind: str, servers: int, python: Any
) -> tuple[float, float]:
    """The p99 of others, usual and while something is held that callers want."""
    started = await processes.start_several(servers, python, LOCK_TIMEOUT_MS=str(LOCK_TIMEOUT_MS))
    clients = [client for _, client in started]
    students, courses = await clients[0].students(CALLERS * 10), await clients[0].courses(40)
    stuck = await clients[0].courses(3)
    waiting, held_student = students[: CALLERS // 2], students[-1]
    school = School(clients, students[CALLERS // 2 : -1], courses)
    one, several = f"course_seats WHERE course_id = {stuck[0]}", f"course_seats WHERE course_id = ANY(ARRAY{stuck})"
    rows, who, what = {
        "course": (one, waiting, stuck[:1]),
        "student": (f"students WHERE id = {held_student}", [held_student], courses[:1]),
        "both": (one, waiting, [courses[0], stuck[0], courses[1]]),
        "several": (several, waiting, stuck),
        "import": (one, waiting, [stuck[0], *courses[:5]]),
        "delete": (one, await clients[0].students(4 * SLICES), [stuck[0], *courses]),
    }[kind]
    if kind == "delete":
        await asyncio.gather(*(clients[0].enroll(student_id, *what) for student_id in who))
    usual, held = [], []
    await school.p99()  # nothing is prepared yet
    async with connected(database_url) as holder, connected(database_url) as observer:
        for number in range(SLICES):
            usual.append(await school.p99())
            work: Any
            if kind == "import":
                work = importing(clients[0], who, what)
            elif kind == "delete":
                work = deleting(clients[0], who[number::SLICES])
            else:
                work = asyncio.gather(*(wanting(client, who, *what) for client in clients))
            async with holder.transaction():
                await holder.execute(f"SELECT FROM {rows} FOR UPDATE")
                async with busy(work):
                    await until_waiting(observer)
                    held.append(await school.p99())
    return statistics.median(usual), statistics.median(held)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "servers"),
    [
        ("course", 1),
        ("course", 2),
        ("student", 1),
        ("both", 1),
        ("both", 2),
        ("several", 1),
        ("import", 1),
        ("delete", 1),
    ],
)
async def test_a_held_row_delays_nobody_else(processes: Processes, database_url: str, kind: str, servers: int) -> None:
    usual, held = await compared(processes, database_url, kind, servers, SERVE)
    assert held <= max(2 * usual, FLOOR)
    assert await wrong_in(database_url) == []


@pytest.mark.long
async def test_one_lane_would_delay_everybody(processes: Processes, database_url: str) -> None:
    """The negative control."""
    usual, held = await compared(processes, database_url, "course", 1, ONE_LANE)
    assert held > max(2 * usual, FLOOR)


async def ended(client: Client, student_id: int, course_id: int, deadline: float | None = None) -> tuple[str, float]:
    """How a call ends, and when."""
    request = pb.EnrollStudentRequest(student_id=student_id, course_ids=[course_id])
    try:
        await client.stub.EnrollStudent(request, timeout=deadline)
    except grpc.aio.AioRpcError as error:
        reason = refusal_of(error).reason if error.trailing_metadata() else error.code().name
        return reason, time.monotonic()
    return "OK", time.monotonic()


async def test_calls_for_a_held_course_end_together(processes: Processes, database_url: str) -> None:
    """By the lock timeout, however many they are, or by their own deadline where that comes first."""
    _, client = await processes.start(LOCK_TIMEOUT_MS=str(LOCK_TIMEOUT_MS))
    students, (stuck, free) = await client.students(40), await client.courses(2)
    # Its first batches take long, and whoever is in a hurry would be told at once that it is too late for them.
    for student_id in students[:10]:
        await client.enroll(student_id, free)
    async with connected(database_url) as holder, holder.transaction():
        await holder.execute("SELECT FROM course_seats WHERE course_id = $1 FOR UPDATE", stuck)
        began = time.monotonic()
        waiting = [ended(client, student_id, stuck) for student_id in students[:30]]
        hurried = [ended(client, student_id, stuck, 0.5) for student_id in students[30:]]
        outcomes = await asyncio.gather(*waiting, *hurried)
    assert {reason for reason, _ in outcomes[:30]} == {"DATABASE_UNAVAILABLE"}
    times = [moment - began for _, moment in outcomes[:30]]
    assert max(times) - min(times) < 0.5
    assert LOCK_TIMEOUT_MS / 1000 <= max(times) < LOCK_TIMEOUT_MS / 1000 + 1
    assert {reason for reason, _ in outcomes[30:]} == {"DEADLINE_EXCEEDED"}
    assert max(moment - began for _, moment in outcomes[30:]) < 1
    assert await client.roster(stuck) == []


async def test_who_needs_a_held_course_too_does_not_keep_others_from_those_tied_to_it(
    processes: Processes, database_url: str
) -> None:
    """Two servers take the courses in line, and both are stopped by the last one; the first is free for others."""
    clients = [client for _, client in await processes.start_several(2)]
    courses = await clients[0].courses(6, capacity=1, waitlist_capacity=100)
    ann, *swapping = await clients[0].students(6)
    leaving, newcomers = await clients[0].students(12), await clients[0].students(12)
    await clients[0].enroll(ann, courses[0])
    for student_id, (enter, leave) in zip(swapping, pairwise(courses), strict=True):
        await clients[0].enroll(student_id, leave)
        swap = {"student_id": student_id, "from_course_id": leave, "to_course_id": enter}
        await clients[0].call("SwapEnrollment", **swap, on_full=pb.ON_FULL_WAITLIST)
    await asyncio.gather(*(clients[0].enroll(one, courses[0], on_full=pb.ON_FULL_WAITLIST) for one in leaving))
    async with holding(database_url, courses[-1]) as holder:
        # Whoever leaves the line of the first may set all of them in motion.
        calls = [client.unenroll(one, courses[0]) for client, one in zip(cycle(clients), leaving, strict=False)]
        tied = [asyncio.create_task(call) for call in calls]
        await until_waiting(holder)
        slowest = 0.0
        for client, student_id in zip(cycle(clients), newcomers, strict=False):
            began = time.monotonic()
            await client.enroll(student_id, courses[0], on_full=pb.ON_FULL_WAITLIST)
            slowest = max(slowest, time.monotonic() - began)
        assert not any(task.done() for task in tied)
    await asyncio.gather(*tied)
    assert slowest < 1
    assert await clients[0].roster(courses[0]) == [ann, swapping[0], *newcomers]


async def test_who_waited_for_a_course_gets_in_by_order_of_arrival(processes: Processes, database_url: str) -> None:
    _, client = await processes.start()
    students, (stuck,) = await client.students(20), await client.courses(1, capacity=5, waitlist_capacity=100)
    async with connected(database_url) as holder, connected(database_url) as observer:
        async with holder.transaction():
            await holder.execute("SELECT FROM course_seats WHERE course_id = $1 FOR UPDATE", stuck)
            calls = []
            for student_id in students:
                calls.append(asyncio.create_task(client.enroll(student_id, stuck, on_full=pb.ON_FULL_WAITLIST)))
                # A call of another kind on the same connection: what was sent before it has arrived.
                await client.health()
            await until_waiting(observer)
        await asyncio.gather(*calls)
    assert await client.roster(stuck) == students


async def test_who_is_taken_along_in_vain_keeps_the_place_in_line(processes: Processes, database_url: str) -> None:
    """Other courses become free one by one meanwhile, and each time those who wait for this one are tried as well."""
    _, client = await processes.start(MAX_STREAMS="200")
    students, others = await client.students(80), await client.courses(6)
    (stuck,) = await client.courses(1, capacity=0, waitlist_capacity=100)
    waiting = students[20:]
    async with connected(database_url) as holder, contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(connected(database_url)) for _ in others]
        for connection, course_id in zip(held, others, strict=True):
            await connection.execute(f"BEGIN; SELECT FROM course_seats WHERE course_id = {course_id} FOR UPDATE")
        async with holder.transaction():
            await holder.execute("SELECT FROM course_seats WHERE course_id = $1 FOR UPDATE", stuck)
            calls = [asyncio.create_task(client.enroll(*pair)) for pair in zip(students, others, strict=False)]
            for number, student_id in enumerate(waiting):
                calls.append(asyncio.create_task(client.enroll(student_id, stuck, on_full=pb.ON_FULL_WAITLIST)))
                await client.health()  # what was sent before it has arrived
                if number % 10 == 9:
                    await held.pop().execute("COMMIT")
        await asyncio.gather(*calls)
    assert await client.roster(stuck) == waiting


async def test_a_row_that_is_busy_for_a_moment_does_not_wait_for_those_that_are_held(
    processes: Processes, database_url: str
) -> None:
    """As many rows are held as there are workers to wait for them."""
    _, client = await processes.start()
    students, (brief, *stuck) = await client.students(5), await client.courses(4)
    async with contextlib.AsyncExitStack() as stack:
        observer = await stack.enter_async_context(connected(database_url))
        held = await stack.enter_async_context(connected(database_url))
        calls = []
        await held.execute(f"BEGIN; SELECT FROM course_seats WHERE course_id = ANY(ARRAY{stuck}) FOR UPDATE")
        for number, course_id in enumerate(stuck, start=1):
            calls.append(asyncio.create_task(ended(client, students[number], course_id)))
            await until_waiting(observer, number)
        async with connected(database_url) as holder, holder.transaction():
            await holder.execute("SELECT FROM course_seats WHERE course_id = $1 FOR UPDATE", brief)
            delayed = asyncio.create_task(client.enroll(students[0], brief))
            await client.health()
            await asyncio.sleep(0.05)  # as long as the moment lasts
        began = time.monotonic()
        await delayed
        await client.enroll(students[4], brief)
        assert time.monotonic() - began < 1
        await held.execute("ROLLBACK")
        assert {outcome for outcome, _ in await asyncio.gather(*calls)} == {"OK"}


HELD = 300


async def test_a_row_that_is_busy_for_a_moment_does_not_wait_for_hundreds_that_are_held(
    start_service: StartService,
) -> None:
    service = await start_service(max_streams=1_000, lock_timeout_ms=30_000)
    client, url = service.client, service.settings.database_url
    students, stuck, brief = await client.students(HELD), await client.courses(HELD), await client.courses(5)
    async with holding(url, *stuck):
        calls = [asyncio.create_task(client.enroll(*pair)) for pair in zip(students, stuck, strict=True)]
        async with holding(url, *brief):
            await until(lambda: waiting_in(service) == HELD)
            delayed = [asyncio.create_task(client.enroll(students[0], course_id)) for course_id in brief]
            await until(lambda: waiting_in(service) == HELD + len(brief))
        began = time.monotonic()
        await asyncio.gather(*delayed)
        assert time.monotonic() - began < 1
    await asyncio.gather(*calls)


async def test_whose_time_is_over_is_told_so_however_many_rows_are_held(start_service: StartService) -> None:
    """Nobody has to wait until it is the row's turn again."""
    service = await start_service(max_streams=1_000, lock_timeout_ms=LOCK_TIMEOUT_MS)
    client, url = service.client, service.settings.database_url
    students, stuck = await client.students(HELD), await client.courses(HELD)
    async with holding(url, *stuck):
        began = time.monotonic()
        calls = [asyncio.create_task(ended(client, *pair)) for pair in zip(students[:9], stuck[:9], strict=True)]
        await asyncio.sleep(LOCK_TIMEOUT_MS / 1000 - 0.3)  # until the time of these is nearly over
        calls += [asyncio.create_task(ended(client, *pair)) for pair in zip(students[9:], stuck[9:], strict=True)]
        outcomes = await asyncio.gather(*calls)
    assert {reason for reason, _ in outcomes} == {"DATABASE_UNAVAILABLE"}
    # A round of all rows would take five seconds.
    assert max(moment - began for _, moment in outcomes[:9]) < LOCK_TIMEOUT_MS / 1000 + 1.5


async def test_whoever_loses_connection_and_row_at_once_is_answered(processes: Processes, database_url: str) -> None:
    """The row is locked at last, then the connection breaks, and somebody else gets the row before the next try."""
    _, client = await processes.start(LOCK_TIMEOUT_MS=str(LOCK_TIMEOUT_MS))
    (student_id,), (stuck,) = await client.students(1), await client.courses(1)
    lock_seats = f"SELECT FROM course_seats WHERE course_id = {stuck} FOR UPDATE"
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO student_courses%'"
    )
    async with contextlib.AsyncExitStack() as stack:
        observer, holder, successor, blocker = [
            await stack.enter_async_context(connected(database_url)) for _ in range(4)
        ]
        await holder.execute(f"BEGIN; {lock_seats}")
        call = asyncio.create_task(ended(client, student_id, stuck, 10))
        await until_waiting(observer)
        await successor.execute("BEGIN")
        taking = asyncio.create_task(successor.execute(lock_seats))
        await until_waiting(observer, 2)
        # Foreign keys meet this lock, once the seats are locked.
        await blocker.execute(f"BEGIN; SELECT FROM students WHERE id = {student_id} FOR UPDATE")
        await holder.execute("COMMIT")
        async with asyncio.timeout(10):
            while not await observer.fetchval(cut):
                pass
        await taking
        assert (await call)[0] == "DATABASE_UNAVAILABLE"
        await successor.execute("COMMIT")
        await blocker.execute("COMMIT")
    await client.enroll(student_id, stuck)
    assert await client.roster(stuck) == [student_id]


async def share_of_time_locked(connection: Connection, course_id: int) -> float:
    """How often somebody holds the seat row of a course, in many looks at it."""
    free = "SELECT FROM course_seats WHERE course_id = $1 FOR NO KEY UPDATE SKIP LOCKED"
    looks = 0
    locked = 0
    end = time.monotonic() + 0.8
    while time.monotonic() < end:
        looks += 1
        locked += not await connection.fetch(free, course_id)
        await asyncio.sleep(0.001)  # so that others get at the row
    return locked / looks


async def test_a_forced_delete_waits_for_the_held_course_and_holds_no_other(
    processes: Processes, database_url: str
) -> None:
    """The request does not name the courses that the student sits in."""
    _, client = await processes.start()
    (student_id, other), (first, stuck, last) = await client.students(2), await client.courses(3)
    await client.enroll(student_id, first, stuck, last)
    async with connected(database_url) as holder, connected(database_url) as observer:
        async with holder.transaction():
            await holder.execute("SELECT FROM course_seats WHERE course_id = $1 FOR UPDATE", stuck)
            delete = asyncio.create_task(client.call("DeleteStudent", student_id=student_id, force=True))
            await until_waiting(observer)
            assert await share_of_time_locked(observer, first) < 0.1
            assert await share_of_time_locked(observer, last) < 0.1
            await client.enroll(other, first, last)
        await delete
    assert [await client.roster(course_id) for course_id in (first, stuck, last)] == [[other], [], [other]]


async def test_what_no_row_explains_leaves_its_course_to_others(processes: Processes, database_url: str) -> None:
    """It is tried again and again, and holds the seats of its course while it tries."""
    _, client = await processes.start()
    (student_id,), (course,) = await client.students(1), await client.courses(1)
    change = {"course": pb.Course(course_id=course, title="New"), "update_mask": {"paths": ["title"]}}
    async with connected(database_url) as holder, connected(database_url) as observer:
        async with holder.transaction():
            await holder.execute("SELECT FROM courses WHERE id = $1 FOR SHARE", course)
            update = asyncio.create_task(client.call("UpdateCourse", **change))
            await until_waiting(observer)
            assert 0 < await share_of_time_locked(observer, course) < 0.5
            await client.enroll(student_id, course)
        assert (await update).course.title == "New"


@pytest.mark.parametrize(
    "lock",
    ["SELECT FROM courses WHERE id = {guilty} FOR SHARE", "INSERT INTO requests VALUES ('', '{request_id}', '')"],
)
async def test_what_no_row_explains_delays_only_who_needs_it(
    processes: Processes, database_url: str, lock: str
) -> None:
    """A course that may not be changed, a request_id that another session is about to use: met only while writing."""
    _, client = await processes.start(LOCK_TIMEOUT_MS=str(LOCK_TIMEOUT_MS))
    students, courses = await client.students(21), await client.courses(20)
    request_id = "123e4567-e89b-12d3-a456-426614174000"
    change = {"course": pb.Course(course_id=courses[0], title="New"), "update_mask": {"paths": ["title"]}}
    async with connected(database_url) as holder, holder.transaction():
        await holder.execute(lock.format(guilty=courses[0], request_id=request_id))
        guilty = (
            client.call("UpdateCourse", **change)
            if "courses" in lock
            else client.enroll(students[20], courses[0], request_id=request_id)
        )
        began = time.monotonic()
        unlucky = asyncio.create_task(guilty)
        innocent = [client.enroll(*pair) for pair in zip(students, courses[1:], strict=False)]
        await asyncio.gather(*innocent)
        assert time.monotonic() - began < LOCK_TIMEOUT_MS / 1000
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
            await unlucky


async def test_a_table_that_is_locked_for_a_moment_is_waited_for(processes: Processes, database_url: str) -> None:
    """As by a migration."""
    _, client = await processes.start()
    students, (course_id,) = await client.students(6), await client.courses(1)
    for table in ("course_seats", "courses", "students", "student_courses"):
        async with connected(database_url) as holder, connected(database_url) as observer:
            async with holder.transaction():
                await holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                calls = [asyncio.create_task(client.enroll(student_id, course_id)) for student_id in students]
                await until_waiting(observer)
                await asyncio.sleep(0.3)  # longer than any single wait
            await asyncio.gather(*calls)
        for student_id in students:
            await client.unenroll(student_id, course_id)


@pytest.mark.long
async def test_a_single_call_waits_for_one_chunk_of_an_import_at_most(processes: Processes, database_url: str) -> None:
    """The import touches every course; chunks of the size that the command sends follow each other without a pause."""
    _, client = await processes.start()
    students, courses = await client.students(1_000), await client.courses(20)
    chunks = [
        pb.ImportEnrollmentsRequest(
            chunk_id=number, student_ids=students[number * 50 : number * 50 + 50] * 20, course_ids=sorted(courses * 50)
        )
        for number in range(19)
    ]
    durations: list[float] = []
    finished = asyncio.Event()

    async def import_all() -> None:
        last = time.monotonic()
        stream: Any = client.stub.ImportEnrollments(chunks, timeout=60)
        async for _ in stream:
            durations.append(time.monotonic() - last)
            last = time.monotonic()
        finished.set()

    task = asyncio.create_task(import_all())
    await until(lambda: len(durations) > 0)
    latencies = []
    for student_id in students[950:]:
        if finished.is_set():
            break
        began = time.monotonic()
        await client.enroll(student_id, random.choice(courses))
        latencies.append(time.monotonic() - began)
    await task
    assert len(latencies) >= 5
    assert statistics.median(latencies) <= 2 * max(durations)
    assert await wrong_in(database_url) == []


async def test_imports_go_on_while_others_wait_for_a_row(start_service: StartService, database_url: str) -> None:
    """Also those whose external ids nobody has looked up yet, when it is asked whether they must get in line."""
    service = await start_service()
    client = service.client
    (student,), (stuck, _) = await client.students(1), await client.courses(2)
    courses = [pb.Course(external_id=f"K-{number}", code=f"ART-{number}", title="Drawing") for number in range(3)]
    students = [pb.Student(external_id="S-1", full_name="Ann Lee", email="ann@example.org")]
    chunks = {
        "ImportCourses": pb.ImportCoursesRequest(courses=courses),
        "ImportStudents": pb.ImportStudentsRequest(students=students),
        "ImportEnrollments": pb.ImportEnrollmentsRequest(student_external_ids=["S-1"], course_external_ids=["K-1"]),
    }
    async with holding(database_url, stuck):
        waiting = asyncio.create_task(client.enroll(student, stuck))
        await until(lambda: service.app._writer._patient.waiting == 1)
        answers = {}
        for name, chunk in chunks.items():
            stream: Any = getattr(client.stub, name)([chunk], timeout=PATIENCE)
            (answers[name],) = [answer async for answer in stream]
        roster = client.call("ReconcileRoster", course_external_id="K-2", student_external_ids=["S-1"])
        assert list((await roster).added) == list(answers["ImportStudents"].student_ids)
        assert service.app._writer._patient.waiting == 1
    await waiting
    assert (answers["ImportCourses"].created, answers["ImportStudents"].created) == (3, 1)
    assert answers["ImportEnrollments"].enrolled == 1


@pytest.mark.parametrize("commits", [True, False])
async def test_a_key_that_somebody_is_about_to_take_delays_nobody_else(
    client: Client, connection: Connection, database_url: str, commits: bool
) -> None:
    """An address and a code of which nobody knows yet whether they are taken: only who wants them waits."""
    async with connected(database_url) as holder:
        await holder.execute(
            "BEGIN; INSERT INTO students (full_name, email) VALUES ('Bo', 'Bo@example.org');"
            "INSERT INTO courses (code, title) VALUES ('ART-1', 'Drawing')"
        )
        waiting: list[asyncio.Task[Any]] = [
            asyncio.create_task(client.create_student("Bo", "bo@example.org")),
            asyncio.create_task(client.create_course("ART-1")),
        ]
        await until_waiting(connection, 1)
        began = time.monotonic()
        await asyncio.gather(client.students(20), client.courses(20))
        assert time.monotonic() - began < LOCK_TIMEOUT_MS / 1000
        assert not any(task.done() for task in waiting)
        await holder.execute("COMMIT" if commits else "ROLLBACK")
    student, course = cast(list[Any], await asyncio.gather(*waiting, return_exceptions=True))
    if commits:
        assert (refusal_of(student).reason, refusal_of(course).reason) == ("EMAIL_TAKEN", "CODE_TAKEN")
    else:
        assert (student.email, course.code) == ("bo@example.org", "ART-1")
        assert await wrong_in(database_url) == []
