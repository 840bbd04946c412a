"""The histories of `tests/histories.py` as calls, and what is answered in the terms of `tests/model.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.api.status import CODES
from enrollment_service.domain.commands import (
    Command,
    DeleteCourse,
    DeleteStudent,
    Enroll,
    GrantWaivers,
    Import,
    Reconcile,
    RevokeWaivers,
    Swap,
    Unenroll,
    UpdateCourse,
    UpdateStudent,
)
from enrollment_service.domain.errors import Reason
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import PATIENCE, Client
from tests.support.databases import Connection
from tests.support.histories import COURSES, STUDENTS, Batch, Cast
from tests.support.model import Broken, LogLine, Model, Row, Waived
from tests.support.refusals import check_form, refusal_of
from tests.support.services import START, Clock


class Play:
    """One history on a service: whoever is missing is created, then the commands of a batch are sent."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self.client = client
        self.clock = clock
        self.model = Model(START)
        self.cast = Cast()

    async def begin(self, batch: Batch) -> list[Command[Any]]:
        """The commands of a batch with ids in them, once everybody they may name is there."""
        self.model.now += timedelta(hours=batch.hours)
        await self.clock.set(self.model.now)
        for slot in STUDENTS:
            if self.cast.students.get(slot) not in self.model.students:
                student_id = self.cast.students[slot] = (await self.client.create_student()).student_id
                self.model.create_student(student_id)
        for slot in COURSES:
            if self.cast.courses.get(slot) not in self.model.courses:
                course_id = self.cast.courses[slot] = await self._create_course(batch.rules)
                self.model.create_course(course_id, **batch.rules)
        return [self.cast.resolve(command, self.model) for command in batch.commands]

    async def _create_course(self, rules: dict[str, Any]) -> int:
        return (await self.client.create_course(**course_fields(rules))).course_id

    async def check_tables(self, connection: Connection) -> None:
        """Rows, positions and events are those of the model."""
        rows, course_ids = [], sorted(self.model.courses)
        for course_id in course_ids:
            answer = await self.client.call("ListCourseStudents", course_id=course_id)
            rows += [row_of(one) for one in answer.enrollments]
            found = await self.client.call("ListWaivers", course_id=course_id, page_size=1000)
            assert waivers_of(found.waivers) == self.model.waivers(course_id)
        assert sorted(rows) == self.model.rows()
        events = await connection.fetch(
            f"SELECT {', '.join(LogLine._fields)} FROM enrollment_events WHERE course_id = ANY($1) ORDER BY 1, 2",
            list(self.model.log),
        )
        assert [tuple(_hashable(value) for value in event) for event in events] == self.model.events()


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def stamp(moment: datetime) -> Timestamp:
    """A time as a protobuf timestamp."""
    stamped = Timestamp()
    stamped.FromDatetime(moment)
    return stamped


def course_fields(rules: dict[str, Any]) -> dict[str, Any]:
    """Fields for a course message; None means unset."""
    set_ones = {name: value for name, value in rules.items() if value is not None}
    return {name: stamp(value) if isinstance(value, datetime) else value for name, value in set_ones.items()}


def request_of(command: Command[Any]) -> tuple[str, Message]:
    """The method that does the command, and its request."""
    match command:
        case Enroll():
            return "EnrollStudent", pb.EnrollStudentRequest(
                student_id=command.student_id, course_ids=command.course_ids, on_full=_on_full(command.waitlist),
                drop_course_ids=command.drop_course_ids, validate_only=command.validate_only, **_common(command),
            )  # fmt: skip
        case Unenroll():
            return "UnenrollStudent", pb.UnenrollStudentRequest(
                student_id=command.student_id, course_id=command.course_id, allow_missing=command.allow_missing,
                etag=command.etag, **_common(command),
            )  # fmt: skip
        case Swap():
            return "SwapEnrollment", pb.SwapEnrollmentRequest(
                student_id=command.student_id, from_course_id=command.from_course_id,
                to_course_id=command.to_course_id, on_full=_on_full(command.waitlist),
                validate_only=command.validate_only, **_common(command),
            )  # fmt: skip
        case Reconcile():
            return "ReconcileRoster", pb.ReconcileRosterRequest(
                course_id=command.course_id, student_ids=command.student_ids, max_removals=command.max_removals,
                validate_only=command.validate_only, request_id=_request_id(command),
            )  # fmt: skip
        case GrantWaivers():
            return "GrantWaivers", pb.GrantWaiversRequest(
                course_id=command.course_id, student_ids=command.student_ids, reasons=_numbers(command.reasons),
                expire_time=None if command.expire_time is None else stamp(command.expire_time),
                validate_only=command.validate_only, **_common(command),
            )  # fmt: skip
        case RevokeWaivers():
            return "RevokeWaivers", pb.RevokeWaiversRequest(
                course_id=command.course_id, student_ids=command.student_ids, reasons=_numbers(command.reasons),
                validate_only=command.validate_only, **_common(command),
            )  # fmt: skip
    return _request_about_a_row(command)


