"""Chunks of an import are as large as the server takes a tenth of a second for."""

from __future__ import annotations

import pytest

from enrollment_service.cli.pace import CHUNK_SECONDS, FIRST_ROWS, MAX_ROWS, MIN_ROWS, Pace


class Server:
    """Takes a while for each row."""

    def __init__(self, rows_a_second: float) -> None:
        self.rows_a_second = rows_a_second
        self.now = 0.0

    def take(self, pace: Pace) -> None:
        rows = pace.rows
        self.now += rows / self.rows_a_second
        pace.answered(rows)


@pytest.mark.parametrize("rows_a_second", [5_000, 40_000, 80_000])
def test_chunks_come_to_take_a_tenth_of_a_second(rows_a_second: float) -> None:
    server = Server(rows_a_second)
    pace = Pace(clock=lambda: server.now)
    assert pace.rows == FIRST_ROWS
    for _ in range(12):
        server.take(pace)
    assert pace.rows / rows_a_second == pytest.approx(CHUNK_SECONDS, rel=0.1)


@pytest.mark.parametrize(("rows_a_second", "rows"), [(1, MIN_ROWS), (1e9, MAX_ROWS)])
def test_they_stay_within_bounds(rows_a_second: float, rows: int) -> None:
    server = Server(rows_a_second)
    pace = Pace(clock=lambda: server.now)
    for _ in range(20):
        server.take(pace)
    assert pace.rows == rows


def test_a_single_slow_answer_does_not_change_much() -> None:
    server = Server(40_000)
    pace = Pace(clock=lambda: server.now)
    for _ in range(12):
        server.take(pace)
    usual = pace.rows
    server.now += 5
    server.take(pace)
    assert pace.rows >= usual * 0.45


def test_a_size_that_was_asked_for_is_kept() -> None:
    server = Server(1)
    pace = Pace(7, clock=lambda: server.now)
    server.take(pace)
    assert pace.rows == 7
