"""The peer most teams would write: FastAPI, SQLAlchemy's async ORM and asyncpg, one session a request, uvicorn.

Started with an address; the database comes from ENROLLMENT_DATABASE_URL. The models are its own, on the same tables.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, ClassVar

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import BigInteger, DateTime, ForeignKey, SmallInteger, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, contains_eager, mapped_column, relationship, selectinload

POOL_SIZE = 16
PAGE_SIZE = 50
ENROLLED = 1


class Base(DeclarativeBase):
    """Base of the models."""

    type_annotation_map: ClassVar = {int: BigInteger, datetime: DateTime(timezone=True)}


class Student(Base):
    """A student."""

    __tablename__ = "students"
    id: Mapped[int] = mapped_column(primary_key=True)
    full_name: Mapped[str]
    email: Mapped[str]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]


class Course(Base):
    """A course with its seats."""

    __tablename__ = "courses"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str]
    title: Mapped[str]
    description: Mapped[str]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    seats: Mapped[Seats] = relationship()


class Seats(Base):
    """The seats of a course."""

    __tablename__ = "course_seats"
    course_id: Mapped[int] = mapped_column(ForeignKey("courses.id"), primary_key=True)
    capacity: Mapped[int | None]
    waitlist_capacity: Mapped[int]
    enroll_open_time: Mapped[datetime | None]
    enroll_close_time: Mapped[datetime | None]
    enrolled_count: Mapped[int]
    waitlisted_count: Mapped[int]
    last_sequence: Mapped[int]
    last_event_time: Mapped[datetime | None]


class Enrollment(Base):
    """A student in a course."""

    __tablename__ = "student_courses"
    student_id: Mapped[int] = mapped_column(ForeignKey("students.id"), primary_key=True)
    course_id: Mapped[int] = mapped_column(ForeignKey("courses.id"), primary_key=True)
    create_time: Mapped[datetime]
    state: Mapped[int] = mapped_column(SmallInteger)
    sequence: Mapped[int]
    enroll_time: Mapped[datetime]
    course: Mapped[Course] = relationship()


class Event(Base):
    """One transition of an enrollment."""

    __tablename__ = "enrollment_events"
    course_id: Mapped[int] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[int] = mapped_column(SmallInteger)
    student_id: Mapped[int]
    previous_state: Mapped[int] = mapped_column(SmallInteger)
    state: Mapped[int] = mapped_column(SmallInteger)
    enrolled_count: Mapped[int]
    waitlisted_count: Mapped[int]
    capacity: Mapped[int | None]
    event_time: Mapped[datetime]


class Message(BaseModel):
    """Base of what goes out: read from the models."""

    model_config = ConfigDict(from_attributes=True)


class SeatsOut(Message):
    """The seats of a course."""

    capacity: int | None
    waitlist_capacity: int
    enroll_open_time: datetime | None
    enroll_close_time: datetime | None
    enrolled_count: int
    waitlisted_count: int


class CourseOut(Message):
    """A course with its seats."""

    id: int
    code: str
    title: str
    description: str
    create_time: datetime
    update_time: datetime
    seats: SeatsOut


class EnrollmentOut(Message):
    """An enrollment with its course."""

    student_id: int
    course_id: int
    state: int
    create_time: datetime
    enroll_time: datetime
    course: CourseOut


class StudentOut(Message):
    """A student."""

    id: int
    full_name: str
    email: str
    create_time: datetime
    update_time: datetime


class StudentCourses(Message):
    """A student and the courses they are enrolled in."""

    student: StudentOut
    enrollments: list[EnrollmentOut]


class EnrollIn(BaseModel):
    """Who enrolls where."""

    student_id: int
    course_id: int


engine = create_async_engine(
    os.environ["ENROLLMENT_DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"),
    pool_size=POOL_SIZE,
    max_overflow=0,
)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def session() -> AsyncIterator[AsyncSession]:
    """One session a request."""
    async with sessions() as opened:
        yield opened


Session = Annotated[AsyncSession, Depends(session)]


def refuse_unless_open(seats: Seats, now: datetime) -> None:
    """Check the window and the capacity."""
    if seats.enroll_open_time and now < seats.enroll_open_time:
        raise HTTPException(409, "enrollment is not open yet")
    if seats.enroll_close_time and now >= seats.enroll_close_time:
        raise HTTPException(409, "enrollment is closed")
    if seats.capacity is not None and seats.enrolled_count >= seats.capacity:
        raise HTTPException(409, "the course is full")


@app.post("/enrollments", status_code=201, response_model=EnrollmentOut)
async def enroll(body: EnrollIn, db: Session) -> Enrollment:
    """Enroll a student in a course."""
    wanted = select(Course).join(Course.seats).where(Course.id == body.course_id).options(contains_eager(Course.seats))
    course = await db.scalar(wanted.with_for_update(key_share=True, of=Seats))
    if course is None:
        raise HTTPException(404, "no such course")
    seats = course.seats
    now = datetime.now(UTC)
    refuse_unless_open(seats, now)
    seats.enrolled_count += 1
    seats.last_sequence += 1
    seats.last_event_time = now
    ids = {"student_id": body.student_id, "course_id": body.course_id, "sequence": seats.last_sequence}
    enrollment = Enrollment(**ids, state=ENROLLED, create_time=now, enroll_time=now, course=course)
    after = {
        "enrolled_count": seats.enrolled_count,
        "waitlisted_count": seats.waitlisted_count,
        "capacity": seats.capacity,
    }
    db.add_all([enrollment, Event(**ids, **after, kind=1, previous_state=0, state=ENROLLED, event_time=now)])
    try:
        await db.commit()
    except IntegrityError as error:
        raise HTTPException(422, "no such student, or already enrolled") from error
    return enrollment


@app.get("/students/{student_id}/courses", response_model=StudentCourses)
async def list_courses(student_id: int, db: Session) -> dict[str, object]:
    """List the courses of a student, each with its details."""
    student = await db.get(Student, student_id)
    if student is None:
        raise HTTPException(404, "no such student")
    page = select(Enrollment).where(Enrollment.student_id == student_id).order_by(Enrollment.course_id).limit(PAGE_SIZE)
    details = selectinload(Enrollment.course).selectinload(Course.seats)
    return {"student": student, "enrollments": (await db.scalars(page.options(details))).all()}


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    uvicorn.run(app, host=host, port=int(port), loop="uvloop", http="httptools", access_log=False, log_level="warning")
