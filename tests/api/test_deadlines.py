"""Calls that set no deadline get the server's."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from enrollment_service.api.deadlines import Deadlines
from enrollment_service.engine.reader import Reader
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.refusals import refused


async def test_a_call_without_a_deadline_is_ended_by_the_server(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start_service(default_deadline=0.05)

    async def never(*_: Any) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Reader, "student", never)
    with refused("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"):
        await service.client.stub.GetStudent(pb.GetStudentRequest(student_id=1))


async def test_a_callers_own_deadline_is_left_alone(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start_service(default_deadline=0.05)
    entered = asyncio.Event()

    async def until_cancelled(*_: Any) -> None:
        entered.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Reader, "student", until_cancelled)
    call = service.client.stub.GetStudent(pb.GetStudentRequest(student_id=1), timeout=0.5)
    await entered.wait()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not caught.value.trailing_metadata()


async def test_who_ends_in_time_is_not_cancelled() -> None:
    deadlines = Deadlines(0.02)

    async def quick() -> bool:
        task = asyncio.current_task()
        assert task is not None
        deadlines.begin(task)
        expired = deadlines.end(task)
        # Longer than the deadlines, but no longer watched.
        await asyncio.sleep(0.06)
        return expired

    assert await quick() is False


async def test_who_takes_too_long_is_told_apart_from_who_was_cancelled() -> None:
    deadlines = Deadlines(0.02)
    task = asyncio.current_task()
    assert task is not None
    deadlines.begin(task)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.get_running_loop().create_future()
    task.uncancel()
    assert deadlines.end(task) is True
    assert deadlines.end(task) is False
