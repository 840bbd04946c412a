"""The complete log: courses have events too, and every event carries the counts and the capacity after it.

Stop the service first. A server of an earlier version cannot write to this log, and what it did meanwhile to courses
would be missing from it. Nothing of this can be done row by row behind its back, because numbers move:

- Every course that exists, or that the log knows, gets COURSE_CREATED as its first event, so its other events move up
  by one, and with them the tickets and etags in `student_courses`, and the etags in answers that are kept for retries.
  It has the time at which the course was created, or that of the first event if that was earlier.
- A course that the log knows and that is gone gets COURSE_DELETED as its last event, at the time of the one before.
- Counts are folded from the transitions. Earlier capacities left no trace: all events have the present one, and those
  of courses that are gone have none.

What is added has the reason `migration`. The way down leaves out all events of courses and numbers the others anew.

Request ids: fingerprints are kept under a key from now on, because those of students are made of personal data. The key
is drawn here, so that all servers of a database share it and none has to be told. There is no way back to a bare hash:
after the way down, what was asked for before cannot be told apart, and a retry of it is refused (REQUEST_ID_REUSED).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# The columns that both revisions have; what is new of an event stands in NEW.
COMMON = (
    "course_id, sequence, student_id, previous_state, state, waitlist_position, "
    "event_time, request_id, actor, reason, xid"
)
NEW = "kind, enrolled_count, waitlisted_count, capacity"

# Events of enrollments, moved up by one. 1 is ENROLLED, 2 WAITLISTED.
_FOLDED = """
SELECT course_id, sequence + 1 AS sequence, student_id, previous_state, state, waitlist_position, event_time,
    request_id, actor, reason, xid, 1::smallint AS kind,
    (sum((state = 1)::integer - (previous_state = 1)::integer) OVER so_far)::integer AS enrolled_count,
    (sum((state = 2)::integer - (previous_state = 2)::integer) OVER so_far)::integer AS waitlisted_count,
    capacity
FROM enrollment_events LEFT JOIN (SELECT course_id, capacity FROM course_seats) present USING (course_id)
WINDOW so_far AS (PARTITION BY course_id ORDER BY sequence ROWS UNBOUNDED PRECEDING)
"""
_CREATED = """
SELECT coalesce(c.id, first.course_id), 1, NULL::bigint, 0::smallint, 0::smallint, 0,
    least(c.create_time, first.event_time), NULL::uuid, '', 'migration', pg_current_xact_id(), 2::smallint, 0, 0,
    s.capacity
FROM courses c JOIN course_seats s ON s.course_id = c.id
FULL JOIN (SELECT course_id, event_time FROM enrollment_events WHERE sequence = 1) first ON first.course_id = c.id
"""
_DELETED = """
SELECT DISTINCT ON (course_id) course_id, sequence + 2, NULL::bigint, 0::smallint, 0::smallint, 0,
    event_time, NULL::uuid, CASE reason WHEN 'course_deleted' THEN actor ELSE '' END, 'migration',
    pg_current_xact_id(), 4::smallint, 0, 0, NULL::integer
