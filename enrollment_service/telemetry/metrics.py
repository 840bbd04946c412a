"""Everything that is counted and measured, for Prometheus: each metric by its name, and how rooms record it.

How the numbers get out is in `exposition.py`; what can only be looked at now and then is read by `sampler.py`. Labels
take few values, all known beforehand: methods, codes, reasons, lanes. Never an id, and nothing that callers choose.

Children are looked up once and kept: `labels()` costs more than everything else. Where several processes serve, the
numbers are in files that they share (see `shared.py`), so each gauge says how those of the processes become one.
"""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from enrollment_service import __version__

REGISTRY = CollectorRegistry()
# When a series began; Prometheus does without, and there would be as many of these as of all others.
disable_created_metrics()  # type: ignore[no-untyped-call]

Lane: TypeAlias = Literal["usual", "bulk", "patient", "reads", "lists", "creating"]
# What is told of a batch: how many items, how long the first had waited, and how long the batch took, in seconds.
BatchMeter: TypeAlias = Callable[[int, float, float], None]
# A gauge, and what reads its present value.
Sample: TypeAlias = tuple[Gauge, Callable[[], float]]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1_000, 10_000)


def _counter(name: str, says: str, *labels: str) -> Counter:
    return Counter(f"enrollment_{name}", says, labels, registry=REGISTRY)


def _histogram(name: str, says: str, *labels: str, buckets: Iterable[float] = _SECONDS) -> Histogram:
    return Histogram(f"enrollment_{name}", says, labels, registry=REGISTRY, buckets=tuple(buckets))


def _gauge(name: str, says: str, *labels: str, of_all: Literal["livesum", "livemin", "livemax"] = "livesum") -> Gauge:
    return Gauge(f"enrollment_{name}", says, labels, registry=REGISTRY, multiprocess_mode=of_all)


# --- calls --------------------------------------------------------------------------------------------------------

_calls = _counter("calls", "Calls that have ended, by what they were answered.", "method", "code", "reason")
_call_seconds = _histogram(
    "call_duration_seconds", "How long calls took, from when gRPC handed them over to the answer.", "method"
)
_under_way = _gauge("calls_under_way", "Calls that are being served now.", "kind")
calls_under_way = _under_way.labels("call")
streams_under_way = _under_way.labels("stream")


class CallMeter:
    """Counts the calls of one method.

    Args:
        method: its name.
        expected: codes and reasons to show before the first such call: what is counted from the start can be told
            apart from what was never counted.
    """

    def __init__(self, method: str, expected: Iterable[tuple[str, str]]) -> None:
        self._method = method
        self._seconds = _call_seconds.labels(method)
        self._counts: dict[tuple[str, str], Counter] = {}
        for code, reason in [("OK", ""), *expected]:
            self._child(code, reason)

    def ended(self, code: str, reason: str, seconds: float) -> None:
        """Counts a call, and how long it took."""
        (self._counts.get((code, reason)) or self._child(code, reason)).inc()
        self._seconds.observe(seconds)

    def shed(self, code: str, reason: str) -> None:
        """Counts a call that was turned away. How quickly says nothing of how long calls take."""
        (self._counts.get((code, reason)) or self._child(code, reason)).inc()

    def _child(self, code: str, reason: str) -> Counter:
        child = self._counts[code, reason] = _calls.labels(self._method, code, reason)
        return child


# --- batches and lanes --------------------------------------------------------------------------------------------

_batch_items = _histogram("batch_size", "Calls that were served together.", "lane", buckets=_ITEMS)
_batch_seconds = _histogram("batch_duration_seconds", "How long batches took, from lock to commit.", "lane")
_batch_wait = _histogram("queue_wait_seconds", "How long the first call of a batch had waited for it.", "lane")
_depth = _gauge("queue_depth", "Calls that wait now.", "lane")
patient_rows = _gauge("patient_rows", "Rows, mostly courses, that calls wait for because others have locked them.")
_turns = _counter("patient_turns", "Tries of the patient lane to get a locked row.", "result")
patient_turns_served = _turns.labels("served")
patient_turns_busy = _turns.labels("busy")
# The row stayed locked for the lock timeout, and everybody who waited for it was told.
patient_turns_given_up = _turns.labels("given_up")


def batches(lane: Lane) -> BatchMeter:
    """What the batches of a lane are told to."""
    items, wait, took = _batch_items.labels(lane), _batch_wait.labels(lane), _batch_seconds.labels(lane)

    def served(count: int, waited_seconds: float, took_seconds: float) -> None:
        items.observe(count)
        wait.observe(waited_seconds)
        took.observe(took_seconds)

    return served


def queue_depth(lane: Lane) -> Gauge:
    """How many wait in a lane."""
    return _depth.labels(lane)


# --- enrollment, as it was committed -------------------------------------------------------------------------------

seats_granted = _counter("seats_granted", "Students who got a seat at once.")
waits_begun = _counter("waits_begun", "Students who began to wait for a seat.")
promotions = _counter("promotions", "Students who were given a seat that they had waited for.")
drops = _counter("drops", "Students who left a course or its waitlist.")
_refused = _counter("refused", "Students who were refused entry to a course, by the first reason.", "reason")
_refused_by: dict[str, Counter] = {}


def refused(reason: str, count: int) -> None:
    """Counts students who were refused."""
    child = _refused_by.get(reason)
    if child is None:
        child = _refused_by[reason] = _refused.labels(reason)
    child.inc(count)


# --- the feed -------------------------------------------------------------------------------------------------------

watchers = _gauge("watchers", "Watchers that have caught up and wait for what happens.")
watched_events = _counter("watched_events", "Events that were handed to watchers, each as often as it was.")
slow_watchers = _counter("slow_watchers", "Watchers that were ended because they did not read fast enough.")
feed_lag = _histogram("feed_lag_seconds", "How old the oldest event was each time that new ones were found.")

# --- the database, and this process ---------------------------------------------------------------------------------

ready = _gauge("ready", "Whether the database can be written: 1 or 0.", of_all="livemin")
_connections = _gauge("database_connections", "Connections to the database.", "state")
connections_open = _connections.labels("open")
connections_in_use = _connections.labels("in_use")
connections_max = _gauge("database_connections_max", "Connections to the database that may be open.")
purged = _counter("request_ids_purged", "Expired request ids that were deleted.")
_purges = _counter("purges", "Times that expired request ids were looked for.", "result")
purges_done = _purges.labels("ok")
purges_failed = _purges.labels("failed")
last_purge = _gauge(
    "last_purge_timestamp_seconds",
    "When expired request ids were last deleted; before the first time, when the service started.",
    of_all="livemax",
)
log_lines_dropped = _counter("log_lines_dropped", "Log lines that nobody read in time.")
loop_lag = _histogram(
    "event_loop_lag_seconds", "How late the event loop came to what was due, looked at once a second."
)
_processes = _gauge("processes", "Processes that serve.")
_build = _gauge(
    "build_info",
    "What runs: the version, and the Python with how it was built.",
    "version",
    "python_version",
    "optimized",
    "lto",
    of_all="livemax",
)


def say_what_runs() -> None:
    """Shows that this process serves, and what it is made of. A Python that was not built optimized is slower."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    optimized, lto = "--enable-optimizations" in arguments, "--with-lto" in arguments
    _build.labels(__version__, platform.python_version(), f"{optimized}".lower(), f"{lto}".lower()).set(1)
    _processes.set(1)
