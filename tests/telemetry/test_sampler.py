"""What cannot be counted as it happens: looked at once a second."""

from __future__ import annotations

import asyncio
import io

from enrollment_service.telemetry import logs, metrics
from enrollment_service.telemetry.sampler import Sampler
from tests.support.services import ServiceLog


def value(name: str) -> float:
    return metrics.REGISTRY.get_sample_value(name) or 0.0


async def test_a_look_reads_every_source() -> None:
    Sampler([(metrics.queue_depth("lists"), lambda: 7)]).look()
    assert metrics.REGISTRY.get_sample_value("enrollment_queue_depth", {"lane": "lists"}) == 7


async def test_log_lines_that_were_dropped_are_counted_once(session_log: ServiceLog) -> None:
    sampler = Sampler([])
    before = value("enrollment_log_lines_dropped_total")
    sink = session_log._buffer
    sink._overflowed += 3
    try:
        sampler.look()
        sampler.look()
        assert value("enrollment_log_lines_dropped_total") == before + 3
    finally:
        sink._overflowed -= 3


async def test_a_loop_that_is_late_is_seen() -> None:
    sampling = asyncio.create_task(Sampler([]).run())
    before = value("enrollment_event_loop_lag_seconds_sum")
    async with asyncio.timeout(10):
        while value("enrollment_event_loop_lag_seconds_sum") < before + 0.1:
            await asyncio.sleep(0.85)
            block(0.3)
    sampling.cancel()


def block(seconds: float) -> None:
    import time

    time.sleep(seconds)


def test_where_nothing_is_logged_nothing_was_dropped(session_log: ServiceLog) -> None:
    assert logs.dropped_lines() == session_log._buffer.dropped
    assert isinstance(session_log._file, io.BytesIO)
