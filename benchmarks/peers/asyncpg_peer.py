"""The peer most like the service: grpc.aio and asyncpg's pool, one transaction a call, no batching, no logs.

Started with an address; the database comes from ENROLLMENT_DATABASE_URL.

With `--bare` each call takes one prepared statement on a connection of its own instead of the pool and the six round
trips: the least that a single call can take.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import asyncpg
import grpc
import uvloop
from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.v1.enrollment_pb2 import (
    ENROLLMENT_STATE_ENROLLED,
    Course,
    Enrollment,
    EnrollStudentRequest,
    EnrollStudentResponse,
    ListStudentCoursesRequest,
    ListStudentCoursesResponse,
    Student,
)
from enrollment_service.v1.enrollment_pb2_grpc import (
    EnrollmentServiceServicer,
    add_EnrollmentServiceServicer_to_server,
)

POOL_SIZE = 16

COURSE = """
    c.id AS course_id, c.code, c.title, c.description, c.create_time AS course_created, c.update_time AS course_updated,
    s.capacity, s.waitlist_capacity, s.enroll_open_time, s.enroll_close_time, s.enrolled_count, s.waitlisted_count,
    s.last_sequence, s.version
"""
LOCK = f"""
    SELECT {COURSE} FROM course_seats s JOIN courses c ON c.id = s.course_id
    WHERE s.course_id = $1 FOR NO KEY UPDATE OF s
"""
INSERT = """
    INSERT INTO student_courses (student_id, course_id, create_time, state, sequence, enroll_time)
    VALUES ($1, $2, $4, 1, $3, $4)
"""
EVENT = """
    INSERT INTO enrollment_events (course_id, sequence, kind, student_id, previous_state, state, enrolled_count,
        waitlisted_count, capacity, event_time)
    VALUES ($2, $3, 1, $1, 0, 1, $5, $6, $7, $4)
"""
COUNT = """
    UPDATE course_seats SET enrolled_count = enrolled_count + 1, last_sequence = $2, last_event_time = $3
    WHERE course_id = $1
"""
LIST = f"""
    SELECT e.create_time, e.enroll_time, e.state, e.sequence, {COURSE},
        p.id AS student_id, p.full_name, p.email, p.create_time AS created, p.update_time AS updated,
        p.version AS student_version
    FROM students p
    LEFT JOIN (student_courses e JOIN courses c ON c.id = e.course_id JOIN course_seats s ON s.course_id = e.course_id)
        ON e.student_id = p.id
    WHERE p.id = $1 ORDER BY e.course_id LIMIT 51
"""
# The four statements above in one; full or closed courses yield no row.
BARE = f"""
    WITH seat AS ({LOCK}),
    open AS (
        SELECT * FROM seat
        WHERE (capacity IS NULL OR enrolled_count < capacity)
            AND (enroll_open_time IS NULL OR enroll_open_time <= now())
            AND (enroll_close_time IS NULL OR enroll_close_time > now())
    ),
    enrollment AS (
        INSERT INTO student_courses (student_id, course_id, create_time, state, sequence, enroll_time)
        SELECT $2, course_id, now(), 1, last_sequence + 1, now() FROM open
    ),
    event AS (
        INSERT INTO enrollment_events (course_id, sequence, kind, student_id, previous_state, state, enrolled_count,
            waitlisted_count, capacity, event_time)
        SELECT course_id, last_sequence + 1, 1, $2, 0, 1, enrolled_count + 1, waitlisted_count, capacity, now()
        FROM open
    ),
    counted AS (
        UPDATE course_seats s SET enrolled_count = s.enrolled_count + 1, last_sequence = s.last_sequence + 1,
            last_event_time = now()
        FROM open WHERE s.course_id = open.course_id
    )
    SELECT *, now() AS now FROM open
