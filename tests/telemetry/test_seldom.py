"""What is told seldom is told at once, then once per interval, and nothing is left uncounted."""

from __future__ import annotations

import time

import pytest

from enrollment_service.telemetry.seldom import Seldom


def test_each_kind_is_told_at_once_and_then_once_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seldom = Seldom(seconds=1.0)
    assert [seldom.due("a"), seldom.due("a"), seldom.due("b"), seldom.due("a")] == [1, 0, 1, 0]
    now = 101.0
    assert [seldom.due("a"), seldom.due("a"), seldom.due("b")] == [3, 0, 1]
