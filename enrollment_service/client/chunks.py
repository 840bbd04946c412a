"""An import: chunks out, answers in. A stream that breaks is opened again, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any

import grpc

from enrollment_service.client.errors import OutcomeUnknown, ServiceError, translated
from enrollment_service.client.retries import Attempts

# The server works on three; one more is on its way meanwhile.
CHUNKS_IN_FLIGHT = 4

Chunks = Iterable[Any] | AsyncIterable[Any]


class ChunkStream:
    """The chunks of one import, over as many streams as it takes."""

    def __init__(self, begin: Callable[[], Any], chunks: Chunks, attempts: Attempts, answer_timeout: float) -> None:
        self._begin = begin
        self._source = _iterated(chunks)
        self._attempts = attempts
        self._answer_timeout = answer_timeout
        self._room = asyncio.Semaphore(CHUNKS_IN_FLIGHT)
        self._ready: asyncio.Queue[Any] = asyncio.Queue()
        self._unanswered: dict[int, Any] = {}
        self._open_ids: set[int] = set()
        self._taken = 0
        self._all_sent = False

    async def answers(self) -> AsyncGenerator[Any, None]:
        """One answer per chunk, in the order of the chunks.

        Raises:
            ServiceError: a chunk was refused, or there was no answer for as long as the budget.
            ValueError: a chunk has the chunk_id of one that is not answered yet.
            Exception: what the source of the chunks raised, once everything before it is answered.
        """
        feeding = asyncio.create_task(self._feed())
        try:
            while not self._is_over:
                try:
                    async with contextlib.aclosing(self._answers_of_one_stream()) as answers:
                        async for answer in answers:
                            yield answer
                except ServiceError as error:
                    if not self._is_over:
                        await self._attempts.pause_after(error)
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    @property
    def _is_over(self) -> bool:
        return self._all_sent and not self._unanswered

    async def _feed(self) -> None:
        """Takes chunks from the source; apart from the streams, so that one that breaks interrupts no source."""
        try:
            while True:
                await self._room.acquire()
                if (chunk := await anext(self._source, None)) is None:
                    return
                self._ready.put_nowait(self._prepared(chunk))
        finally:
            self._ready.put_nowait(None)

    def _prepared(self, chunk: Any) -> Any:
        """A copy, because the caller may fill the same message again; with both ids, so that it can be resent."""
        self._taken += 1
        prepared = type(chunk)()
        prepared.CopyFrom(chunk)
        prepared.chunk_id = chunk.chunk_id or self._taken
        prepared.request_id = chunk.request_id or str(uuid.uuid4())
        if prepared.chunk_id in self._open_ids:
            raise ValueError(f"chunk_id {prepared.chunk_id} is not answered yet")
        self._open_ids.add(prepared.chunk_id)
        return prepared

    async def _answers_of_one_stream(self) -> AsyncGenerator[Any, None]:
        call = self._begin()
        sending = asyncio.create_task(self._send(call))
        try:
            while (answer := await self._read(call)) is not grpc.aio.EOF:
                if self._unanswered.pop(answer.chunk_id, None) is not None:
                    self._open_ids.discard(answer.chunk_id)
                    self._room.release()
                    self._attempts.progress()
                    yield answer
            if not self._is_over:
                raise OutcomeUnknown(grpc.StatusCode.UNKNOWN, "The stream ended before every chunk was answered.")
        finally:
            sending.cancel()
            call.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, call: Any) -> None:
        """First what a broken stream left without an answer, then what is new. That it broke is read, not seen here."""
        for chunk in list(self._unanswered.values()):
            await call.write(chunk)
        while not self._all_sent:
            if (chunk := await self._ready.get()) is None:
                self._all_sent = True
                break
            self._unanswered[chunk.chunk_id] = chunk
            await call.write(chunk)
        await call.done_writing()

    async def _read(self, call: Any) -> Any:
        reading = asyncio.ensure_future(call.read())
        try:
            while not (await asyncio.wait([reading], timeout=self._answer_timeout))[0]:
                # Where the next chunk is still to come from our side, no answer need be due.
                if self._room.locked() or self._all_sent:
                    raise OutcomeUnknown(grpc.StatusCode.DEADLINE_EXCEEDED, "No answer to a chunk came in time.")
            with translated():
                return await reading
        finally:
            reading.cancel()


async def _iterated(chunks: Chunks) -> AsyncIterator[Any]:
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            yield chunk
    else:
        for chunk in chunks:
            yield chunk
