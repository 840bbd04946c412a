"""Moments as protobuf timestamps, and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The driver takes the very first and last moment that Python knows for PostgreSQL's infinities.
_FIRST = datetime.min.replace(tzinfo=UTC) + timedelta.resolution
_LAST = datetime.max.replace(tzinfo=UTC) - timedelta.resolution


def timestamp(moment: datetime) -> Timestamp:
    """A moment as a protobuf timestamp; microseconds are exact."""
    since = moment - EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)


def moment_of(value: Timestamp) -> datetime:
    """A checked timestamp, cut to the microseconds that the database keeps; the ends of time lie one further in."""
    exact = EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1_000)
    return min(max(exact, _FIRST), _LAST)
