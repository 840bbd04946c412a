"""Both lists of enrollments over the wire: details in place, states, order, and no statement per row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Engine, event

from enrollment_service.store.probe import QUESTION
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import Client
from tests.support.refusals import refused

ENROLLED, WAITLISTED, DROPPED = (
    pb.ENROLLMENT_STATE_ENROLLED,
    pb.ENROLLMENT_STATE_WAITLISTED,
    pb.ENROLLMENT_STATE_DROPPED,
)


async def test_retrieve_courses_for_student_returns_correct_data(client: Client) -> None:
    student = await client.create_student("Ann Lee", "ann@example.org")
    drawing = await client.create_course("ART-1", "Drawing", description="Charcoal.", capacity=30)
    botany = await client.create_course("BIO-1", "Botany")
    await client.create_course("CHE-1", "Chemistry")
    taken = await client.enroll(student.student_id, botany.course_id, drawing.course_id)

    answer = await client.call("ListStudentCourses", student_id=student.student_id)
    assert answer.student == student
    assert [one.course_id for one in answer.enrollments] == [drawing.course_id, botany.course_id]
    for course in (drawing, botany):
        course.enrolled_count = 1
    assert [one.course for one in answer.enrollments] == [drawing, botany]
    assert [one.enroll_time for one in answer.enrollments] == [taken[1].enroll_time, taken[0].enroll_time]
    assert [one.etag for one in answer.enrollments] == [taken[1].etag, taken[0].etag]
    assert not any(one.HasField("student") for one in answer.enrollments)
    assert answer.next_page_token == ""


async def test_get_student_courses_returns_correct_data(client: Client) -> None:
    ann, bo = await client.students(2)
    course_ids = await client.courses(3)
    await client.enroll(ann, *course_ids)
    await client.enroll(bo, course_ids[1])
    assert await client.courses_of(ann) == course_ids
    assert await client.courses_of(bo) == [course_ids[1]]
    answer = await client.call("ListStudentCourses", student_id=bo)
    assert [one.course.enrolled_count for one in answer.enrollments] == [2]
    (nobody,) = await client.students(1)
    answer = await client.call("ListStudentCourses", student_id=nobody)
    assert (answer.student.student_id, list(answer.enrollments)) == (nobody, [])


@pytest.mark.parametrize(("student_id", "code"), [(0, "INVALID_ARGUMENT"), (-5, "INVALID_ARGUMENT"), (77, "NOT_FOUND")])
async def test_get_student_courses_invalid_id(client: Client, student_id: int, code: str) -> None:
    if code == "NOT_FOUND":
        with refused(code, "STUDENT_NOT_FOUND", metadata={"student_id": "77"}, resources=["students/77"]):
            await client.call("ListStudentCourses", student_id=student_id)
    else:
        with refused(code, "INVALID_FIELD", fields=["student_id"]):
            await client.call("ListStudentCourses", student_id=student_id)


async def test_the_students_of_a_course_come_with_their_details(client: Client) -> None:
    course = await client.create_course()
    students = [await client.create_student(name) for name in ("Ann", "Bo", "Cy")]
    for student in reversed(students):
        await client.enroll(student.student_id, course.course_id)
    answer = await client.call("ListCourseStudents", course_id=course.course_id)
    course.enrolled_count = 3
    assert answer.course == course
    assert [one.student for one in answer.enrollments] == students
    assert {one.course_id for one in answer.enrollments} == {course.course_id}
    assert not any(one.HasField("course") for one in answer.enrollments)


@pytest.mark.parametrize(("course_id", "code"), [(0, "INVALID_ARGUMENT"), (77, "NOT_FOUND")])
async def test_the_students_of_a_course_that_is_not_there(client: Client, course_id: int, code: str) -> None:
    reason = "INVALID_FIELD" if code == "INVALID_ARGUMENT" else "COURSE_NOT_FOUND"
    with refused(code, reason):
        await client.call("ListCourseStudents", course_id=course_id)


async def a_full_course(client: Client) -> tuple[int, list[int]]:
    """A course of two seats, and its students: two enrolled, then three waiters, not in the order of their ids."""
    (course_id,) = await client.courses(1, capacity=2, waitlist_capacity=5)
    ids = await client.students(5)
    order = [ids[1], ids[0], ids[4], ids[2], ids[3]]
    for student_id in order:
        await client.enroll(student_id, course_id, on_full=pb.ON_FULL_WAITLIST)
    return course_id, [ids[0], ids[1], *order[2:]]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
async def test_a_roster_has_the_enrolled_by_id_then_the_waiters_by_position(client: Client, size: int) -> None:
    course_id, expected = await a_full_course(client)
    pages = await client.pages("ListCourseStudents", "enrollments", course_id=course_id, page_size=size)
    rows = [row for page in pages for row in page]
    assert [one.student_id for one in rows] == expected
    assert [one.state for one in rows] == [ENROLLED] * 2 + [WAITLISTED] * 3
    assert [one.waitlist_position for one in rows] == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("states", "rows"),
    [([], 5), ([ENROLLED], 2), ([WAITLISTED], 3), ([ENROLLED, WAITLISTED], 5), ([WAITLISTED, WAITLISTED], 3)],
)
async def test_lists_show_the_states_that_were_asked_for(client: Client, states: list[int], rows: int) -> None:
    course_id, students = await a_full_course(client)
    answer = await client.call("ListCourseStudents", course_id=course_id, states=states)
    assert len(answer.enrollments) == rows
    listed = {one.student_id for one in answer.enrollments}
    for student_id in students:
        answer = await client.call("ListStudentCourses", student_id=student_id, states=states)
        assert [one.course_id for one in answer.enrollments] == ([course_id] if student_id in listed else [])


async def test_a_waiter_sees_the_position_everywhere(client: Client) -> None:
    course_id, students = await a_full_course(client)
    for position, student_id in enumerate(students[2:], start=1):
        (listed,) = (await client.call("ListStudentCourses", student_id=student_id)).enrollments
        got = (await client.call("GetEnrollment", student_id=student_id, course_id=course_id)).enrollment
        assert listed.waitlist_position == got.waitlist_position == position
        assert listed.state == got.state == WAITLISTED
        assert listed.course == got.course
        assert (listed.course.enrolled_count, listed.course.waitlisted_count) == (2, 3)


@pytest.mark.parametrize("states", [[DROPPED], [ENROLLED, DROPPED], [0], [999], [-1]])
@pytest.mark.parametrize("method", ["ListStudentCourses", "ListCourseStudents"])
async def test_other_states_are_refused(client: Client, method: str, states: list[int]) -> None:
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    fields = {"student_id": student_id} if method == "ListStudentCourses" else {"course_id": course_id}
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["states"]):
        await client.call(method, states=states, **fields)


async def test_a_list_shows_the_details_of_today(client: Client, start_service: StartService) -> None:
    """Also where another server has changed them: what one remembers is bound to the version it read."""
    other = (await start_service()).client
    (student_id,), course = await client.students(1), await client.create_course(title="Old", capacity=5)
    await client.enroll(student_id, course.course_id)
    for reader in (client, other):
        assert (await reader.call("ListStudentCourses", student_id=student_id)).enrollments[0].course.title == "Old"
    course.title = "New"
    await other.call("UpdateCourse", course=course, update_mask={"paths": ["title"]})
    for reader in (client, other):
        assert (await reader.call("ListStudentCourses", student_id=student_id)).enrollments[0].course.title == "New"
        (shown,) = await reader.enroll((await reader.students(1))[0], course.course_id)
        assert shown.course.title == "New"


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every statement that services started from here on send, be it through SQLAlchemy or past it."""
    sent: list[str] = []
    connect = asyncpg.connect

    async def listen(*arguments: Any, **options: Any) -> Any:
        connection = await connect(*arguments, **options)
        connection.add_query_logger(lambda record: sent.append(record.query))
        return connection

    def seen(_: Any, __: Any, statement: str, *___: Any) -> None:
        sent.append(statement)

    monkeypatch.setattr(asyncpg, "connect", listen)
    event.listen(Engine, "before_cursor_execute", seen)
    yield sent
    event.remove(Engine, "before_cursor_execute", seen)


