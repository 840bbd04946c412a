"""What comes with a call that may prove who makes it, and what that says: who calls, and for how long it is known."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

from grpc.aio import ServicerContext

from enrollment_service.domain.caller import ANONYMOUS, Caller

Context = ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, str | bytes]]

MAX_SUBJECT_LENGTH = 255
# Control characters, those that change the direction of text, halves of pairs, what nobody has assigned, and separators
# of lines.
_UNPRINTABLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")


class Identity(NamedTuple):
    """A caller, and when what proves it expires, in seconds since the epoch."""

    caller: Caller
    expires: float = math.inf


ANYBODY = Identity(ANONYMOUS)


def is_subject(value: object) -> bool:
    """Whether this can name a caller in logs and events: 1 to 255 characters, none of which controls anything."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_SUBJECT_LENGTH
        and not value.isspace()
        and not any(unicodedata.category(letter) in _UNPRINTABLE for letter in value)
    )
