"""What lists of the past need: from when on the log is complete, and an index of its times.

The log is complete from the first event that the service itself has written; before that there is only what a migration
could tell, which knows nothing of who had left already. A log without such an event is complete from now on.

The index is built while nobody writes to the log, which revision 0006 asks for anyway.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_enrollment_events_event_time", "enrollment_events", ["event_time"])
    op.create_table(
        "log_horizon",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name="pk_log_horizon"),
        sa.CheckConstraint("singleton", name=op.f("ck_log_horizon_only_one")),
    )
    op.execute(
        "INSERT INTO log_horizon (since) "
        "SELECT coalesce(min(event_time), clock_timestamp()) FROM enrollment_events WHERE reason <> 'migration'"
    )


def downgrade() -> None:
    op.drop_table("log_horizon")
    op.drop_index("ix_enrollment_events_event_time", "enrollment_events")
