"""How fast the whole history is read: WatchEnrollmentEvents without `follow`, beside psql's COPY of the same rows."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import grpc
import psutil

from benchmarks import contestants
from benchmarks.bench import Bench
from benchmarks.contestants import ContestantError, Running
from benchmarks.database import libpq_environment
from enrollment_service.v1 import enrollment_pb2 as pb

MEASURES = "history.service", "history.copy", "history_growth_mb"
_METHOD = "/enrollment.v1.EnrollmentService/WatchEnrollmentEvents"
_TIMEOUT = 300.0
_LOOK = 0.05  # seconds
_COPY = (
    "\\copy (SELECT course_id, sequence, kind, student_id, previous_state, state, waitlist_position, enrolled_count,"
    " waitlisted_count, capacity, event_time, request_id, actor, reason FROM enrollment_events"
    " ORDER BY course_id, sequence) TO '/dev/null'"
)


def read(bench: Bench, url: str) -> None:
    """Events a second of a history read from its beginning to its end, twice, and what that adds to the memory."""
    with bench.measuring(*MEASURES):
        with bench.running(contestants.SERVICE, url) as server:
            read_all(server.address)
            with _peak(server) as growth:
                found = read_all(server.address)
        bench.note("history.service", found.events / found.seconds)
        bench.note("history_growth_mb", growth[0])
        bench.note("history.copy", _copied(bench, url, found.events))


class History(NamedTuple):
    """How many events there were, how many seconds they took, and where they end."""

    events: int
    seconds: float
    resume_token: str


def read_all(address: str) -> History:
    """Reads all events.

    Raises:
        ContestantError: that was not all.
    """
    began = time.perf_counter()
    with grpc.insecure_channel(address) as channel:
        stub: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(_METHOD)
        events, message = 0, pb.WatchEnrollmentEventsResponse()
        try:
            for data in stub(pb.WatchEnrollmentEventsRequest().SerializeToString(), timeout=_TIMEOUT):
                message = pb.WatchEnrollmentEventsResponse.FromString(data)
                events += len(message.events)
        except grpc.RpcError as error:
            raise ContestantError(f"WatchEnrollmentEvents: {error.code().name} {error.details()}") from error
    if not message.caught_up:
        raise ContestantError(f"the history ended after {events} events and was not complete")
    return History(events, time.perf_counter() - began, message.resume_token)


@contextmanager
def _peak(server: Running) -> Iterator[list[float]]:
    """By how much the resident memory of a server grows at the most inside the block, in MB (10^6 bytes)."""
    process, over, growth = psutil.Process(server.process.pid), threading.Event(), [0.0]
    before = process.memory_info().rss

    def look() -> None:
        while not over.wait(_LOOK):
            growth[0] = max(growth[0], (process.memory_info().rss - before) / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield growth
    finally:
        over.set()
        thread.join()


def _copied(bench: Bench, url: str, events: int) -> float:
    """Rows a second by COPY, in the order in which the service gives them."""
    program = bench.database.program("psql")
    if program is None:
        raise ContestantError("psql is not installed")
    command = [program, "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--command={_COPY}"]
    began = time.perf_counter()
    finished = subprocess.run(
        command, env=libpq_environment(url), capture_output=True, text=True, timeout=_TIMEOUT, check=False
    )
    seconds = time.perf_counter() - began
    if finished.returncode != 0 or finished.stdout.strip() != f"COPY {events}":
        raise ContestantError(f"psql: {finished.stdout.strip()} {finished.stderr.strip()[-300:]}")
    return events / seconds
