"""Students and courses: the plain student system this service grew out of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _times() -> list[sa.Column[object]]:
    return [
        sa.Column(name, sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)
        for name in ("create_time", "update_time")
    ]


def upgrade() -> None:
    op.create_table(
        "students",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("full_name", sa.String(200), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("id", name="pk_students"),
    )
    op.create_index("uq_students_email", "students", [sa.text("lower(email)")], unique=True)
    op.create_table(
        "courses",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("code", sa.String(40), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("description", sa.String(2000), server_default="", nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("id", name="pk_courses"),
        sa.UniqueConstraint("code", name="uq_courses_code"),
    )


def downgrade() -> None:
    op.drop_table("courses")
    op.drop_table("students")
