"""A server without the lock on seat rows: the negative control of race tests: `python -m tests.support.lockless serve`.

Whatever a race test proves of the service, it must be able to disprove of this one.
"""

from __future__ import annotations

from sqlalchemy import select

from enrollment_service.cli.main import cli
from enrollment_service.store import locks, seats
from enrollment_service.store.models import SeatsRow


def forget_the_lock() -> None:
    """Reads seat rows where the service locks them, and stays with what it read while it waits to write."""
    vars(locks)["MAX_WAIT_BRIEFLY_MS"] = 20_000
    wanted = select(*seats._seat_columns).where(seats._wanted)
    vars(seats)["_locking"] = lambda _: wanted.order_by(SeatsRow.course_id)


if __name__ == "__main__":
    forget_the_lock()
    cli(prog_name="lockless")
