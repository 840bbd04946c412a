"""The import stream: chunks in, answers out in the same order, a few chunks under way at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import structlog

from enrollment_service.api import messages
from enrollment_service.api.requests import import_enrollments
from enrollment_service.domain.caller import Caller
from enrollment_service.domain.commands import ImportAnswer
from enrollment_service.engine.writer import Writer
from enrollment_service.v1 import enrollment_pb2 as pb

log = structlog.get_logger()

# While one chunk is in the database the next is read and checked; more would only use memory. A client that sends
# faster is held back by HTTP/2's flow control, because nothing reads what it sends.
MAX_CHUNKS_UNDER_WAY = 3


async def import_chunks(
    writer: Writer, chunks: AsyncIterator[pb.ImportEnrollmentsRequest], caller: Caller
) -> AsyncIterator[pb.ImportEnrollmentsResponse]:
    """One answer per chunk, once it is durable.

    Raises:
        ServiceError: at the first chunk that is malformed; the chunks before it are answered first.
    """
    under_way: deque[tuple[int, asyncio.Task[ImportAnswer]]] = deque()
    try:
        async for chunk in chunks:
            try:
                command = import_enrollments(chunk, caller)
            except Exception:
                while under_way:
                    yield await _answer(*under_way.popleft())
                raise
            under_way.append((chunk.chunk_id, asyncio.create_task(writer.submit(command))))
            while len(under_way) >= MAX_CHUNKS_UNDER_WAY or (under_way and under_way[0][1].done()):
                yield await _answer(*under_way.popleft())
        while under_way:
            yield await _answer(*under_way.popleft())
    finally:
        for _, task in under_way:
            task.cancel()


async def _answer(chunk_id: int, task: asyncio.Task[ImportAnswer]) -> pb.ImportEnrollmentsResponse:
    answer = await task
    counts = {name: getattr(answer, name) for name in ("enrolled", "waitlisted", "already_enrolled")}
    log.info("chunk imported", chunk_id=chunk_id, rejected=len(answer.rejected), **counts)
    return messages.import_message(chunk_id, answer)
