"""Lists as of a time, over the wire: the same question has the same answer, whenever it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.engine import past
from enrollment_service.store import locks
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import PATIENCE, Client
from tests.support.databases import Connection, PostgresServer, connected
from tests.support.refusals import outcome_of, refused
from tests.support.services import START, Clock

pytestmark = pytest.mark.usefixtures("verified")

WAITING = {"on_full": pb.ON_FULL_WAITLIST}
ENROLLED, WAITLISTED = pb.ENROLLMENT_STATE_ENROLLED, pb.ENROLLMENT_STATE_WAITLISTED
UNSETTLED = "UNAVAILABLE DATABASE_UNAVAILABLE"
# A transaction of a server that has written an enrollment stays there for as long as the test wants it to.
HELD = """
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN WHILE NOT pg_try_advisory_xact_lock_shared(7) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NEW; END $$;
CREATE TRIGGER held AFTER INSERT ON student_courses FOR EACH ROW EXECUTE FUNCTION held()
"""
ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


def as_of(moment: datetime) -> Timestamp:
    """A moment for a request."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made


async def now(connection: Connection) -> datetime:
    """The database's time, which is over when it is told."""
    moment: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return moment


def plain(row: pb.Enrollment) -> bytes:
    """An enrollment without the details of its student and its course, which are today's."""
    bare = pb.Enrollment()
    bare.CopyFrom(row)
    bare.ClearField("student")
    bare.ClearField("course")
    return bare.SerializeToString(deterministic=True)


async def everything(client: Client, students: list[int], courses: list[int], **fields: Any) -> dict[Any, list[bytes]]:
    """What the lists of some students and courses show of enrollments; of what is not there, nothing."""
    found: dict[Any, list[bytes]] = {}
    asked: list[tuple[str, str, int]] = [("ListStudentCourses", "student_id", one) for one in students]
    asked += [("ListCourseStudents", "course_id", one) for one in courses]
    for method, name, one in asked:
        call = client.pages(method, "enrollments", **{name: one}, **fields)
        outcome, pages = await outcome_and(call)
        assert outcome == "OK" or outcome.startswith("NOT_FOUND")
        found[name, one] = [plain(row) for page in pages or () for row in page]
    return found


async def outcome_and(call: Awaitable[Any]) -> tuple[str, Any]:
    """How a call ended, and its answer."""
    task = asyncio.ensure_future(call)
    outcome = await outcome_of(task)
    return outcome, task.result() if outcome == "OK" else None


async def changes(client: Client, students: list[int], courses: list[int]) -> AsyncIterator[str]:
    """Changes of all kinds, one after the other."""
    a, b, c, d, e, f = students
    small, wide, doomed = courses
    for student in (a, b, c, d, e):
        await client.enroll(student, small, **WAITING)
        yield "entered, or in line"
    await client.unenroll(d, small)
    yield "out of the line"
    await client.unenroll(a, small)
    yield "left, and somebody was promoted"
    await client.enroll(a, small, **WAITING)
    yield "back at the end of the line"
    await client.enroll(f, wide, doomed)
    yield "two courses at once"
    await client.enroll(d, doomed)
    await client.call("SwapEnrollment", student_id=d, from_course_id=doomed, to_course_id=wide)
    yield "swapped"
    await client.call("UpdateCourse", course={"course_id": small, "capacity": 3}, update_mask={"paths": ["capacity"]})
    yield "a larger course, and promotions"
    await client.call("ReconcileRoster", course_id=wide, student_ids=[a, b, d], max_removals=5)
    yield "reconciled"
    await client.call("DeleteStudent", student_id=b, force=True)
    yield "a student deleted, and somebody was promoted"
    await client.call("DeleteCourse", course_id=doomed, force=True)
    yield "a course deleted"
    await client.unenroll(c, small)
    yield "left again"


