"""What is counted is what was committed, however often it was decided."""

from __future__ import annotations

import grpc
import pytest

from enrollment_service.telemetry.metrics import REGISTRY
from tests.support.proxy import proxied
from tests.support.services import service_on


def granted() -> float:
    return REGISTRY.get_sample_value("enrollment_seats_granted_total") or 0.0


async def test_a_seat_whose_commit_never_arrived_is_not_counted(database_url: str) -> None:
    async with proxied(database_url) as (proxy, url), service_on(url) as service:
        student, course = (await service.client.students(1))[0], (await service.client.courses(1))[0]
        before = granted()
        proxy.cut_before = b"COMMIT"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await service.client.enroll(student, course)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (granted(), await service.client.roster(course)) == (before, [])
        await service.client.enroll(student, course)
        assert (granted(), await service.client.roster(course)) == (before + 1, [student])


async def test_a_batch_that_is_tried_again_counts_once(database_url: str) -> None:
    async with proxied(database_url) as (proxy, url), service_on(url) as service:
        student, course = (await service.client.students(1))[0], (await service.client.courses(1))[0]
        await service.client.enroll(student, course)
        await service.client.unenroll(student, course)
        before = granted()
        # The connection is lost after the decision was made: its statement has the word in it.
        proxy.cut_before = b"maths-101"
        await service.client.enroll(student, course, reason="maths-101")
        assert proxy.cuts == 1
        assert granted() == before + 1
