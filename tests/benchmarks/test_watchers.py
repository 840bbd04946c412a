"""The crowd of the benchmark watches what it says, and tells how late events were."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from benchmarks import history
from benchmarks.scale import QUICK
from benchmarks.watch import Crowd, crowd
from benchmarks.watchers import CONNECTIONS, OF_ALL, OF_ONE_COURSE, OF_ONE_STUDENT, WATCHERS
from tests.support.processes import Processes
from tests.support.watching import events_of


@contextmanager
def everybody(address: str) -> Iterator[Crowd]:
    """A crowd that leaves out no course and no student of a small data set."""
    with crowd(address, replace(QUICK, students=OF_ONE_STUDENT, courses=OF_ONE_COURSE), token="") as watching:
        yield watching


@pytest.mark.long
async def test_a_thousand_watch_and_come_back(processes: Processes) -> None:
    server, client = await processes.start(MAX_STREAMS=f"{WATCHERS // CONNECTIONS}", METRICS_LISTEN="127.0.0.1:0")
    (course,), (ann, bo) = await client.courses(1), await client.students(2)
    with everybody(server.address) as order:
        await asyncio.to_thread(order, "open")
        await asyncio.to_thread(order, "record")
        await client.enroll(ann, course)
        # Two of all, one of the course, and one of the student.
        report = await _reported(order, OF_ALL + 2)
        assert 0 < report["p50_ms"] <= report["p99_ms"] < 5_000
        await asyncio.to_thread(order, "close")
        await asyncio.to_thread(order, "open")
        await asyncio.to_thread(order, "record")
        await client.enroll(bo, course)
        await _reported(order, OF_ALL + 2)


async def _reported(order: Crowd, events: int) -> dict[str, float]:
    async with asyncio.timeout(20):
        while (report := await asyncio.to_thread(order, "report"))["events"] < events:  # noqa: ASYNC110 - it takes orders
            await asyncio.sleep(0.05)
    assert report["events"] == events
    return report


async def test_a_history_is_counted_to_its_end(processes: Processes) -> None:
    server, client = await processes.start()
    courses, students = await client.courses(2), await client.students(5)
    for student in students:
        await client.enroll(student, *courses)
    found = await asyncio.to_thread(history.read_all, server.address)
    assert found.events == len(await events_of(client)) == 12
    assert found.seconds > 0
    assert await events_of(client, resume_token=found.resume_token) == []