@pytest.mark.parametrize("size", [2, 1000])
async def test_a_list_of_the_past_is_what_a_list_was_then(client: Client, connection: Connection, size: int) -> None:
    students = await client.students(6)
    small, wide = await client.courses(1, capacity=2, waitlist_capacity=9), await client.courses(2)
    courses = [*small, *wide]
    known = [(await now(connection), "nothing yet", await everything(client, students, courses))]
    async for what in changes(client, students, courses):
        shown = await everything(client, students, courses)
        assert shown != known[-1][2], what
        known += [(await now(connection), what, shown)]
    for moment, what, shown in known:
        assert await everything(client, students, courses, as_of=as_of(moment), page_size=size) == shown, what


async def test_details_are_those_of_today_and_of_what_is_gone_the_ids_stay(
    client: Client, connection: Connection
) -> None:
    (ann, bo), (art, gone) = await client.students(2), await client.courses(2, capacity=5)
    await client.enroll(ann, art, gone)
    await client.enroll(bo, art)
    moment = as_of(await now(connection))
    await client.call("UpdateCourse", course={"course_id": art, "title": "New"}, update_mask={"paths": ["title"]})
    await client.call("DeleteCourse", course_id=gone, force=True)
    await client.call("DeleteStudent", student_id=bo, force=True)
    today = (await client.call("GetCourse", course_id=art)).course

    answer = await client.call("ListStudentCourses", student_id=ann, as_of=moment)
    assert answer.student == (await client.call("GetStudent", student_id=ann)).student
    assert [one.course for one in answer.enrollments] == [today, pb.Course(course_id=gone)]
    assert answer.resume_token == ""

    answer = await client.call("ListCourseStudents", course_id=art, as_of=moment)
    assert answer.course == today
    assert [one.student.student_id for one in answer.enrollments] == [ann, bo]
    assert [one.student.email != "" for one in answer.enrollments] == [True, False]
    assert (answer.resume_token, answer.sequence) == ("", 0)

    answer = await client.call("ListCourseStudents", course_id=gone, as_of=moment)
    assert (answer.course, len(answer.enrollments)) == (pb.Course(course_id=gone), 1)
    answer = await client.call("ListStudentCourses", student_id=bo, as_of=moment)
    assert (answer.student, len(answer.enrollments)) == (pb.Student(student_id=bo), 1)


async def test_states_are_filtered_as_in_any_list(client: Client, connection: Connection) -> None:
    (course,), (ann, bo) = await client.courses(1, capacity=1, waitlist_capacity=1), await client.students(2)
    for student in (ann, bo):
        await client.enroll(student, course, **WAITING)
    moment = as_of(await now(connection))
    await client.unenroll(ann, course)
    for states, expected in (([ENROLLED], [ann]), ([WAITLISTED], [bo]), ([], [ann, bo])):
        answer = await client.call("ListCourseStudents", course_id=course, states=states, as_of=moment)
        assert [one.student_id for one in answer.enrollments] == expected
        for student in (ann, bo):
            answer = await client.call("ListStudentCourses", student_id=student, states=states, as_of=moment)
            assert len(answer.enrollments) == (student in expected)


async def test_pages_are_bound_to_their_time(client: Client, connection: Connection) -> None:
    (ann, bo), courses = await client.students(2), await client.courses(2)
    for student in (ann, bo):
        await client.enroll(student, *courses)
    moment = await now(connection)
    other = as_of(moment - timedelta(microseconds=1))
    for method, fields in (
        ("ListStudentCourses", {"student_id": ann}),
        ("ListCourseStudents", {"course_id": courses[0]}),
    ):
        past_page = await client.call(method, page_size=1, as_of=as_of(moment), **fields)
        live_page = await client.call(method, page_size=1, **fields)
        for token, time in ((past_page.next_page_token, {}), (past_page.next_page_token, {"as_of": other})):
            with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"):
                await client.call(method, page_token=token, **time, **fields)
        with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"):
            await client.call(method, page_token=live_page.next_page_token, as_of=as_of(moment), **fields)
        # What happens between the pages changes nothing.
        await client.unenroll(ann, courses[1])
        await client.unenroll(bo, courses[0])
        rest = await client.call(method, page_token=past_page.next_page_token, as_of=as_of(moment), **fields)
        assert len(rest.enrollments) == 1
        await client.enroll(ann, courses[1])
        await client.enroll(bo, courses[0])