def real(statements: list[str]) -> list[str]:
    """Without what only begins or ends a transaction, or asks whether a connection lives or the database is well."""
    aside = ("BEGIN", "COMMIT", "ROLLBACK", ";", QUESTION)
    return [one for one in statements if not one.startswith(aside)]


@pytest.mark.parametrize("warm", [False, True])
async def test_the_number_of_statements_does_not_grow_with_the_number_of_rows(
    statements: list[str], start_service: StartService, warm: bool
) -> None:
    """From a server that has seen none of the courses before, and from one that remembers them all."""
    writer = (await start_service()).client
    counts: dict[str, list[int]] = {}
    for size in (1, 40):
        course_ids, student_ids = await writer.courses(size), await writer.students(size)
        for student_id in student_ids[1:]:
            await writer.enroll(student_id, course_ids[0])
        reader = writer if warm else (await start_service()).client
        calls: list[tuple[str, dict[str, Any]]] = [
            ("EnrollStudent", {"student_id": student_ids[0], "course_ids": course_ids}),
            ("ListStudentCourses", {"student_id": student_ids[0]}),
            ("ListCourseStudents", {"course_id": course_ids[0]}),
            ("ListCourses", {"page_size": size}),
            ("ListStudents", {"page_size": size}),
        ]
        for method, fields in calls:
            statements.clear()
            answer = await reader.call(method, **fields)
            assert len(answer.ListFields()[-1][1] if method == "EnrollStudent" else rows_of(answer)) == size
            counts.setdefault(method, []).append(len(real(statements)))
    assert {method: few for method, (few, many) in counts.items() if many > few} == {}
    assert all(few for few, _ in counts.values())


def rows_of(answer: Any) -> list[Any]:
    return next(list(getattr(answer, name)) for name in ("enrollments", "courses", "students") if hasattr(answer, name))
