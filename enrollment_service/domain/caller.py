"""Who makes a call, in the terms of the domain. How a caller proves it is the door's business (`api/auth`)."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """What a caller is to the service. `access` says what each may do."""

    READER = "reader"
    REGISTRAR = "registrar"
    STUDENT = "student"


class StudentKey(NamedTuple):
    """What stands for one student: the name of a field of `records.Student`, and its value as a text."""

    field: str
    value: str


class Caller(NamedTuple):
    """Whoever makes a call.

    Attributes:
        subject: who it is: opaque, and without control characters. The event log names it as the actor.
        roles: what the caller may do follows from these; without any, nothing.
        student_id: the student that the caller is, if any.
        student_key: what the caller's credentials name the student by, where that is not the id.
    """

    subject: str = ""
    roles: frozenset[Role] = frozenset()
    student_id: int | None = None
    student_key: StudentKey | None = None

    @property
    def own_key(self) -> StudentKey | None:
        """The one key by which a student may ask for their own record."""
        if self.student_key is None and self.student_id is not None:
            return StudentKey("student_id", str(self.student_id))
        return self.student_key


# Where nobody has to say who they are, everybody may do everything.
ANONYMOUS = Caller(roles=frozenset({Role.REGISTRAR}))
