"""The client of ImportEnrollments: chunks of 10,000 pairs or as the command sends them, a few on their way at a time.

Python is good enough here: a chunk is one message, and encoding it takes a thousandth of what storing it does.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import grpc

from benchmarks.contestants import ContestantError
from enrollment_service.cli.pace import Pace
from enrollment_service.v1.enrollment_pb2 import ImportEnrollmentsRequest
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceStub

_CHUNK = 10_000
_ON_THE_WAY = 4
_TIMEOUT = 120.0


def import_rows(address: str, pairs: list[tuple[int, int]], pace: Pace | None = None) -> float:
    """Import all pairs, check that each got a seat, and return pairs per second.

    With a pace, chunks are as large as the command `import` makes them, so that single calls do not wait for long.
    """
    began = time.perf_counter()
    try:
        enrolled = asyncio.run(_import(address, pairs, pace or Pace(_CHUNK)))
    except grpc.RpcError as error:
        raise ContestantError(f"ImportEnrollments: {error.code().name} {error.details()}") from error
    seconds = time.perf_counter() - began
    if enrolled != len(pairs):
        raise ContestantError(f"ImportEnrollments: {enrolled} of {len(pairs)} pairs were enrolled")
    return len(pairs) / seconds


async def _import(address: str, pairs: list[tuple[int, int]], pace: Pace) -> int:
    room = asyncio.Semaphore(_ON_THE_WAY)
    sizes: dict[int, int] = {}

    async def chunks() -> AsyncIterator[ImportEnrollmentsRequest]:
        start = 0
        for number in itertools.count(1):
            await room.acquire()
            if not (chunk := pairs[start : start + pace.rows]):
                return
            start += len(chunk)
            sizes[number] = len(chunk)
            students, courses = zip(*chunk, strict=True)
            yield ImportEnrollmentsRequest(chunk_id=number, student_ids=students, course_ids=courses)

    enrolled = 0
    async with grpc.aio.insecure_channel(address) as channel:
        async for answer in EnrollmentServiceStub(channel).ImportEnrollments(chunks(), timeout=_TIMEOUT):
            enrolled += answer.enrolled
            pace.answered(sizes[answer.chunk_id])
            room.release()
    return enrolled
