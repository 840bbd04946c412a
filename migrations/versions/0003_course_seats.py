"""Seats: capacity, waitlist and window of every course, counted from the enrollments there are.

Existing courses get no limit and no waitlist, so nothing that was allowed before is refused now.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PREFIXES = {
    "ix_students_full_name_prefix": ("students", "full_name"),
    "ix_students_email_prefix": ("students", "email"),
    "ix_courses_code_prefix": ("courses", "code"),
    "ix_courses_title_prefix": ("courses", "title"),
}


def upgrade() -> None:
    op.add_column("students", sa.Column("version", sa.BigInteger(), server_default="1", nullable=False))
    for name, (table, column) in PREFIXES.items():
        op.create_index(name, table, [sa.text(f"lower({column}) text_pattern_ops")])
    _create_seats()
    _add_states()
    op.execute(
        "INSERT INTO course_seats (course_id, enrolled_count, last_sequence, last_event_time) "
        "SELECT c.id, count(e.student_id), count(e.student_id), max(e.create_time) "
        "FROM courses c LEFT JOIN student_courses e ON e.course_id = c.id GROUP BY c.id"
    )


def _create_seats() -> None:
    # op.f: these names are whole; the naming convention would put the table's before them once more.
    op.create_table(
        "course_seats",
        sa.Column("course_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=True),
        sa.Column("waitlist_capacity", sa.Integer(), server_default="0", nullable=False),
        sa.Column("enroll_open_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("enroll_close_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("enrolled_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("waitlisted_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_event_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("course_id", name="pk_course_seats"),
        sa.ForeignKeyConstraint(["course_id"], ["courses.id"], name="fk_course_seats_course_id_courses"),
        sa.CheckConstraint("enrolled_count <= capacity", name=op.f("ck_course_seats_enrolled_within_capacity")),
        sa.CheckConstraint(
            "enrolled_count >= 0 AND waitlisted_count >= 0", name=op.f("ck_course_seats_counts_not_negative")
        ),
        sa.CheckConstraint(
            "capacity >= 0 AND waitlist_capacity >= 0", name=op.f("ck_course_seats_limits_not_negative")
        ),
        postgresql_with={"fillfactor": "50"},
    )


def _add_states() -> None:
    """Existing rows become enrolled since they were made, numbered per course in that order."""
    op.add_column("student_courses", sa.Column("state", sa.SmallInteger(), server_default="1", nullable=False))
    op.add_column("student_courses", sa.Column("sequence", sa.BigInteger(), nullable=True))
    op.add_column("student_courses", sa.Column("enroll_time", sa.DateTime(timezone=True), nullable=True))
    op.execute(
        "UPDATE student_courses e SET sequence = n.sequence, enroll_time = e.create_time FROM ("
        "SELECT student_id, course_id, "
        "row_number() OVER (PARTITION BY course_id ORDER BY create_time, student_id) AS sequence "
        "FROM student_courses) n WHERE n.student_id = e.student_id AND n.course_id = e.course_id"
    )
    op.alter_column("student_courses", "sequence", nullable=False)
    op.alter_column("student_courses", "enroll_time", nullable=False)
    op.create_check_constraint(op.f("ck_student_courses_state_is_live"), "student_courses", "state IN (1, 2)")
    op.create_index(
        "ix_student_courses_waiters",
        "student_courses",
        ["course_id", "sequence"],
        postgresql_where=sa.text("state = 2"),
    )


def downgrade() -> None:
    # Without a state a waiter would look enrolled.
    op.execute("DELETE FROM student_courses WHERE state = 2")
    op.drop_index("ix_student_courses_waiters", "student_courses")
    op.drop_constraint(op.f("ck_student_courses_state_is_live"), "student_courses", type_="check")
    for column in ("enroll_time", "sequence", "state"):
        op.drop_column("student_courses", column)
    op.drop_table("course_seats")
    for name, (table, _) in PREFIXES.items():
        op.drop_index(name, table)
    op.drop_column("students", "version")
