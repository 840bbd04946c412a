"""How thorough a test is: a few examples for `make test`, all of them for `make test-long`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

Case = TypeVar("Case")

# So many times the usual number; `make test-long` sets it.
TIMES = int(os.environ.get("TEST_TIMES", "1"))


def few(examples: int) -> settings:
    """Settings of a test that draws random examples over the wire, where each takes a while. Mark it `random`, too."""
    return settings(max_examples=examples * TIMES, deadline=None, suppress_health_check=list(HealthCheck))


def mostly_long(cases: Iterable[Case], quick: Collection[Case]) -> list[Any]:
    """The cases of a test: those that are not among the quick ones are `long`."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.long) for case in cases]
