"""The feed: who watches the event log, and how they all learn of what is new from one who looks.

A watcher first catches up with reads of its own, piece by piece. Then it joins at a snapshot that the poller has taken
after it came, so that nothing lies between: what that snapshot sees it reads itself, what later ones see it is handed.
The poller looks once for everybody, and only while there is somebody. Nobody holds a connection while a caller reads.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from typing import NamedTuple, TypeVar

import structlog

from enrollment_service.domain.errors import (
    DatabaseUnavailable,
    Refusal,
    ResumeTokenExpired,
    ServiceError,
    ShuttingDown,
    WatcherTooSlow,
    resume_token_invalid,
)
from enrollment_service.domain.feed import FIRST, NOTHING, Key, Mark, Place, Scope, Snapshot
from enrollment_service.domain.records import LoggedEvent
from enrollment_service.engine.turns import Turns
from enrollment_service.settings import Settings
from enrollment_service.store import events
from enrollment_service.store.database import Database
from enrollment_service.store.transactions import DriverConnection
from enrollment_service.telemetry import metrics
from enrollment_service.telemetry.logs import describe

log = structlog.get_logger()

Result = TypeVar("Result")

# How long the poller rests, in seconds; jittered, so that several servers do not look together.
POLL_SECONDS = (0.05, 0.1)
# So much of the log is read at a time: some milliseconds' work.
PIECE = 2_000
# Beyond so many, what is new is not sorted: the log is walked in its own order.
MAX_SORTED = 5_000


class Batch(NamedTuple):
    """Events for one watcher, by course and sequence, all visible in `place` and not in `seen`.

    `upto` is the key up to which the batch and those before it have them; None if this is the last of them.
    """

    events: Sequence[LoggedEvent]
    seen: Snapshot
    place: Place
    upto: Key | None


class _Watcher:
    """Somebody who has joined, and what still waits for them."""

    def __init__(self, scope: Scope, max_waiting: int) -> None:
        self.scope = scope
        # Where it has joined.
        self.joined: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._max_waiting = max_waiting
        self._batches: deque[Batch] = deque()
        self._waiting = 0
        # What `next` waits for. No Event and no timeout(): a thousand watchers pay for what those bring along.
        self._news: asyncio.Future[None] | None = None
        self._end: ServiceError | None = None

    def hand(self, batch: Batch) -> bool:
        """Adds a batch; whether the watcher still keeps up. A single batch never is too much."""
        if self._batches and self._waiting + len(batch.events) > self._max_waiting:
            self.end(WatcherTooSlow())
            self._batches.clear()
            return False
        self._batches.append(batch)
        self._waiting += len(batch.events)
        self._wake()
        return True

    def end(self, error: ServiceError, last: Batch | None = None) -> None:
        """Ends it once it has read what waits, and a last batch."""
        if last is not None and self._end is None:
            self._batches.append(last)
        self._end = self._end or error
        self._wake()
        if not self.joined.done():
            self.joined.set_exception(error)
            # Its caller may have gone.
            self.joined.exception()

    async def next(self, patience: float) -> Batch | None:
        """What comes next; None if nothing does within so many seconds.

        Raises:
            ServiceError: why there is no more.
        """
        if not self._batches and self._end is None:
            await self._wait(patience)
        if self._batches:
            batch = self._batches.popleft()
            self._waiting -= len(batch.events)
            return batch
        if self._end is not None:
            raise self._end
        return None

    async def _wait(self, patience: float) -> None:
        """Returns when there is something new, or after so many seconds."""
        loop = asyncio.get_running_loop()
        self._news = loop.create_future()
        timer = loop.call_later(patience, self._wake)
        try:
            await self._news
        finally:
            timer.cancel()
            self._news = None

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Feed:
    """The watchers of this process, and the poller that they share."""

    def __init__(self, database: Database, settings: Settings, lists: Turns) -> None:
        self._database = database
        self._held = database.hold()
        self._lists = lists
        # Whoever catches up waits here and is not refused: there are no more of them than streams. Lists come first.
        self._catching_up = asyncio.Semaphore(max(1, database.max_lists // 2))
        self._heartbeat = settings.watch_heartbeat
        self._max_waiting = settings.max_watcher_events
        self._joining: list[_Watcher] = []
        self._by_scope: dict[Scope, set[_Watcher]] = {}
        # Where the poller was last; None before it has looked.
        self._place: Place | None = None
        self._poller: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._ending = False

    def samples(self) -> list[metrics.Sample]:
        """What can be seen from outside."""
        return [(metrics.watchers, lambda: sum(map(len, self._by_scope.values())))]

    async def watch(self, scope: Scope, mark: Mark | None, *, follow: bool) -> AsyncGenerator[Batch, None]:
        """What has happened since a mark, and what happens from now on, if that is wanted.

        Batches without events are heartbeats.

        Raises:
            Refusal: RESUME_TOKEN_INVALID, RESUME_TOKEN_EXPIRED, WATCHER_TOO_SLOW.
            ShuttingDown: this process ends.
            DatabaseUnavailable: the database does not answer, or is a standby.
        """
        place, _, forgotten = await self._look(events.read_present)
        seen = NOTHING
        if mark is None:
            _check_remembered(NOTHING, forgotten)
        else:
            _check(mark, place)
            _check_remembered(mark.place.snapshot if mark.after is None else mark.seen, forgotten)
            if mark.after is not None:
                async for batch in self._read(scope, mark.seen, mark.place, mark.after):
                    yield batch
            seen = mark.place.snapshot
        few = False
        while not few:
            few = True
            async for batch in self._read(scope, seen, place):
                yield batch
                few = few and batch.upto is None
            seen = place.snapshot
            if not follow:
                return
            if not few:
                place = await self._now_in(place)
        async with aclosing(self._follow(scope, place)) as batches:
            async for batch in batches:
                yield batch

    def end(self) -> None:
        """Ends all watchers with what they have not read yet, and nobody may come any more."""
        self._ending = True
        for watcher in self._everybody():
            joined = self._place is not None and watcher.joined.done()
            watcher.end(ShuttingDown(), _nothing_new(self._place) if joined and self._place else None)

    async def close(self) -> None:
        """Ends the poller, and gives its connection back."""
        self._ending = True
        self._wanted.set()
        if self._poller is not None:
            await asyncio.wait({self._poller})
        await self._held.close()

    # --- catching up ----------------------------------------------------------------------------------------------

    async def _now_in(self, before: Place) -> Place:
        present = await self._look(events.read_present)
        _check_history(before, present.place)
        return present.place

    async def _read(self, scope: Scope, seen: Snapshot, place: Place, after: Key = FIRST) -> AsyncIterator[Batch]:
        """What a place sees and a snapshot does not, from a key on; the last batch says so, and may have no events."""
        if scope == Scope() and seen != NOTHING:
            new = await self._piece(
                seen, place, lambda connection: events.read_new(connection, seen, place.snapshot, after, MAX_SORTED + 1)
            )
            if len(new) <= MAX_SORTED:
                yield Batch(new, seen, place, None)
                return
        reached: Key | None = after
        while reached is not None:
            begin = reached
            found, reached = await self._piece(
                seen,
                place,
                lambda connection, begin=begin: events.read_piece(  # type: ignore[misc]
                    connection, scope, seen, place.snapshot, begin, PIECE
                ),
            )
            if found or reached is None:
                yield Batch(found, seen, place, reached)

    async def _piece(
        self, seen: Snapshot, place: Place, read: Callable[[DriverConnection], Awaitable[Result]]
    ) -> Result:
        """What is read where the history still is that of a place, and has all that a snapshot does not see."""

        async def work(connection: DriverConnection) -> Result:
            found = await read(connection)
            # Afterwards: a connection leads to one server for as long as it lasts, and what is forgotten is announced.
            now, _, forgotten = await events.read_present(connection)
            _check_history(place, now)
            _check_remembered(seen, forgotten)
            return found

        return await self._look(work)

    async def _look(self, work: Callable[[DriverConnection], Awaitable[Result]]) -> Result:
        if self._ending:
            raise ShuttingDown
        async with self._catching_up, self._lists.take():
            return await self._database.look(work)

    # --- following ------------------------------------------------------------------------------------------------

    async def _follow(self, scope: Scope, before: Place) -> AsyncGenerator[Batch, None]:
        """What happens from a place on."""
        watcher = self._join(scope)
        try:
            place = await watcher.joined
            _check_history(before, place)
            async for batch in self._read(scope, before.snapshot, place):
                if batch.events:
                    yield batch
            while True:
                next_one = await watcher.next(self._heartbeat)
                if next_one is not None:
                    yield next_one
                elif self._place is not None:
                    # All that this place sees was handed out, and has been read.
                    yield _nothing_new(self._place)
        finally:
            self._leave(watcher)

    def _join(self, scope: Scope) -> _Watcher:
        if self._ending:
            raise ShuttingDown
        watcher = _Watcher(scope, self._max_waiting)
        self._joining.append(watcher)
        self._wanted.set()
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll_for_ever())
        return watcher

    def _leave(self, watcher: _Watcher) -> None:
        if watcher in self._joining:
            self._joining.remove(watcher)
        those = self._by_scope.get(watcher.scope, set())
        those.discard(watcher)
        if not those:
            self._by_scope.pop(watcher.scope, None)

    def _everybody(self) -> list[_Watcher]:
        return [*self._joining, *(one for those in self._by_scope.values() for one in those)]

    async def _poll_for_ever(self) -> None:
        while not self._ending:
            if not self._everybody():
                self._place = None
                await self._held.close()
                await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._poll()
            except ServiceError as error:
                self._end_all(error)
            except Exception as error:  # noqa: BLE001 - nobody may wait for ever
                log.error("the feed failed", error=describe(error))
                self._end_all(DatabaseUnavailable())
            with suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(*POLL_SECONDS)):  # noqa: S311 - no secret
                    await self._wanted.wait()

    def _end_all(self, error: ServiceError) -> None:
        for watcher in self._everybody():
            watcher.end(error)
        self._joining.clear()
        self._by_scope.clear()

    async def _poll(self) -> None:
        """Looks once. Who has come before is joined to what was seen."""
        joining, self._joining = self._joining, []
        try:
            place, now, new = await self._held.read(self._look_for_new)
        except BaseException:
            self._joining += joining
            raise
        before, self._place = self._place, place
        if before is not None and new:
            metrics.feed_lag.observe(max(0.0, (now - min(one.event_time for one in new)).total_seconds()))
            self._hand_out(new, before.snapshot, place)
        for watcher in joining:
            if self._ending:
                watcher.end(ShuttingDown())
            elif not watcher.joined.done():
                self._by_scope.setdefault(watcher.scope, set()).add(watcher)
                watcher.joined.set_result(place)

    async def _look_for_new(self, connection: DriverConnection) -> tuple[Place, datetime, list[LoggedEvent]]:
        place, now, _ = await events.read_present(connection)
        new: list[LoggedEvent] = []
        if self._place is not None:
            _check_history(self._place, place)
            seen, upto = self._place.snapshot, place.snapshot
            more = seen != upto
            while more:
                after = (new[-1].course_id, new[-1].sequence) if new else FIRST
                new += (piece := await events.read_new(connection, seen, upto, after, PIECE))
                more = len(piece) == PIECE
        return place, now, new

    def _hand_out(self, new: Sequence[LoggedEvent], seen: Snapshot, place: Place) -> None:
        """Everybody gets what is theirs. Nobody gets a turn meanwhile, so all have read up to the same place."""
        sorted_out: defaultdict[Scope, list[LoggedEvent]] = defaultdict(list)
        for event in new:
            for scope in (Scope(), Scope(course_id=event.course_id), Scope(student_id=event.student_id or -1)):
                if scope in self._by_scope:
                    sorted_out[scope].append(event)
        for scope, theirs in sorted_out.items():
            batch = Batch(theirs, seen, place, None)
            for watcher in list(self._by_scope[scope]):
                metrics.watched_events.inc(len(theirs))
                if not watcher.hand(batch):
                    metrics.slow_watchers.inc()
                    self._leave(watcher)


def _nothing_new(place: Place) -> Batch:
    return Batch((), place.snapshot, place, None)


def _check(mark: Mark, now: Place) -> None:
    """Returns if the log can be read from a mark on.

    Raises:
        Refusal: RESUME_TOKEN_EXPIRED, or RESUME_TOKEN_INVALID for a mark that this log has not come to yet.
    """
    _check_history(mark.place, now)
    if max(mark.place.snapshot.xmax, mark.seen.xmax) > now.snapshot.xmax:
        raise Refusal([resume_token_invalid()])


def _check_remembered(seen: Snapshot, forgotten: int | None) -> None:
    """Returns if nothing was forgotten that a snapshot does not see: all such transactions were over.

    Raises:
        ResumeTokenExpired: something may be missing. That is so, too, where nothing was seen yet.
    """
    if forgotten is not None and seen.xmin <= forgotten:
        raise ResumeTokenExpired


def _check_history(before: Place, now: Place) -> None:
    """Returns if one place can come after another.

    Raises:
        ResumeTokenExpired: the database was restored, or failed over, and may have lost what was seen.
    """
    if (before.epoch, before.timeline) != (now.epoch, now.timeline) or before.position > now.position:
        raise ResumeTokenExpired
