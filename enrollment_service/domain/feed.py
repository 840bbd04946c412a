"""Where somebody is in the event log: snapshots of the database, and marks that say what was read of it. Plain data.

Rows become visible when they are committed, not in the order of any number that they carry. So what was read is told
by a snapshot: which transactions were over at that moment. What lies between two of them is read in the order of
(course_id, sequence), and a mark may stand in the middle of that.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

# The key of an event: its course and its sequence.
Key: TypeAlias = tuple[int, int]
MAX_ID = 2**63 - 1
# Before every key, and after every key.
FIRST: Key = (0, 0)
LAST: Key = (MAX_ID, MAX_ID)


class Snapshot(NamedTuple):
    """Which transactions were over: all below `xmin`, and those below `xmax` that are not in `under_way`, ascending."""

    xmin: int
    xmax: int
    under_way: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """In PostgreSQL's notation."""
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.under_way))}"

    def below(self, xmax: int) -> Snapshot:
        """The same as if transactions from `xmax` on had not begun.

        Where none of those that are over has left anything, it says the same, and it goes on being true: after a crash
        of the database the numbers of transactions that have left nothing may be given again.
        """
        if xmax >= self.xmax:
            return self
        return Snapshot(min(self.xmin, xmax), xmax, tuple(xid for xid in self.under_way if xid < xmax))

    @classmethod
    def of(cls, text: str) -> Snapshot:
        """From PostgreSQL's notation."""
        xmin, xmax, under_way = text.split(":")
        return cls(int(xmin), int(xmax), tuple(map(int, under_way.split(","))) if under_way else ())


# Nothing was over: 3 is the first transaction that a database can see begin.
NOTHING = Snapshot(3, 3)


class Place(NamedTuple):
    """A snapshot, and of which history of the database it is one.

    Attributes:
        snapshot: what was over.
        epoch: names the log: another after a restore, a copy, or the command `new-epoch`.
        timeline: of the write-ahead log; another after every failover.
        position: in the write-ahead log, behind everything that the snapshot sees.
    """

    snapshot: Snapshot
    epoch: str
    timeline: int
    position: int


class Mark(NamedTuple):
    """What was read of the log: all that `place` sees.

    If `after` is set, this is still under way: of what `seen` does not see yet, only events up to that key were read.
    """

    place: Place
    seen: Snapshot = NOTHING
    after: Key | None = None


class Scope(NamedTuple):
    """Whose events: those of a course, of a student, or, if both are 0, all."""

    course_id: int = 0
    student_id: int = 0
