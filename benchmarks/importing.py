"""The client of ImportEnrollments: chunks of 10,000 pairs, a few on their way at a time.

Python is good enough here: a chunk is one message, and encoding it takes a thousandth of what storing it does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc

from benchmarks.contestants import ContestantError
from enrollment_service.v1.enrollment_pb2 import ImportEnrollmentsRequest
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceStub

_CHUNK = 10_000
_ON_THE_WAY = 4
_TIMEOUT = 120.0


def import_rows(address: str, pairs: list[tuple[int, int]]) -> float:
    """Import all pairs, check that each got a seat, and return pairs per second."""
    began = time.perf_counter()
    try:
        enrolled = asyncio.run(_import(address, pairs))
    except grpc.RpcError as error:
        raise ContestantError(f"ImportEnrollments: {error.code().name} {error.details()}") from error
    seconds = time.perf_counter() - began
    if enrolled != len(pairs):
        raise ContestantError(f"ImportEnrollments: {enrolled} of {len(pairs)} pairs were enrolled")
    return len(pairs) / seconds


async def _import(address: str, pairs: list[tuple[int, int]]) -> int:
    room = asyncio.Semaphore(_ON_THE_WAY)

    async def chunks() -> AsyncIterator[ImportEnrollmentsRequest]:
        for number, start in enumerate(range(0, len(pairs), _CHUNK), 1):
            await room.acquire()
            students, courses = zip(*pairs[start : start + _CHUNK], strict=True)
            yield ImportEnrollmentsRequest(chunk_id=number, student_ids=students, course_ids=courses)

    enrolled = 0
    async with grpc.aio.insecure_channel(address) as channel:
        async for answer in EnrollmentServiceStub(channel).ImportEnrollments(chunks(), timeout=_TIMEOUT):
            enrolled += answer.enrolled
            room.release()
    return enrolled
