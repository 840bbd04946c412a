"""Who makes a call, in the terms of the domain. How a caller proves it is the door's business (`api/auth`)."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """What a caller is to the service. `access` says what each may do."""

    READER = "reader"
    REGISTRAR = "registrar"
    STUDENT = "student"


class Caller(NamedTuple):
    """Whoever makes a call.

    Attributes:
        subject: who it is: opaque, and without control characters. The event log names it as the actor.
        roles: what the caller may do follows from these; without any, nothing.
        student_id: the student that the caller is, if any.
    """

    subject: str = ""
    roles: frozenset[Role] = frozenset()
    student_id: int | None = None


# Where nobody has to say who they are, everybody may do everything.
ANONYMOUS = Caller(roles=frozenset({Role.REGISTRAR}))
