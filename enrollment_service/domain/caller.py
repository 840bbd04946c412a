"""Who makes a call, in the terms of the domain. How a caller proves it is the door's business (`api/`)."""

from __future__ import annotations

from typing import NamedTuple


class Caller(NamedTuple):
    """Whoever makes a call. `subject` is opaque: the event log names it as the actor."""

    subject: str = ""


ANONYMOUS = Caller()
