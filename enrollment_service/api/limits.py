"""The stage `limit`: how much one caller may ask for, and how many streams there may be in all, in this process.

Callers are told apart by their subject, or where nobody has to say who they are, by their network address. Health and
reflection are not limited.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from enrollment_service.domain.errors import Overloaded, RateLimited

# Where it depends on other calls when there will be room.
RETRY_SECONDS = 1.0
MAX_CALLERS = 10_000


class Allowance(NamedTuple):
    """What one caller may have; None: as much as it likes.

    Attributes:
        calls: calls under way at a time, streams among them.
        streams: streams open at a time.
        rate: calls begun per second, in the long run.
        burst: calls begun at once after a pause; None: as many as in one second.
    """

    calls: int | None = None
    streams: int | None = None
    rate: float | None = None
    burst: int | None = None

    @property
    def most_tokens(self) -> float:
        """The calls that may begin at once."""
        return self.burst or max(self.rate or 0.0, 1.0)


class Share:
    """What one caller has at the moment, and the calls that it may still begin (a token bucket)."""

    __slots__ = ("calls", "refilled", "streams", "tokens")

    def __init__(self, tokens: float, now: float) -> None:
        self.calls = 0
        self.streams = 0
        self.tokens = tokens
        self.refilled = now


class Admission(NamedTuple):
    """A call that was let in: what it counts as."""

    share: Share | None
    stream: bool


class Limits:
    """Lets calls in, and counts them until they leave.

    Args:
        allowance: what one caller may have.
        max_streams: streams open at a time, of all callers together.
    """

    def __init__(self, allowance: Allowance, max_streams: int) -> None:
        self._allowance = allowance
        self._max_streams = max_streams
        self._open_streams = 0
        self._per_caller = any(limit is not None for limit in allowance)
        # The least recently seen first.
        self._shares: dict[str, Share] = {}

    def enter(self, subject: str, peer: str, *, stream: bool) -> Admission | None:
        """Counts a call in; what it returns, if anything, is given to `leave` at its end.

        Args:
            subject: who calls; empty where nobody has to say who they are.
            peer: the network address of the caller, and its port.
            stream: whether the call is a stream.

        Raises:
            RateLimited: the caller has what it may have.
            Overloaded: there are too many streams.
        """
        if not (stream or self._per_caller):
            return None
        if stream and self._open_streams >= self._max_streams:
            raise Overloaded
        # The port differs from connection to connection.
        share = self._share_of(subject or peer.rpartition(":")[0]) if self._per_caller else None
        if share is not None:
            self._check(share, stream=stream)
            share.tokens -= 1
        self._count(share, stream, 1)
        return Admission(share, stream)

    def leave(self, admission: Admission) -> None:
        """Counts a call out."""
        self._count(*admission, -1)

    def _count(self, share: Share | None, stream: bool, change: int) -> None:
        self._open_streams += change * stream
        if share is not None:
            share.calls += change
            share.streams += change * stream

    def _check(self, share: Share, *, stream: bool) -> None:
        allowed = self._allowance
        if allowed.rate is not None:
            now = asyncio.get_running_loop().time()
            share.tokens = min(share.tokens + (now - share.refilled) * allowed.rate, allowed.most_tokens)
            share.refilled = now
            if share.tokens < 1:
                raise RateLimited("rate", (1 - share.tokens) / allowed.rate)
        if allowed.calls is not None and share.calls >= allowed.calls:
            raise RateLimited("calls", RETRY_SECONDS)
        if stream and allowed.streams is not None and share.streams >= allowed.streams:
            raise RateLimited("streams", RETRY_SECONDS)

    def _share_of(self, caller: str) -> Share:
        """That of a caller, who is now the most recently seen; forgets who has not been seen for long."""
        share = self._shares.pop(caller, None)
        if share is None:
            share = Share(self._allowance.most_tokens, asyncio.get_running_loop().time())
            if len(self._shares) >= MAX_CALLERS:
                self._forget_oldest()
        self._shares[caller] = share
        return share

    def _forget_oldest(self) -> None:
        oldest = next(iter(self._shares))
        share = self._shares.pop(oldest)
        if share.calls:
            self._shares[oldest] = share