async def test_the_future_and_what_was_before_the_log_are_refused(client: Client, connection: Connection) -> None:
    (student,), (course,) = await client.students(1), await client.courses(1)
    since = await connection.fetchval("SELECT since FROM log_horizon")
    for method, fields in (
        ("ListStudentCourses", {"student_id": student}),
        ("ListCourseStudents", {"course_id": course}),
    ):
        later = as_of(await now(connection) + timedelta(minutes=1))
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", metadata={"field": "as_of"}, fields=["as_of"]):
            await client.call(method, as_of=later, **fields)
        before = as_of(since - timedelta(microseconds=1))
        metadata = {"field": "as_of", "since": f"{since:%Y-%m-%dT%H:%M:%S.%fZ}"}
        with refused("OUT_OF_RANGE", "INVALID_FIELD", metadata=metadata, fields=["as_of"]):
            await client.call(method, as_of=before, **fields)
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["as_of"]):
            await client.call(method, as_of={"seconds": 1 << 60}, **fields)
    # The very beginning is known: there was nothing.
    with refused("NOT_FOUND", "COURSE_NOT_FOUND"):
        await client.call("ListCourseStudents", course_id=course, as_of=as_of(since))


async def test_who_was_not_there_then_is_not_found(client: Client, connection: Connection) -> None:
    early = as_of(await now(connection))
    (course,) = await client.courses(1)
    with refused("NOT_FOUND", "COURSE_NOT_FOUND", metadata={"course_id": str(course)}):
        await client.call("ListCourseStudents", course_id=course, as_of=early)
    with refused("NOT_FOUND", "STUDENT_NOT_FOUND", metadata={"student_id": "77"}):
        await client.call("ListStudentCourses", student_id=77, as_of=as_of(await now(connection)))
    there = as_of(await now(connection))
    await client.call("DeleteCourse", course_id=course)
    gone = as_of(await now(connection))
    assert (await client.call("ListCourseStudents", course_id=course, as_of=there)).course.course_id == course
    with refused("NOT_FOUND", "COURSE_NOT_FOUND"):
        await client.call("ListCourseStudents", course_id=course, as_of=gone)


# --- while changes are under way ------------------------------------------------------------------------------------


@asynccontextmanager
async def change_under_way(client: Client, connection: Connection, student: int, course: int) -> AsyncIterator[Any]:
    """A call whose transaction has written, and is not committed before `release` is called or the block ends."""
    await connection.execute(HELD)
    await connection.execute("SELECT pg_advisory_lock(7)")
    held = True

    async def release() -> None:
        nonlocal held
        if held:
            held = False
            await connection.execute("SELECT pg_advisory_unlock(7)")

    call = asyncio.create_task(client.enroll(student, course))
    try:
        async with asyncio.timeout(PATIENCE):
            while not await connection.fetchval(ASLEEP):  # noqa: ASYNC110 - the database announces nothing
                await asyncio.sleep(0.01)
        yield release
    finally:
        await release()
        await call


async def test_a_change_under_way_is_waited_for(client: Client, connection: Connection) -> None:
    (student,), (course,) = await client.students(1), await client.courses(1)
    before = await now(connection)
    async with change_under_way(client, connection, student, course) as release:
        moment = as_of(await now(connection))
        asked = [
            asyncio.create_task(client.call("ListCourseStudents", course_id=course, as_of=moment)),
            asyncio.create_task(client.call("ListStudentCourses", student_id=student, as_of=moment)),
        ]
        # What was before it is settled.
        answer = await client.call("ListStudentCourses", student_id=student, as_of=as_of(before))
        assert list(answer.enrollments) == []
        assert not any(one.done() for one in asked)
        await release()
        first = await asyncio.gather(*asked)
    assert [len(one.enrollments) for one in first] == [1, 1]
    assert await client.call("ListCourseStudents", course_id=course, as_of=moment) == first[0]


