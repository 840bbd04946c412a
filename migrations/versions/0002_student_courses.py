"""The many-to-many of students and courses. Touches no existing row; the downgrade drops this table alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "student_courses",
        sa.Column("student_id", sa.BigInteger(), nullable=False),
        sa.Column("course_id", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("student_id", "course_id", name="pk_student_courses"),
        sa.ForeignKeyConstraint(["student_id"], ["students.id"], name="fk_student_courses_student_id_students"),
        sa.ForeignKeyConstraint(["course_id"], ["courses.id"], name="fk_student_courses_course_id_courses"),
    )
    op.create_index("ix_student_courses_course_id_student_id", "student_courses", ["course_id", "student_id"])


def downgrade() -> None:
    op.drop_table("student_courses")
