"""The import streams: chunks in, answers out in the same order, a few chunks under way at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import structlog

from enrollment_service.api import messages, requests
from enrollment_service.domain.caller import Caller
from enrollment_service.domain.commands import Command
from enrollment_service.domain.errors import Reason, ServiceError
from enrollment_service.engine.writer import Writer

log = structlog.get_logger()

# While one chunk is in the database the next is read and checked; more would only use memory. A client that sends
# faster is held back by HTTP/2's flow control, because nothing reads what it sends.
MAX_CHUNKS_UNDER_WAY = 3


class Kind(NamedTuple):
    """What is imported: how a chunk becomes a command and its answer a message, and which counts are logged."""

    parse: Callable[[Any, Caller], Command[Any]]
    message: Callable[[int, Any], Any]
    counts: tuple[str, ...]


_UPSERTED = ("created", "updated", "unchanged")
ENROLLMENTS = Kind(requests.import_enrollments, messages.import_message, ("enrolled", "waitlisted", "already_enrolled"))
STUDENTS = Kind(requests.import_students, messages.imported_students_message, _UPSERTED)
COURSES = Kind(requests.import_courses, messages.imported_courses_message, _UPSERTED)


async def import_chunks(
    kind: Kind, writer: Writer, chunks: AsyncIterator[Any], caller: Caller, max_idle_seconds: float
) -> AsyncIterator[Any]:
    """One answer per chunk, as soon as it is durable, whether the client sends more meanwhile or waits.

    Raises:
        ServiceError: at the first chunk that is malformed, at a drain, or when nothing has arrived for too long; what
            was accepted before is answered first.
    """
    stream = _Chunks(kind, writer, chunks, caller, max_idle_seconds)
    try:
        while await stream.wait():
            while stream.answer_ready:
                yield await stream.answer()
        while stream.under_way:
            yield await stream.answer()
        if stream.failure is not None:
            raise stream.failure
    finally:
        stream.close()


class _Chunks:
    """The chunks of one stream that are under way, and the one that is being read."""

    def __init__(
        self, kind: Kind, writer: Writer, chunks: AsyncIterator[Any], caller: Caller, max_idle_seconds: float
    ) -> None:
        self._kind = kind
        self._writer = writer
        self._chunks = chunks
        self._caller = caller
        self._max_idle = max_idle_seconds
        self._arriving: asyncio.Task[Any] | None = None
        self.under_way: deque[tuple[int, asyncio.Task[Any]]] = deque()
        # Why no more chunks are accepted, if that is not simply the end of the stream.
        self.failure: BaseException | None = None

    @property
    def answer_ready(self) -> bool:
        """Whether the oldest chunk under way is done."""
        return bool(self.under_way) and self.under_way[0][1].done()

    async def wait(self) -> bool:
        """Waits for a chunk to arrive or an answer to be ready; False once no more chunks are accepted."""
        if self._arriving is None and len(self.under_way) < MAX_CHUNKS_UNDER_WAY:
            self._arriving = asyncio.create_task(_next(self._chunks))
        waiting: set[asyncio.Task[Any]] = {task for _, task in list(self.under_way)[:1]}
        if self._arriving is not None:
            waiting.add(self._arriving)
        idle = None if self.under_way else self._max_idle
        done, _ = await asyncio.wait(waiting, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            self.failure = _idle(self._max_idle)
            return False
        return self._arriving not in done or self._accept()

    def _accept(self) -> bool:
        """Takes on the chunk that has arrived; False where it was the end, or cannot be taken on."""
        arrived, self._arriving = self._arriving, None
        assert arrived is not None  # noqa: S101 - for the type checker
        try:
            chunk = arrived.result()
            if chunk is None:
                return False
            command = self._kind.parse(chunk, self._caller)
        except Exception as error:  # noqa: BLE001 - raised again when what came before is answered
            self.failure = error
            return False
        self.under_way.append((chunk.chunk_id, asyncio.create_task(self._writer.submit(command))))
        return True

    async def answer(self) -> Any:
        """The answer to the oldest chunk under way."""
        chunk_id, task = self.under_way.popleft()
        answer = await task
        counts = {name: getattr(answer, name) for name in self._kind.counts}
        log.info("chunk imported", chunk_id=chunk_id, rejected=len(answer.rejected), **counts)
        return self._kind.message(chunk_id, answer)

    def close(self) -> None:
        """Forgets what is under way; a batch that has formed goes on without us."""
        for _, task in self.under_way:
            task.cancel()
        if self._arriving is not None:
            self._arriving.cancel()


async def _next(chunks: AsyncIterator[Any]) -> Any:
    return await anext(chunks, None)


def _idle(seconds: float) -> ServiceError:
    return ServiceError.of(Reason.DEADLINE_EXCEEDED, "", f"Nothing arrived on the stream for {seconds:g} seconds.")
