"""The tables, one class of rows each. What stands here and what the migrations build is the same: `alembic check`.

The relationships are for scripts and tests; no RPC walks them, so they raise rather than load lazily.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Text,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import UserDefinedType

from enrollment_service.domain.records import (
    COURSE_CREATED,
    COURSE_DELETED,
    COURSE_UPDATED,
    ENROLLED,
    OF_WAIVER,
    WAITLISTED,
)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

timestamptz = DateTime(timezone=True)
_GLOBALLY: ColumnElement[str] = literal_column("'g'")


class Xid8(UserDefinedType[int]):
    """PostgreSQL's xid8, the 64-bit id of a transaction."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


class Base(DeclarativeBase):
    """Base of all models: bigint ids, timestamptz times, named constraints."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar = {int: BigInteger, datetime: timestamptz, str: Text}


def code_key(code: Any) -> ColumnElement[str]:
    """What tells two codes apart: neither case nor surrounding or doubled spaces do."""
    single_spaced = func.regexp_replace(func.btrim(code), literal_column("' +'"), literal_column("' '"), _GLOBALLY)
    return func.lower(single_spaced.collate("C"))


def _prefix_index(name: str, column: Mapped[Any]) -> Index:
    """An index for prefix queries: LIKE 'ann%' can use it whatever the database's collation."""
    lowered = func.lower(column).label("lowered")  # a label, because operator classes are given by name
    return Index(name, lowered, postgresql_ops={"lowered": "text_pattern_ops"})


class StudentRow(Base):
    """A person. The only table that holds personal data."""

    __tablename__ = "students"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    full_name: Mapped[str] = mapped_column(String(200))
    email: Mapped[str] = mapped_column(String(254))
    external_id: Mapped[str | None] = mapped_column(String(255))
    create_time: Mapped[datetime] = mapped_column(server_default=func.now())
    update_time: Mapped[datetime] = mapped_column(server_default=func.now())
    version: Mapped[int] = mapped_column(server_default="1")

    enrollments: Mapped[list[EnrollmentRow]] = relationship(
        back_populates="student", lazy="raise", passive_deletes="all"
    )

    __table_args__ = (
        Index("uq_students_email", func.lower(email), unique=True),
        _prefix_index("ix_students_full_name_prefix", full_name),
        _prefix_index("ix_students_email_prefix", email),
        # Partial, so that it is no key: who is entered in a course does not wait for a change of it, nor the other way.
        Index("uq_students_external_id", external_id, unique=True, postgresql_where=external_id.is_not(None)),
        _prefix_index("ix_students_external_id_prefix", external_id),
    )


class CourseRow(Base):
    """What a course is. How many sit in it stands in `course_seats`."""

    __tablename__ = "courses"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    code: Mapped[str] = mapped_column(String(40))
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(String(2000), server_default="")
    external_id: Mapped[str | None] = mapped_column(String(255))
    create_time: Mapped[datetime] = mapped_column(server_default=func.now())
    update_time: Mapped[datetime] = mapped_column(server_default=func.now())

    enrollments: Mapped[list[EnrollmentRow]] = relationship(
        back_populates="course", lazy="raise", passive_deletes="all"
    )
    seats: Mapped[SeatsRow] = relationship(back_populates="course", lazy="raise", passive_deletes="all")

    __table_args__ = (
        Index("uq_courses_code", code_key(code), unique=True),
        _prefix_index("ix_courses_code_prefix", code),
        _prefix_index("ix_courses_title_prefix", title),
        Index("uq_courses_external_id", external_id, unique=True, postgresql_where=external_id.is_not(None)),
        _prefix_index("ix_courses_external_id_prefix", external_id),
    )