async def test_without_the_wait_an_answer_would_change(
    client: Client, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: whoever does not ask who is under way answers too early."""

    async def nobody(_: Any) -> dict[str, None]:
        return {}

    monkeypatch.setattr(locks, "writers", nobody)
    (student,), (course,) = await client.students(1), await client.courses(1)
    async with change_under_way(client, connection, student, course):
        moment = as_of(await now(connection))
        early = await client.call("ListCourseStudents", course_id=course, as_of=moment)
    late = await client.call("ListCourseStudents", course_id=course, as_of=moment)
    assert (len(early.enrollments), len(late.enrollments)) == (0, 1)


async def test_nobody_waits_for_ever(client: Client, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "MAX_WAIT", 0.2)
    (student,), (course,) = await client.students(1), await client.courses(1)
    async with change_under_way(client, connection, student, course):
        moment = as_of(await now(connection))
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE", metadata={"field": "as_of"}) as refusal:
            await client.call("ListCourseStudents", course_id=course, as_of=moment)
        assert refusal.retry_delay == 1
    assert len((await client.call("ListCourseStudents", course_id=course, as_of=moment)).enrollments) == 1


async def test_other_transactions_hold_nobody_up(
    client: Client, connection: Connection, database_url: str, postgres_server: PostgresServer
) -> None:
    """One in another database, one that reads, and one that holds a seat row and writes none of our events."""
    (course,) = await client.courses(1)
    async with connected(postgres_server.url) as elsewhere, connected(database_url) as here:
        await elsewhere.execute("BEGIN")
        await elsewhere.fetchval("SELECT pg_current_xact_id()::text")
        await here.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await here.execute("SELECT FROM enrollment_events")
        await here.execute("SELECT FROM course_seats FOR UPDATE")
        started = asyncio.get_running_loop().time()
        for _ in range(20):
            moment = as_of(await now(connection))
            await client.call("ListCourseStudents", course_id=course, as_of=moment)
        assert asyncio.get_running_loop().time() - started < past.MAX_WAIT


IMPORTED, CHUNKS = 10_000, 4


@pytest.mark.timeout(180)
async def test_what_is_asked_during_an_import_is_answered_alike_for_ever(
    client: Client, connection: Connection
) -> None:
    """Every 5 ms, of a student and of a course, while 10,000 rows are imported."""
    students, courses = await client.students(100), await client.courses(100)
    pairs = [(student, course) for student in students for course in courses]
    size = IMPORTED // CHUNKS
    chunks = [
        pb.ImportEnrollmentsRequest(
            student_ids=[student for student, _ in pairs[start : start + size]],
            course_ids=[course for _, course in pairs[start : start + size]],
        )
        for start in range(0, IMPORTED, size)
    ]
    questions: list[tuple[Timestamp, int, asyncio.Task[Any]]] = []

    def ask(moment: Timestamp, number: int) -> asyncio.Task[Any]:
        request = {"course_id": courses[number % 2]} if number % 4 < 3 else {"student_id": students[number % 100]}
        method = "ListCourseStudents" if "course_id" in request else "ListStudentCourses"
        return asyncio.create_task(client.call(method, as_of=moment, page_size=1000, **request))

    async def import_them() -> list[pb.ImportEnrollmentsResponse]:
        return [answer async for answer in client.stub.ImportEnrollments(iter(chunks))]

    importing = asyncio.create_task(import_them())
    while not importing.done():
        moment = as_of(await now(connection))
        questions.append((moment, len(questions), ask(moment, len(questions))))
        await asyncio.sleep(0.005)
    assert sum(answer.enrolled for answer in await importing) == IMPORTED
    answered = []
    for moment, number, task in questions:
        outcome = await outcome_of(task)
        assert outcome in ("OK", UNSETTLED, "RESOURCE_EXHAUSTED OVERLOADED")
        if outcome == "OK":
            answered.append((moment, number, task.result()))
    assert len(answered) > 20
    assert len({len(answer.enrollments) for _, number, answer in answered if number % 4 < 3}) > 2
    for moment, number, answer in answered:
        again = await ask(moment, number)
        assert list(map(plain, again.enrollments)) == list(map(plain, answer.enrollments))


# --- clocks that were set back --------------------------------------------------------------------------------------


@pytest.fixture
async def stepping(timed_client: Client, clock: Clock, connection: Connection) -> Client:
    """A client of a service whose clock the test moves; the log begins before its first moment."""
    await connection.execute("UPDATE log_horizon SET since = $1", START - timedelta(hours=1))
    await clock.advance(seconds=1)
    return timed_client


async def test_the_overlap_of_a_clock_that_was_set_back_is_told_apart(stepping: Client, clock: Clock) -> None:
    (early, late), students = await stepping.courses(2), await stepping.students(3)
    await stepping.enroll(students[0], early)
    settled = await clock.now()
    await clock.advance(minutes=10)
    await stepping.enroll(students[1], late)
    newest = await clock.now()
    await clock.advance(minutes=1)
    in_between = settled + timedelta(minutes=5)

    async def asked(moment: datetime, course: int = early) -> str | list[int]:
        outcome, answer = await outcome_and(stepping.call("ListCourseStudents", course_id=course, as_of=as_of(moment)))
        return outcome if answer is None else [one.student_id for one in answer.enrollments]

    assert await asked(in_between) == [students[0]]
    await clock.set(settled + timedelta(minutes=3))
    # It has not come to this time again, and to no time after the newest event.
    assert await asked(in_between) == UNSETTLED
    assert await asked(newest + timedelta(seconds=1)) == "INVALID_ARGUMENT INVALID_FIELD"
    assert await asked(settled + timedelta(minutes=1)) == [students[0]]
    # Something happens at a time that was over already.
    await stepping.enroll(students[2], early)
    await clock.advance(minutes=4)
    assert await asked(in_between) == UNSETTLED
    assert await asked(newest, late) == UNSETTLED
    # What was before the clock was set back is as it was.
    assert await asked(settled + timedelta(minutes=1)) == [students[0]]
    # Once all is over that was there before, nothing of it can change any more.
    await clock.set(newest + timedelta(seconds=2))
    assert await asked(in_between) == [students[0], students[2]]
    assert await asked(newest, late) == [students[1]]


async def test_now_itself_is_not_settled_while_the_clock_stands_still(
    stepping: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "MAX_WAIT", 0.1)
    (course,), (student,) = await stepping.courses(1), await stepping.students(1)
    await clock.advance(seconds=1)
    moment = await clock.now()

    def request() -> Any:
        return stepping.call("ListCourseStudents", course_id=course, as_of=as_of(moment))

    assert await outcome_of(request()) == UNSETTLED
    await stepping.enroll(student, course)
    await clock.advance(seconds=1)
    assert len((await request()).enrollments) == 1


async def test_only_the_courses_of_a_past_are_read(start_service: StartService, connection: Connection) -> None:
    """A student with a long past in many courses, page by page."""
    client = (await start_service()).client
    (student,), courses = await client.students(1), await client.courses(30)
    for _ in range(3):
        await client.enroll(student, *courses)
        for course in courses:
            await client.unenroll(student, course)
    await client.enroll(student, *courses[::2])
    pages = await client.pages(
        "ListStudentCourses", "enrollments", student_id=student, as_of=as_of(await now(connection)), page_size=4
    )
    assert [row.course_id for page in pages for row in page] == courses[::2]
    assert [len(page) for page in pages] == [4, 4, 4, 3]
