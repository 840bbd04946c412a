"""Waivers and swaps: what lifts refusals for a student in a course, and the courses that nobody enters without one.

- `course_seats.permit_required` stands beside the other rules of the seat row, which a batch locks and reads anyway.
- A row of `waivers` lifts one refusal. They end with their student or their course, as no event tells.
- `student_courses.swap_from_course_id` is the course that a waiter keeps until promoted; `latest_sequence` is the event
  that changed it, where that is not the one that began the wait. `course_seats.swap_count` counts such waiters, so that
  a batch sees in the locked row whether anything hangs on it.
- Events of waivers have the columns for what they are about; in all others those are empty.

Nothing is written to rows that exist: the new columns have constant defaults.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "course_seats", sa.Column("permit_required", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("course_seats", sa.Column("swap_count", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("student_courses", sa.Column("swap_from_course_id", sa.BigInteger(), nullable=True))
    op.add_column("student_courses", sa.Column("latest_sequence", sa.BigInteger(), nullable=True))
    for name, columns in (
        ("ix_student_courses_swaps", ["course_id", "swap_from_course_id"]),
        ("ix_student_courses_swap_from", ["swap_from_course_id"]),
    ):
        op.create_index(name, "student_courses", columns, postgresql_where=sa.text("swap_from_course_id IS NOT NULL"))
    op.add_column("enrollment_events", sa.Column("swap_from_course_id", sa.BigInteger(), nullable=True))
    op.add_column("enrollment_events", sa.Column("waived_reasons", sa.ARRAY(sa.Text()), nullable=True))
    op.add_column("enrollment_events", sa.Column("waiver_expire_time", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "enrollment_events", sa.Column("waiver_revoked", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    # 5 is an event of a waiver. NOT VALID takes no look at the rows there are, VALIDATE locks nobody out.
    op.execute(
        "ALTER TABLE enrollment_events ADD CONSTRAINT ck_enrollment_events_reasons_of_waiver "
        "CHECK ((waived_reasons IS NOT NULL) = (kind = 5)) NOT VALID"
    )
    op.execute("ALTER TABLE enrollment_events VALIDATE CONSTRAINT ck_enrollment_events_reasons_of_waiver")
    op.create_table(
        "waivers",
        sa.Column("course_id", sa.BigInteger(), nullable=False),
        sa.Column("student_id", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("course_id", "student_id", "reason", name="pk_waivers"),
        sa.ForeignKeyConstraint(["course_id"], ["courses.id"], name="fk_waivers_course_id_courses", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["student_id"], ["students.id"], name="fk_waivers_student_id_students", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_waivers_student_id", "waivers", ["student_id"])


def downgrade() -> None:
    """Events of waivers and of changed swaps go with what they tell of; others, tickets and etags are numbered anew.

    So what was read of the feed holds no longer, and answers about waivers are not repeated any more.
    """
    op.drop_table("waivers")
    op.execute("LOCK TABLE course_seats, student_courses, enrollment_events, requests IN EXCLUSIVE MODE")
    op.execute(
        "CREATE UNLOGGED TABLE moved_events AS SELECT course_id, sequence AS was, "
        "row_number() OVER (PARTITION BY course_id ORDER BY sequence) AS sequence FROM enrollment_events "
        "WHERE NOT (kind = 5 OR (previous_state, state) = (2, 2)) AND course_id IN "
        "(SELECT course_id FROM enrollment_events WHERE kind = 5 OR (previous_state, state) = (2, 2))"
    )
    op.execute("DELETE FROM enrollment_events WHERE kind = 5 OR (previous_state, state) = (2, 2)")
    op.drop_constraint("pk_enrollment_events", "enrollment_events", type_="primary")
    for table in ("enrollment_events", "student_courses"):
        op.execute(
            f"UPDATE {table} e SET sequence = m.sequence FROM moved_events m "  # noqa: S608 - names of ours
            "WHERE m.course_id = e.course_id AND m.was = e.sequence"
        )
    op.create_primary_key("pk_enrollment_events", "enrollment_events", ["course_id", "sequence"])
    op.execute(
        "UPDATE course_seats s SET last_sequence = m.events, last_event_time = v.event_time FROM "
        "(SELECT course_id, max(sequence) AS events FROM moved_events GROUP BY course_id) m "
        "JOIN enrollment_events v ON v.course_id = m.course_id AND v.sequence = m.events "
        "WHERE m.course_id = s.course_id"
    )
    op.execute("UPDATE feed_epoch SET epoch = gen_random_uuid() WHERE EXISTS (SELECT FROM moved_events)")
    op.execute("DROP TABLE moved_events")
    op.execute("DELETE FROM requests WHERE outcome ? 'waivers'")
    op.drop_constraint(op.f("ck_enrollment_events_reasons_of_waiver"), "enrollment_events", type_="check")
    for column in ("waived_reasons", "waiver_expire_time", "waiver_revoked"):
        op.drop_column("enrollment_events", column)
    op.drop_column("enrollment_events", "swap_from_course_id")
    op.drop_index("ix_student_courses_swap_from", "student_courses")
    op.drop_index("ix_student_courses_swaps", "student_courses")
    op.drop_column("student_courses", "latest_sequence")
    op.drop_column("student_courses", "swap_from_course_id")
    op.drop_column("course_seats", "swap_count")
    op.drop_column("course_seats", "permit_required")
