"""Resume tokens: where a watcher is in the feed, as an opaque text that is bound to what it was given out for.

A token is no secret and proves nothing: whoever forges one is sent no more than somebody who begins without. What is in
it is checked before it reaches the database.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from enrollment_service.domain.errors import Violation, resume_token_invalid
from enrollment_service.domain.feed import MAX_ID, NOTHING, Key, Mark, Place, Scope, Snapshot

# Those of ours are far shorter, unless thousands of transactions are under way.
MAX_LENGTH = 64 * 1024
_CHECK_BYTES = 8
_VERSION = "1"
_EPOCH = re.compile(r"[0-9a-f]{16}")
_DIGITS = re.compile(r"[0-9]{1,19}")


def encode(scope: Scope, mark: Mark) -> str:
    """The token of a mark."""
    payload = _place(mark.place)
    if mark.after is not None:
        payload += b"|%b|%d,%d" % (_snapshot(mark.seen).encode(), *mark.after)
    return base64.urlsafe_b64encode(_check(scope, payload) + payload).decode().rstrip("=")


def parse(found: list[Violation], scope: Scope, token: str) -> Mark | None:
    """The mark in a token, None where there is no token; what is wrong with it is added to `found`."""
    if not token:
        return None
    mark = decode(scope, token)
    if mark is None:
        found.append(resume_token_invalid())
    return mark


def decode(scope: Scope, token: str) -> Mark | None:
    """The mark inside a token, or None for a token that is damaged, made up, or was given out for something else."""
    if len(token) > MAX_LENGTH:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        mark = _mark(raw[_CHECK_BYTES:].decode("ascii"))
    except (ValueError, binascii.Error):
        return None
    return mark if token == encode(scope, mark) else None


class Given(NamedTuple):
    """What lists give out: the token of their first page, and what was so at that moment."""

    token: str
    sequence: int = 0

    @classmethod
    def at(cls, scope: Scope, place: Place | None, sequence: int = 0) -> Given:
        """For a list of one moment; without a token where that is of a standby: whoever watches begins anew."""
        return cls("" if place is None else encode(scope, Mark(place)), sequence)

    @classmethod
    def of(cls, carried: str) -> Given:
        """What a page token has carried."""
        token, _, sequence = carried.partition(",")
        return cls(token, int(sequence))

    def carried(self) -> str:
        """As page tokens carry it."""
        return f"{self.token},{self.sequence}"


def carries(scope: Scope, carried: str) -> bool:
    """Whether the pages of a list about somebody may carry this."""
    token, _, sequence = carried.partition(",")
    known = not token or decode(scope, token) is not None
    return known and _DIGITS.fullmatch(sequence) is not None and int(sequence) <= MAX_ID


@lru_cache(maxsize=64)
def _place(place: Place) -> bytes:
    parts = (_VERSION, place.epoch, place.timeline, place.position, _snapshot(place.snapshot))
    return "|".join(map(str, parts)).encode()


def _snapshot(snapshot: Snapshot) -> str:
    """Relative to its beginning, because most of what is under way has begun together."""
    xmin, xmax, under_way = snapshot
    return ",".join(map(str, (xmin, xmax - xmin, *(xid - xmin for xid in under_way))))


def _mark(payload: str) -> Mark:
    version, epoch, timeline, position, snapshot, *rest = payload.split("|")
    if version != _VERSION or not _EPOCH.fullmatch(epoch):
        raise ValueError("of another version")
    place = Place(_snapshot_of(snapshot), epoch, _number(timeline), _number(position))
    if not rest:
        return Mark(place)
    seen, after = rest
    return Mark(place, _snapshot_of(seen), _key(after))


def _snapshot_of(text: str) -> Snapshot:
    xmin, length, *under_way = map(_number, text.split(","))
    snapshot = Snapshot(xmin, xmin + length, tuple(xmin + offset for offset in under_way))
    ascending = all(one < other for one, other in pairwise(under_way))
    if xmin < NOTHING.xmin or snapshot.xmax > MAX_ID or not ascending or max(under_way, default=-1) >= length:
        raise ValueError("no snapshot")
    return snapshot


def _key(text: str) -> Key:
    course_id, sequence = map(_number, text.split(","))
    return course_id, sequence


def _number(text: str) -> int:
    """A number that the database can keep."""
    if not _DIGITS.fullmatch(text) or int(text) > MAX_ID:
        raise ValueError("no number")
    return int(text)


def _check(scope: Scope, payload: bytes) -> bytes:
    """Detects accidents and mix-ups."""
    key = b"%d,%d" % scope
    return hashlib.blake2b(payload, digest_size=_CHECK_BYTES, key=key).digest()