class SeatsRow(Base):
    """The narrow row every change of a course locks: its seat rules and its counts.

    Apart from `courses`, so that the foreign keys of `student_courses` never wait for a seat lock; half-filled
    pages keep its updates HOT.
    """

    __tablename__ = "course_seats"

    course_id: Mapped[int] = mapped_column(ForeignKey("courses.id"), primary_key=True, autoincrement=False)
    capacity: Mapped[int | None] = mapped_column(Integer)
    waitlist_capacity: Mapped[int] = mapped_column(Integer, server_default="0")
    enroll_open_time: Mapped[datetime | None]
    enroll_close_time: Mapped[datetime | None]
    enrolled_count: Mapped[int] = mapped_column(Integer, server_default="0")
    waitlisted_count: Mapped[int] = mapped_column(Integer, server_default="0")
    last_sequence: Mapped[int] = mapped_column(server_default="0")
    last_event_time: Mapped[datetime | None]
    permit_required: Mapped[bool] = mapped_column(server_default=text("false"))
    # How many of those who wait keep another course until promoted.
    swap_count: Mapped[int] = mapped_column(Integer, server_default="0")
    # Counts the changes of what clients write, here and in `courses`; etags and the cache of details rest on it.
    version: Mapped[int] = mapped_column(server_default="1")

    course: Mapped[CourseRow] = relationship(back_populates="seats", lazy="raise")

    __table_args__ = (
        CheckConstraint("enrolled_count <= capacity", name="enrolled_within_capacity"),
        CheckConstraint("enrolled_count >= 0 AND waitlisted_count >= 0", name="counts_not_negative"),
        CheckConstraint("capacity >= 0 AND waitlist_capacity >= 0", name="limits_not_negative"),
        {"postgresql_with": {"fillfactor": "50"}},
    )


class EnrollmentRow(Base):
    """A live enrollment: the row exists exactly while the student is enrolled or waits."""

    __tablename__ = "student_courses"

    student_id: Mapped[int] = mapped_column(ForeignKey("students.id"), primary_key=True)
    course_id: Mapped[int] = mapped_column(ForeignKey("courses.id"), primary_key=True)
    create_time: Mapped[datetime] = mapped_column(server_default=func.now())
    state: Mapped[int] = mapped_column(SmallInteger, server_default=str(ENROLLED))
    # Of the event that began the present state: a waiter's ticket, and the row's etag.
    sequence: Mapped[int]
    enroll_time: Mapped[datetime]
    # Of a waiter: the course that is kept until promoted, and the event that last changed it, if any did.
    swap_from_course_id: Mapped[int | None]
    latest_sequence: Mapped[int | None]

    student: Mapped[StudentRow] = relationship(back_populates="enrollments", lazy="raise")
    course: Mapped[CourseRow] = relationship(back_populates="enrollments", lazy="raise")

    __table_args__ = (
        CheckConstraint(f"state IN ({ENROLLED}, {WAITLISTED})", name="state_is_live"),
        Index("ix_student_courses_course_id_student_id", "course_id", "student_id"),
        Index(
            "ix_student_courses_waiters",
            "course_id",
            "sequence",
            postgresql_where=text(f"state = {WAITLISTED}"),
        ),
        # Both ways along the chains of those who swap; there are few.
        Index(
            "ix_student_courses_swaps",
            "course_id",
            "swap_from_course_id",
            postgresql_where=text("swap_from_course_id IS NOT NULL"),
        ),
        Index(
            "ix_student_courses_swap_from",
            "swap_from_course_id",
            postgresql_where=text("swap_from_course_id IS NOT NULL"),
        ),
    )


class WaiverRow(Base):
    """A refusal that is lifted for a student in a course, until it expires; `sequence` is that of the grant's event."""

    __tablename__ = "waivers"

    course_id: Mapped[int] = mapped_column(ForeignKey("courses.id", ondelete="CASCADE"), primary_key=True)
    student_id: Mapped[int] = mapped_column(ForeignKey("students.id", ondelete="CASCADE"), primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True)
    expire_time: Mapped[datetime | None]
    create_time: Mapped[datetime]
    actor: Mapped[str]
    sequence: Mapped[int]

    # For the deletion of a student.
    __table_args__ = (Index("ix_waivers_student_id", "student_id"),)