def _request_about_a_row(command: Command[Any]) -> tuple[str, Message]:
    match command:
        case UpdateCourse():
            course = pb.Course(course_id=command.course_id, etag=command.etag, **course_fields(dict(command.changes)))
            mask = FieldMask(paths=command.changes)
            return "UpdateCourse", pb.UpdateCourseRequest(course=course, update_mask=mask, **_common(command))
        case DeleteCourse():
            return "DeleteCourse", pb.DeleteCourseRequest(
                course_id=command.course_id, etag=command.etag, force=command.force, **_common(command)
            )
        case UpdateStudent():
            student = pb.Student(student_id=command.student_id, etag=command.etag, **command.changes)
            mask = FieldMask(paths=command.changes)
            return "UpdateStudent", pb.UpdateStudentRequest(
                student=student, update_mask=mask, request_id=_request_id(command)
            )
        case DeleteStudent():
            return "DeleteStudent", pb.DeleteStudentRequest(
                student_id=command.student_id, etag=command.etag, force=command.force, request_id=_request_id(command)
            )
    raise AssertionError(command)


def _numbers(reasons: Iterable[str]) -> list[pb.ErrorReason]:
    return [getattr(pb, f"ERROR_REASON_{reason}") for reason in reasons]


def waivers_of(waivers: Iterable[pb.Waiver]) -> list[Waived]:
    """Waivers as the model writes them."""
    return [
        (
            one.course_id,
            one.student_id,
            tuple(pb.ErrorReason.Name(reason).removeprefix("ERROR_REASON_") for reason in one.reasons),
            one.expire_time.ToDatetime(UTC) if one.HasField("expire_time") else None,
            one.create_time.ToDatetime(UTC),
        )
        for one in waivers
    ]


def _common(command: Command[Any]) -> dict[str, str]:
    return {"request_id": _request_id(command), "reason": command.reason}


def _request_id(command: Command[Any]) -> str:
    return str(command.request_id) if command.request_id else ""


def _on_full(waitlist: bool) -> pb.OnFull:
    return pb.ON_FULL_WAITLIST if waitlist else pb.ON_FULL_REJECT


async def send(client: Client, command: Command[Any]) -> Any:
    """What the command is answered, as the model answers it (see `as_seen`)."""
    try:
        if isinstance(command, Import):
            return _import_answer(await import_chunk(client, command))
        method, request = request_of(command)
        return _answer(command, await client.call(method, request))
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        check_form(refusal, error)
        if refusal.preconditions:
            assert refusal.preconditions[0][0] == refusal.reason
            return refusal.preconditions
        subjects = refusal.resources or refusal.fields
        return [(refusal.reason, subjects[0]), *(("", subject) for subject in subjects[1:])]


async def import_chunk(client: Client, command: Import, chunk_id: int = 1) -> pb.ImportEnrollmentsResponse:
    """The answer to a stream of one chunk."""
    chunk = pb.ImportEnrollmentsRequest(
        chunk_id=chunk_id, student_ids=command.student_ids, course_ids=command.course_ids,
        on_full=_on_full(command.waitlist), request_id=_request_id(command),
    )  # fmt: skip
    call = client.stub.ImportEnrollments(iter([chunk]), timeout=PATIENCE)
    answers: list[pb.ImportEnrollmentsResponse] = [response async for response in call]
    assert len(answers) == 1
    return answers[0]


def as_seen(command: Command[Any], answer: Any) -> Any:
    """The model's answer without what a caller does not see."""
    if isinstance(command, Unenroll) and isinstance(answer, tuple):
        return answer[0], []
    if isinstance(answer, list) and answer and isinstance(answer[0][0], str) and not _are_preconditions(answer):
        return [answer[0], *(("", subject) for _, subject in answer[1:])]
    return answer


def _are_preconditions(broken: Sequence[Broken]) -> bool:
    """Only these come with the reason of each violation."""
    return CODES[Reason(broken[0][0])] is grpc.StatusCode.FAILED_PRECONDITION


def row_of(enrollment: pb.Enrollment) -> Row:
    """An enrollment as the model writes it."""
    times = [
        getattr(enrollment, name).ToDatetime(UTC) if enrollment.HasField(name) else None
        for name in ("enroll_time", "create_time")
    ]
    return (
        enrollment.student_id,
        enrollment.course_id,
        enrollment.state,
        enrollment.waitlist_position,
        times[0],
        times[1],
        int(enrollment.etag or 0),
        enrollment.swap_from_course_id,
    )


def _rows(enrollments: Sequence[pb.Enrollment]) -> Any:
    counts = [(one.course.enrolled_count, one.course.waitlisted_count) for one in enrollments if one.HasField("course")]
    return [row_of(one) for one in enrollments], counts


def _answer(command: Command[Any], response: Any) -> Any:
    match command:
        case Enroll():
            return _rows(response.enrollments)
        case Unenroll():
            return _rows([response.enrollment])
        case Swap():
            return _rows([response.dropped, response.enrolled] if response.HasField("dropped") else [response.enrolled])
        case Reconcile():
            return list(response.added), list(response.removed), response.unchanged_count
        case GrantWaivers() | RevokeWaivers():
            return waivers_of(response.waivers)
        case UpdateCourse():
            return int(response.course.etag), (response.course.enrolled_count, response.course.waitlisted_count)
        case UpdateStudent():
            return int(response.student.etag)
    return ()


def _import_answer(response: pb.ImportEnrollmentsResponse) -> Any:
    rejected = [
        (row.index, pb.ErrorReason.Name(row.reason).removeprefix("ERROR_REASON_")) for row in response.rejected_rows
    ]
    assert response.rejected == len(rejected)
    return response.enrolled, response.waitlisted, response.already_enrolled, rejected