FROM enrollment_events WHERE NOT EXISTS (SELECT FROM courses c WHERE c.id = course_id)
ORDER BY course_id, sequence DESC
"""


def upgrade() -> None:
    _lock()
    op.execute(f"CREATE UNLOGGED TABLE moved_events AS ({_FOLDED}) UNION ALL ({_CREATED}) UNION ALL ({_DELETED})")
    _empty()
    op.alter_column("enrollment_events", "student_id", nullable=True)
    op.add_column("enrollment_events", sa.Column("kind", sa.SmallInteger(), nullable=False))
    op.add_column("enrollment_events", sa.Column("enrolled_count", sa.Integer(), nullable=False))
    op.add_column("enrollment_events", sa.Column("waitlisted_count", sa.Integer(), nullable=False))
    op.add_column("enrollment_events", sa.Column("capacity", sa.Integer(), nullable=True))
    op.add_column("enrollment_events", sa.Column("changed_fields", sa.ARRAY(sa.Text()), nullable=True))
    _fill(f"{COMMON}, {NEW}")
    op.create_check_constraint(
        op.f("ck_enrollment_events_student_unless_of_course"),
        "enrollment_events",
        "(student_id IS NULL) = (kind IN (2, 3, 4))",
    )
    op.create_check_constraint(
        op.f("ck_enrollment_events_changes_of_update"),
        "enrollment_events",
        "(changed_fields IS NOT NULL) = (kind = 3)",
    )
    op.execute("UPDATE student_courses SET sequence = sequence + 1")
    op.execute(
        "UPDATE course_seats s SET last_sequence = last_sequence + 1, last_event_time = coalesce(last_event_time, "
        "(SELECT event_time FROM enrollment_events v WHERE v.course_id = s.course_id AND sequence = 1))"
    )
    _move_kept_answers()
    op.execute("DROP TABLE moved_events")
    _key_fingerprints()


def _key_fingerprints() -> None:
    op.create_table(
        "fingerprint_key",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name="pk_fingerprint_key"),
        sa.CheckConstraint("singleton", name=op.f("ck_fingerprint_key_only_one")),
    )
    # 244 random bits of the server's strong generator.
    op.execute(
        "INSERT INTO fingerprint_key (key) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))"
    )
    op.execute("UPDATE requests SET fingerprint = sha256((SELECT key FROM fingerprint_key) || fingerprint)")


def _move_kept_answers() -> None:
    """An answer without an event has the number 0, and keeps it."""
    op.execute(
        "UPDATE requests SET outcome = jsonb_set(outcome, '{enrollments}', ("
        "SELECT jsonb_agg(jsonb_set(one, '{sequence}', to_jsonb(was + (was > 0)::integer)) ORDER BY number) "
        "FROM jsonb_array_elements(outcome -> 'enrollments') WITH ORDINALITY AS kept (one, number), "
        "LATERAL (SELECT (one ->> 'sequence')::bigint AS was) sequence)) "
        "WHERE jsonb_array_length(outcome -> 'enrollments') > 0"
    )


def downgrade() -> None:
    _lock()
    op.drop_table("fingerprint_key")
    op.execute(
        "CREATE UNLOGGED TABLE moved_events AS SELECT course_id, "
        "row_number() OVER (PARTITION BY course_id ORDER BY sequence) AS sequence, sequence AS was, student_id, "
        "previous_state, state, waitlist_position, event_time, request_id, actor, reason, xid "
        "FROM enrollment_events WHERE kind = 1"
    )
    _empty()
    for constraint in ("student_unless_of_course", "changes_of_update"):
        op.drop_constraint(op.f(f"ck_enrollment_events_{constraint}"), "enrollment_events", type_="check")
    for column in ("kind", "enrolled_count", "waitlisted_count", "capacity", "changed_fields"):
        op.drop_column("enrollment_events", column)
    op.alter_column("enrollment_events", "student_id", nullable=False)
    _fill(COMMON)
    op.execute(
        "UPDATE student_courses e SET sequence = m.sequence FROM moved_events m "
        "WHERE m.course_id = e.course_id AND m.was = e.sequence"
    )
    op.execute(
        "UPDATE course_seats s SET last_sequence = m.events, last_event_time = m.latest FROM ("
        "SELECT c.course_id, count(v.sequence) AS events, max(v.event_time) AS latest FROM course_seats c "
        "LEFT JOIN moved_events v USING (course_id) GROUP BY c.course_id) m WHERE m.course_id = s.course_id"
    )
    op.execute("DROP TABLE moved_events")


def _lock() -> None:
    """Nobody writes until this is done, whoever may still be running."""
    op.execute("LOCK TABLE courses, course_seats, student_courses, enrollment_events, requests IN EXCLUSIVE MODE")


def _empty() -> None:
    """The table stays, and with it who may read it; without its key it is filled in half the time."""
    op.execute("TRUNCATE enrollment_events")
    op.drop_constraint(op.f("pk_enrollment_events"), "enrollment_events", type_="primary")


def _fill(columns: str) -> None:
    # The columns are names of ours.
    source = f"SELECT {columns} FROM moved_events ORDER BY course_id, sequence"  # noqa: S608
    op.execute(f"INSERT INTO enrollment_events ({columns}) {source}")
    op.create_primary_key(op.f("pk_enrollment_events"), "enrollment_events", ["course_id", "sequence"])