class EventRow(Base):
    """One change of an enrollment, a waiver or a course; append-only. No foreign keys, so history outlives deletes.

    Counts and capacity are those of the course after it. `kind` has no default: a server that knows nothing of kinds
    cannot write.
    """

    __tablename__ = "enrollment_events"

    course_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[int] = mapped_column(SmallInteger)
    student_id: Mapped[int | None]
    previous_state: Mapped[int] = mapped_column(SmallInteger)
    state: Mapped[int] = mapped_column(SmallInteger)
    waitlist_position: Mapped[int] = mapped_column(Integer, server_default="0")
    enrolled_count: Mapped[int] = mapped_column(Integer)
    waitlisted_count: Mapped[int] = mapped_column(Integer)
    capacity: Mapped[int | None] = mapped_column(Integer)
    # The names of what COURSE_UPDATED has changed; null in all other events.
    changed_fields: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    event_time: Mapped[datetime]
    request_id: Mapped[UUID | None]
    actor: Mapped[str] = mapped_column(server_default="")
    reason: Mapped[str] = mapped_column(String(64), server_default="")
    waived_reasons: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    waiver_expire_time: Mapped[datetime | None]
    waiver_revoked: Mapped[bool] = mapped_column(server_default=text("false"))
    swap_from_course_id: Mapped[int | None]
    xid: Mapped[int] = mapped_column(Xid8(), server_default=text("pg_current_xact_id()"))

    __table_args__ = (
        CheckConstraint(
            f"(student_id IS NULL) = (kind IN ({COURSE_CREATED}, {COURSE_UPDATED}, {COURSE_DELETED}))",
            name="student_unless_of_course",
        ),
        CheckConstraint(f"(changed_fields IS NOT NULL) = (kind = {COURSE_UPDATED})", name="changes_of_update"),
        CheckConstraint(f"(waived_reasons IS NOT NULL) = (kind = {OF_WAIVER})", name="reasons_of_waiver"),
        Index(
            "ix_enrollment_events_student",
            "student_id",
            "course_id",
            "sequence",
            postgresql_where=text("student_id IS NOT NULL"),
        ),
        Index("ix_enrollment_events_xid", "xid"),
        Index("ix_enrollment_events_event_time", "event_time"),
    )


class RequestRow(Base):
    """A request_id that took effect, and what was answered; kept for as long as retries are promised."""

    __tablename__ = "requests"

    actor: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[UUID] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    # Null only inside the transaction that claims the id.
    outcome: Mapped[Any | None] = mapped_column(JSONB)
    create_time: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index("ix_requests_create_time", "create_time"),)


class FingerprintKeyRow(Base):
    """The one secret under which fingerprints are stored; all servers of a database share it."""

    __tablename__ = "fingerprint_key"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    key: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (CheckConstraint("singleton", name="only_one"),)


class FeedEpochRow(Base):
    """The one name of this log in resume tokens, given anew where what was given out before must not be resumed."""

    __tablename__ = "feed_epoch"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    epoch: Mapped[UUID] = mapped_column(server_default=text("gen_random_uuid()"))

    __table_args__ = (CheckConstraint("singleton", name="only_one"),)


class LogHorizonRow(Base):
    """From when on the log has everything; of what was before, only what the state at that time rests on is sure to be.

    `purged_xid` is at or above every transaction of which an event may have been deleted, and null if none was.
    """

    __tablename__ = "log_horizon"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    since: Mapped[datetime]
    purged_xid: Mapped[int | None] = mapped_column(Xid8())

    __table_args__ = (CheckConstraint("singleton", name="only_one"),)


__all__ = [
    "Base",
    "CourseRow",
    "EnrollmentRow",
    "EventRow",
    "FeedEpochRow",
    "FingerprintKeyRow",
    "LogHorizonRow",
    "RequestRow",
    "SeatsRow",
    "StudentRow",
    "WaiverRow",
]
