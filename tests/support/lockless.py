"""A server without the lock on seat rows: the negative control of race tests: `python -m tests.support.lockless serve`.

Whatever a race test proves of the service, it must be able to disprove of this one.
"""

from __future__ import annotations

from sqlalchemy import any_, select

from enrollment_service.__main__ import cli
from enrollment_service.store import seats
from enrollment_service.store.models import CourseSeats
from enrollment_service.store.prepared import Prepared, array


def forget_the_lock() -> None:
    """Reads seat rows where the service locks them."""
    statement = (
        select(*seats._seat_columns)
        .where(CourseSeats.course_id == any_(array("course_ids")))
        .order_by(CourseSeats.course_id)
    )
    seats._lock_seats = Prepared(statement, "course_ids")


if __name__ == "__main__":
    forget_the_lock()
    cli(prog_name="lockless")
