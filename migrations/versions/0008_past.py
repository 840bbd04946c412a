"""The past: from when on the log is complete, an index of its times, what forgets old events, and who may read along.

The log is complete from the first event that the service itself has written; before that there is only what a migration
could tell, which knows nothing of who had left already. A log without such an event is complete from now on.

Nobody but the owner may delete events. Two functions of the owner's do it for the service, and no more than this:
events of the last day stay, and so does what the present state rests on. What is lost is said in `log_horizon` first,
and deleted in a later transaction: whoever reads the log and then looks there never takes what is left for all of it.

The publication is for readers of the log by logical replication. It has what is inserted and nothing else, so neither
what is forgotten nor `new-epoch` reaches them. It needs the right to create objects in the database; without it there
is none, and somebody who has it may make it later.

The index is built while nobody writes to the log, which revision 0006 asks for anyway.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from enrollment_service.store.models import Xid8

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Only what transactions have written that are over for everybody: then no token that is given out from now on can be
# older than what is forgotten. And never the newest, by which tokens are told from forged ones.
_ADVANCE = """
CREATE FUNCTION advance_log_horizon(wanted timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    bound xid8;
    reached xid8;
BEGIN
    IF wanted > clock_timestamp() - interval '1 day' THEN
        RAISE EXCEPTION 'the events of the last day stay' USING ERRCODE = '22023';
    END IF;
    PERFORM FROM log_horizon WHERE since < wanted FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    bound := least(
        pg_snapshot_xmin(pg_current_snapshot()), (SELECT xid FROM enrollment_events ORDER BY xid DESC LIMIT 1)
    );
    SELECT xid INTO reached FROM (
        SELECT xid FROM enrollment_events WHERE event_time < wanted ORDER BY event_time DESC LIMIT 10000
    ) latest WHERE xid < bound ORDER BY xid DESC LIMIT 1;
    UPDATE log_horizon SET since = wanted, purged_xid = greatest(purged_xid, reached);
    RETURN true;
END $$
"""
# The numbers are those of the API: kinds 1 to 4 are of enrollments and courses; states 1 and 2 are live, 3 is DROPPED.
# Of what was so at the horizon stays: the last event of each course, and of each live pair the last and the first. Who
# had left by then is forgotten from the beginning on: their last event stays for as long as there is an earlier one,
# which would otherwise look as if they were still there.
_PURGE = """
CREATE FUNCTION purge_log(
    INOUT after_time timestamptz, INOUT after_course bigint, INOUT after_sequence bigint, most integer,
    OUT deleted integer
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    horizon timestamptz;
    reached xid8;
BEGIN
    SELECT since, purged_xid INTO horizon, reached FROM log_horizon;
    IF NOT pg_try_advisory_xact_lock(1701737068, 2) THEN
        after_time := NULL;
        deleted := 0;
        RETURN;
    END IF;
    WITH piece AS MATERIALIZED (
        SELECT * FROM enrollment_events
        WHERE event_time >= after_time AND event_time < horizon
            AND (event_time, course_id, sequence) > (after_time, after_course, after_sequence)
        ORDER BY event_time, course_id, sequence LIMIT most
    ), doomed AS MATERIALIZED (
        SELECT v.course_id, v.sequence, v.student_id, v.state FROM piece v
        LEFT JOIN LATERAL (
            SELECT w.event_time FROM enrollment_events w
            WHERE w.course_id = v.course_id AND w.sequence > v.sequence ORDER BY w.sequence LIMIT 1
        ) next_of_course ON true
        LEFT JOIN LATERAL (
            SELECT w.event_time FROM enrollment_events w
            WHERE w.student_id = v.student_id AND w.course_id = v.course_id AND w.sequence > v.sequence AND w.kind = 1
            ORDER BY w.sequence LIMIT 1
        ) next_of_pair ON true
        WHERE v.xid <= reached AND v.kind BETWEEN 1 AND 4
            AND next_of_course.event_time < horizon
            AND NOT (v.kind = 1 AND v.state IN (1, 2) AND coalesce(next_of_pair.event_time >= horizon, true))
            AND NOT (v.kind = 1 AND v.previous_state = 0 AND NOT EXISTS (
                SELECT FROM enrollment_events w
                WHERE w.student_id = v.student_id AND w.course_id = v.course_id AND w.sequence > v.sequence
                    AND w.kind = 1 AND w.state = 3 AND w.event_time < horizon
            ))
    ), gone AS (
        DELETE FROM enrollment_events e USING doomed d
        WHERE (e.course_id, e.sequence) = (d.course_id, d.sequence)
            AND NOT (d.state = 3 AND EXISTS (
                SELECT FROM enrollment_events w
                WHERE w.student_id = d.student_id AND w.course_id = d.course_id AND w.sequence < d.sequence
                    AND w.kind = 1
                    AND (w.course_id, w.sequence) NOT IN (SELECT x.course_id, x.sequence FROM doomed x)
            ))
        RETURNING 1
    ), reached_now AS (
        SELECT p.event_time, p.course_id, p.sequence FROM piece p
        ORDER BY p.event_time DESC, p.course_id DESC, p.sequence DESC LIMIT 1
    )
    SELECT r.event_time, r.course_id, r.sequence, (SELECT count(*) FROM gone)
    INTO after_time, after_course, after_sequence, deleted
    FROM (SELECT) one LEFT JOIN reached_now r ON true;
END $$
"""
_PUBLISH = """
DO $$ BEGIN
    IF has_database_privilege(current_database(), 'CREATE') THEN
        CREATE PUBLICATION enrollment_events FOR TABLE enrollment_events WITH (publish = 'insert');
    END IF;
END $$
"""
_FUNCTIONS = ("advance_log_horizon(timestamptz)", "purge_log(timestamptz, bigint, bigint, integer)")


def upgrade() -> None:
    op.create_index("ix_enrollment_events_event_time", "enrollment_events", ["event_time"])
    op.create_table(
        "log_horizon",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("purged_xid", Xid8(), nullable=True),
        sa.PrimaryKeyConstraint("singleton", name="pk_log_horizon"),
        sa.CheckConstraint("singleton", name=op.f("ck_log_horizon_only_one")),
    )
    op.execute(
        "INSERT INTO log_horizon (since) "
        "SELECT coalesce(min(event_time), clock_timestamp()) FROM enrollment_events WHERE reason <> 'migration'"
    )
    op.execute(_ADVANCE)
    op.execute(_PURGE)
    for function in _FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    op.execute(_PUBLISH)


def downgrade() -> None:
    op.execute("DROP PUBLICATION IF EXISTS enrollment_events")
    for function in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("log_horizon")
    op.drop_index("ix_enrollment_events_event_time", "enrollment_events")
