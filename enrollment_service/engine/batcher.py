"""The natural batcher: while one batch is under way, newcomers queue; when it returns, they go as the next.

Generic: knows nothing of enrollment, of SQL or of gRPC.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from enrollment_service.domain.errors import Overloaded, ShuttingDown

Item = TypeVar("Item")
Answer = TypeVar("Answer")
# An answer that is still to come.
Pending: TypeAlias = asyncio.Future[Answer]

# Callers who have just been answered are likely to ask again at once. A batch waits for as many as there were before,
# but leaves when so many turns of the event loop brought nobody, or after so many seconds. A fixed pause would fill
# batches as well, but a few callers in flight would pay for it on every call; a lone caller waits for nobody.
QUIET_TURNS = 40
MAX_WAIT_SECONDS = 0.003
# How much the latest batch counts in the estimate of how long one takes.
LATEST_SHARE = 0.2


class Entry(NamedTuple, Generic[Item, Answer]):
    """Who waits: for what, where the answer goes, until when (None: for ever) and since when, by the loop's clock."""

    item: Item
    answer: asyncio.Future[Answer]
    deadline: float | None
    since: float


class Batcher(Generic[Item, Answer]):
    """Hands what is submitted to `run` in batches, one batch at a time, in order of arrival.

    `run` answers item by item, an exception standing for a failure of that item alone, and a future for an answer that
    is still to come, which the next batch does not wait for. It runs in a task of its own: a caller that goes away
    never cancels it. Who has gone or is late before the batch forms is left out of it.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception | asyncio.Future[Answer]]]],
        *,
        max_weight: int,
        max_waiting: int,
        weigh: Callable[[Item], int] = lambda _: 1,
        served: Callable[[int, float, float], None] = lambda *_: None,
    ) -> None:
        """Nothing runs before the first item.

        Args:
            run: serves a batch.
            max_weight: of a batch; a heavier item goes alone.
            max_waiting: items in the queue; beyond it newcomers are refused.
            weigh: an item's share of a batch.
            served: told of each batch: how many items, how long the first had waited and how long it took, in seconds.
        """
        self._run = run
        self._max_weight = max_weight
        self._max_waiting = max_waiting
        self._weigh = weigh
        self._served = served
        self._queue: deque[Entry[Item, Answer]] = deque()
        self._queued_weight = 0
        self._batch_seconds = 0.0
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._expected = 1

    async def submit(self, item: Item, deadline: float | None = None) -> Answer:
        """The answer to one item.

        Args:
            item: what to do.
            deadline: until when, by the event loop's clock, anybody wants the answer; None: for ever.

        Raises:
            Overloaded: too many items wait already for this one to be served in time; nothing was done.
            TimeoutError: its turn came only after the deadline; nothing was done.
            ShuttingDown: the batcher was closed; nothing was done.
        """
        if self._closed:
            raise ShuttingDown
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._queue and self._is_too_late(deadline, now):
            raise Overloaded
        answer: asyncio.Future[Answer] = loop.create_future()
        self._queue.append(Entry(item, answer, deadline, now))
        self._queued_weight += self._weigh(item)
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        return await answer

    @property
    def waiting(self) -> int:
        """How many items are in the queue."""
        return len(self._queue)

    async def close(self) -> None:
        """Refuses newcomers and waits until everybody in the queue has an answer."""
        self._closed = True
        while self._worker is not None:
            await asyncio.wait([self._worker])

    def _is_too_late(self, deadline: float | None, now: float) -> bool:
        """Whether a newcomer is better refused now than left to wait in vain, behind those in the queue."""
        if len(self._queue) >= self._max_waiting:
            return True
        # A batch is full by weight, but a heavy item is a batch of its own.
        batches = 1 + min(self._queued_weight / self._max_weight, len(self._queue))
        return deadline is not None and now + batches * self._batch_seconds > deadline

    async def _work(self) -> None:
        try:
            while self._queue:
                await self._gather()
                batch = self._form()
                if batch:
                    await self._serve(batch)
                    self._expected = len(batch) + len(self._queue)
        finally:
            self._worker = None

    async def _gather(self) -> None:
        """Waits for callers who are just arriving, as many as were there before."""
        expected = min(self._expected, self._max_weight)
        seen = len(self._queue)
        if seen >= expected:
            return
        clock = asyncio.get_running_loop().time
        latest = clock() + MAX_WAIT_SECONDS
        quiet = 0
        while quiet < QUIET_TURNS and seen < expected and clock() < latest:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._queue) == seen else 0
            seen = len(self._queue)

    def _form(self) -> list[Entry[Item, Answer]]:
        batch: list[Entry[Item, Answer]] = []
        weight = 0
        now = asyncio.get_running_loop().time()
        while self._queue:
            entry = self._queue[0]
            own_weight = self._weigh(entry.item)
            if entry.deadline is not None and entry.deadline <= now and not entry.answer.done():
                entry.answer.set_exception(TimeoutError())
            if not entry.answer.done():
                weight += own_weight
                if batch and weight > self._max_weight:
                    break
                batch.append(entry)
            self._queue.popleft()
            self._queued_weight -= own_weight
        return batch

    async def _serve(self, batch: list[Entry[Item, Answer]]) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            results = list(zip(batch, await self._run([entry.item for entry in batch]), strict=True))
        except Exception as error:  # noqa: BLE001 - the callers are told
            results = [(entry, error) for entry in batch]
        took = clock() - began
        self._batch_seconds += LATEST_SHARE * (took - self._batch_seconds)
        for entry, result in results:
            if isinstance(result, asyncio.Future):
                _follow(result, entry.answer)
            elif not entry.answer.done():
                _settle(entry.answer, result)
        self._served(len(batch), began - batch[0].since, took)


def _settle(answer: asyncio.Future[Answer], result: Answer | Exception) -> None:
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def _follow(source: asyncio.Future[Answer], answer: asyncio.Future[Answer]) -> None:
    """The answer becomes what the source will be; whoever gives up the one gives up the other."""

    def pass_on(_: asyncio.Future[Answer]) -> None:
        if source.cancelled():
            answer.cancel()
        elif not answer.done() and (error := source.exception()) is not None:
            answer.set_exception(error)
        elif not answer.done():
            answer.set_result(source.result())

    def give_up(_: asyncio.Future[Answer]) -> None:
        if answer.cancelled():
            source.cancel()

    source.add_done_callback(pass_on)
    answer.add_done_callback(give_up)