"""

Context = grpc.aio.ServicerContext[EnrollStudentRequest, EnrollStudentResponse]
ListContext = grpc.aio.ServicerContext[ListStudentCoursesRequest, ListStudentCoursesResponse]


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Convert a time that may be unset."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def course(row: asyncpg.Record, enrolled_now: int = 0) -> Course:
    """Build the course with its counts."""
    return Course(
        course_id=row["course_id"],
        code=row["code"],
        title=row["title"],
        description=row["description"],
        capacity=row["capacity"],
        waitlist_capacity=row["waitlist_capacity"],
        enroll_open_time=timestamp(row["enroll_open_time"]),
        enroll_close_time=timestamp(row["enroll_close_time"]),
        enrolled_count=row["enrolled_count"] + enrolled_now,
        waitlisted_count=row["waitlisted_count"],
        create_time=timestamp(row["course_created"]),
        update_time=timestamp(row["course_updated"]),
        etag=str(row["version"]),
    )


def student(row: asyncpg.Record) -> Student:
    """Build the student."""
    return Student(
        student_id=row["student_id"],
        full_name=row["full_name"],
        email=row["email"],
        create_time=timestamp(row["created"]),
        update_time=timestamp(row["updated"]),
        etag=str(row["student_version"]),
    )


def listed(row: asyncpg.Record) -> Enrollment:
    """Build one row of the list."""
    return Enrollment(
        student_id=row["student_id"],
        course_id=row["course_id"],
        state=row["state"],
        enroll_time=timestamp(row["enroll_time"]),
        create_time=timestamp(row["create_time"]),
        etag=str(row["sequence"]),
        course=course(row),
    )


def enrolled(student_id: int, row: asyncpg.Record, now: datetime) -> EnrollStudentResponse:
    """Build the answer to an enrollment that was made just now."""
    enrollment = Enrollment(
        student_id=student_id,
        course_id=row["course_id"],
        state=ENROLLMENT_STATE_ENROLLED,
        enroll_time=timestamp(now),
        create_time=timestamp(now),
        etag=str(row["last_sequence"] + 1),
        course=course(row, enrolled_now=1),
    )
    return EnrollStudentResponse(enrollments=[enrollment])


def refusal(row: asyncpg.Record, now: datetime) -> str | None:
    """Why nobody may enroll now, if so."""
    if row["enroll_open_time"] and now < row["enroll_open_time"]:
        return "ENROLLMENT_NOT_OPEN"
    if row["enroll_close_time"] and now >= row["enroll_close_time"]:
        return "ENROLLMENT_CLOSED"
    if row["capacity"] is not None and row["enrolled_count"] >= row["capacity"]:
        return "COURSE_FULL"
    return None


class Pooled(EnrollmentServiceServicer):
    """One transaction a call, through asyncpg's pool."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def EnrollStudent(self, request: EnrollStudentRequest, context: Context) -> EnrollStudentResponse:  # noqa: N802
        """Lock the course, check, insert enrollment and event, count, commit."""
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(LOCK, request.course_ids[0])
                now = datetime.now(UTC)
                if row is not None and (reason := refusal(row, now)) is None:
                    sequence = row["last_sequence"] + 1
                    await connection.execute(INSERT, request.student_id, row["course_id"], sequence, now)
                    after = (row["enrolled_count"] + 1, row["waitlisted_count"], row["capacity"])
                    await connection.execute(EVENT, request.student_id, row["course_id"], sequence, now, *after)
                    await connection.execute(COUNT, row["course_id"], sequence, now)
        except asyncpg.UniqueViolationError:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_ENROLLED")
        except asyncpg.ForeignKeyViolationError:
            await context.abort(grpc.StatusCode.NOT_FOUND, "STUDENT_NOT_FOUND")
        if row is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "COURSE_NOT_FOUND")
        if reason is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        return enrolled(request.student_id, row, now)

    async def ListStudentCourses(  # noqa: N802
        self, request: ListStudentCoursesRequest, context: ListContext
    ) -> ListStudentCoursesResponse:
        """One statement for the student and the first page of courses."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(LIST, request.student_id)
        if not rows:
            await context.abort(grpc.StatusCode.NOT_FOUND, "STUDENT_NOT_FOUND")
        enrollments = [listed(row) for row in rows[:50] if row["course_id"] is not None]
        return ListStudentCoursesResponse(student=student(rows[0]), enrollments=enrollments)


class Bare(EnrollmentServiceServicer):
    """One prepared statement a call, each on the connection that was used last."""

    def __init__(self, enrolls: list[Callable[..., Awaitable[asyncpg.Record | None]]]) -> None:
        self._free: asyncio.LifoQueue[Callable[..., Awaitable[asyncpg.Record | None]]] = asyncio.LifoQueue()
        for enroll in enrolls:
            self._free.put_nowait(enroll)

    async def EnrollStudent(self, request: EnrollStudentRequest, context: Context) -> EnrollStudentResponse:  # noqa: N802
        """Enroll in one statement."""
        enroll = await self._free.get()
        try:
            row = await enroll(request.course_ids[0], request.student_id)
        except asyncpg.UniqueViolationError:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_ENROLLED")
        finally:
            self._free.put_nowait(enroll)
        if row is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "COURSE_FULL")
        return enrolled(request.student_id, row, row["now"])


async def serve(address: str, database_url: str, *, bare: bool) -> None:
    """Serve until the process is ended."""
    settings = {"jit": "off"}
    servicer: EnrollmentServiceServicer
    if bare:
        connections = [await asyncpg.connect(database_url, server_settings=settings) for _ in range(POOL_SIZE)]
        servicer = Bare([(await connection.prepare(BARE)).fetchrow for connection in connections])
    else:
        servicer = Pooled(
            await asyncpg.create_pool(database_url, min_size=POOL_SIZE, max_size=POOL_SIZE, server_settings=settings)
        )
    server = grpc.aio.server()
    add_EnrollmentServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], os.environ["ENROLLMENT_DATABASE_URL"], bare="--bare" in sys.argv))
