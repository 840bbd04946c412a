"""The event log: one row per transition. Existing enrollments enter it as they stand, with reason `migration`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from enrollment_service.store.models import Xid8

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "enrollment_events",
        sa.Column("course_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("student_id", sa.BigInteger(), nullable=False),
        sa.Column("previous_state", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("waitlist_position", sa.Integer(), server_default="0", nullable=False),
        sa.Column("event_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.Text(), server_default="", nullable=False),
        sa.Column("reason", sa.String(64), server_default="", nullable=False),
        sa.Column("xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.PrimaryKeyConstraint("course_id", "sequence", name="pk_enrollment_events"),
    )
    _log_what_is_there()


def _log_what_is_there() -> None:
    """One event per row, in a numbering of its own: where events were dropped before, the old one has holes."""
    op.execute(
        "UPDATE student_courses e SET sequence = n.sequence FROM ("
        "SELECT student_id, course_id, row_number() OVER (PARTITION BY course_id ORDER BY sequence) AS sequence "
        "FROM student_courses) n WHERE n.student_id = e.student_id AND n.course_id = e.course_id "
        "AND n.sequence <> e.sequence"
    )
    op.execute(
        "UPDATE course_seats s SET last_sequence = n.live, last_event_time = n.latest FROM ("
        "SELECT c.course_id, count(e.student_id) AS live, max(e.enroll_time) AS latest FROM course_seats c "
        "LEFT JOIN student_courses e USING (course_id) GROUP BY c.course_id) n "
        "WHERE n.course_id = s.course_id "
        "AND (n.live, n.latest) IS DISTINCT FROM (s.last_sequence, s.last_event_time)"
    )
    op.execute(
        "INSERT INTO enrollment_events "
        "(course_id, sequence, student_id, previous_state, state, waitlist_position, event_time, reason) "
        "SELECT course_id, sequence, student_id, 0, state, "
        "CASE WHEN state = 2 THEN row_number() OVER (PARTITION BY course_id, state ORDER BY sequence) ELSE 0 END, "
        "max(enroll_time) OVER (PARTITION BY course_id ORDER BY sequence), 'migration' FROM student_courses"
    )


def downgrade() -> None:
    op.drop_table("enrollment_events")
