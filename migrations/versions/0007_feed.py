"""What the feed needs: indexes to catch up by, and a name for the log that no copy of it keeps by accident.

- The events of a student are found by their own index; events of courses are left out of it.
- What is new since a snapshot is found by the transactions that wrote it, which come in nearly ascending order: the
  index grows at its end.
- `feed_epoch` names this log in resume tokens. The command `new-epoch` gives it another name; then every token that was
  given out before has expired.

The indexes are built while nobody writes to the log, which revision 0006 asks for anyway.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_enrollment_events_student",
        "enrollment_events",
        ["student_id", "course_id", "sequence"],
        postgresql_where=sa.text("student_id IS NOT NULL"),
    )
    op.create_index("ix_enrollment_events_xid", "enrollment_events", ["xid"])
    op.create_table(
        "feed_epoch",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("epoch", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name="pk_feed_epoch"),
        sa.CheckConstraint("singleton", name=op.f("ck_feed_epoch_only_one")),
    )
    op.execute("INSERT INTO feed_epoch DEFAULT VALUES")


def downgrade() -> None:
    op.drop_table("feed_epoch")
    op.drop_index("ix_enrollment_events_xid", "enrollment_events")
    op.drop_index("ix_enrollment_events_student", "enrollment_events")
