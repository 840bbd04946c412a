"""Metrics, over the wire: what a server process exposes is what has happened to it."""

from __future__ import annotations

import asyncio
import re
import socket
import uuid
from contextlib import suppress
from typing import Any

import grpc
import pytest

from enrollment_service.telemetry.metrics import REGISTRY
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.cli.test_workers import workers_of
from tests.docs.documents import SERVICE
from tests.support.client import Client, client_of
from tests.support.exposition import Exposed, asked, scraped, until_exposed
from tests.support.locks import held
from tests.support.processes import EAGER, Processes, ServerProcess, free_port
from tests.support.watching import watching

WAITLIST = pb.ON_FULL_WAITLIST


async def measured(processes: Processes, **variables: str) -> tuple[ServerProcess, Client, int]:
    """A server, a client of it, and the port of its metrics."""
    port = free_port()
    process, client = await processes.start(METRICS_LISTEN=f"127.0.0.1:{port}", **variables)
    return process, client, port


async def refused(call: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def morning(client: Client) -> None:
    """Two seats for four students: one is turned away, one waits and is promoted."""
    students = await client.students(4)
    course = (await client.create_course(capacity=2, waitlist_capacity=1)).course_id
    request_id = f"{uuid.uuid4()}"
    await client.enroll(students[0], course, request_id=request_id)
    await client.enroll(students[0], course, request_id=request_id)  # a replay grants nothing
    await client.enroll(students[1], course)
    await client.enroll(students[2], course, on_full=WAITLIST)
    await refused(client.enroll(students[3], course, on_full=WAITLIST))
    await refused(client.enroll(students[3], course, validate_only=True))  # a dry run refuses nobody
    await client.unenroll(students[0], course)


MORNING = {
    "enrollment_seats_granted_total": 2,
    "enrollment_waits_begun_total": 1,
    "enrollment_promotions_total": 1,
    "enrollment_drops_total": 1,
    "enrollment_refused_total": 1,
}


def outcomes(exposed: Exposed) -> dict[str, float]:
    return {name: exposed.value(name) for name in MORNING}


async def test_seats_are_counted_as_they_were_committed(processes: Processes) -> None:
    _, client, port = await measured(processes)
    await morning(client)
    exposed = await scraped(port)
    assert outcomes(exposed) == MORNING
    assert exposed.value("enrollment_refused_total", reason="WAITLIST_FULL") == 1


async def test_rows_of_an_import_are_counted_one_by_one(processes: Processes) -> None:
    _, client, port = await measured(processes)
    students = await client.students(3)
    course = (await client.create_course(capacity=2)).course_id
    chunk = pb.ImportEnrollmentsRequest(chunk_id=1, student_ids=students, course_ids=[course] * 3)
    assert [answer.enrolled async for answer in client.stub.ImportEnrollments(iter([chunk]))] == [2]
    exposed = await scraped(port)
    assert exposed.value("enrollment_seats_granted_total") == 2
    assert exposed.value("enrollment_refused_total", reason="COURSE_FULL") == 1
    assert exposed.value("enrollment_batch_size_count", lane="bulk") == 1


async def test_calls_are_counted_by_method_code_and_reason(processes: Processes) -> None:
    _, client, port = await measured(processes)
    await client.students(3)
    await refused(client.call("GetStudent", student_id=9))
    await refused(client.raw("GetStudent", b"\xff"))
    exposed = await scraped(port)
    assert exposed.value("enrollment_calls_total", method="CreateStudent", code="OK", reason="") == 3
    missing = {"method": "GetStudent", "code": "NOT_FOUND", "reason": "STUDENT_NOT_FOUND"}
    assert exposed.value("enrollment_calls_total", **missing) == 1
    assert exposed.value("enrollment_calls_total", code="INVALID_ARGUMENT", reason="MALFORMED_REQUEST") == 1
    assert exposed.value("enrollment_call_duration_seconds_count", method="GetStudent") == 2
    assert exposed.value("enrollment_batch_size_sum", lane="creating") == 3
    assert exposed.value("enrollment_queue_wait_seconds_count", lane="reads") == 1


async def test_what_is_watched_for_is_there_before_it_happens(processes: Processes) -> None:
    _, _, port = await measured(processes)
    exposed = await scraped(port)
    for reason in ("", "INTERNAL", "DATABASE_UNAVAILABLE", "OVERLOADED"):
        found = [labels for labels, value in exposed.series["enrollment_calls_total"] if labels["reason"] == reason]
        assert {labels["method"] for labels in found} == {method.name for method in SERVICE.methods}
    refused_for = {labels["reason"]: value for labels, value in exposed.series["enrollment_refused_total"]}
    assert refused_for["COURSE_FULL"] == refused_for["WAITLIST_FULL"] == refused_for["ENROLLMENT_CLOSED"] == 0


async def test_calls_that_are_turned_away_are_counted(processes: Processes, database_url: str) -> None:
    _, client, port = await measured(processes, MAX_WAITING="1")
    student, course = (await client.students(1))[0], (await client.courses(1))[0]
    async with held(database_url, course):
        calls = [asyncio.create_task(client.enroll(student, course)) for _ in range(5)]
        await until_exposed(port, "enrollment_calls_total", range(1, 5), reason="OVERLOADED")
    answers = await asyncio.gather(*calls, return_exceptions=True)
    shed = [answer for answer in answers if "OVERLOADED" in repr(answer) or "Too many calls" in repr(answer)]
    exposed = await scraped(port)
    assert exposed.value("enrollment_calls_total", code="RESOURCE_EXHAUSTED", reason="OVERLOADED") == len(shed) > 0


async def test_the_patient_lane_can_be_seen(processes: Processes, database_url: str) -> None:
    _, client, port = await measured(processes)
    student, course = (await client.students(1))[0], (await client.courses(1))[0]
    async with held(database_url, course):
        call = asyncio.create_task(client.enroll(student, course))
        # Gauges are looked at one after the other, and a scrape may come in between.
        await until_exposed(port, "enrollment_queue_depth", {1}, lane="patient")
        await until_exposed(port, "enrollment_patient_rows", {1})
        await until_exposed(port, "enrollment_calls_under_way", {1}, kind="call")
        await until_exposed(port, "enrollment_database_connections", {1, 2, 3}, state="in_use")
    await call
    await until_exposed(port, "enrollment_queue_depth", {0}, lane="patient")
    exposed = await until_exposed(port, "enrollment_patient_turns_total", {1}, result="served")
    assert exposed.value("enrollment_database_connections_max") == 16


async def test_a_row_that_stays_locked_can_be_seen(processes: Processes, database_url: str) -> None:
    _, client, port = await measured(processes, LOCK_TIMEOUT_MS="300")
    student, course = (await client.students(1))[0], (await client.courses(1))[0]
    async with held(database_url, course):
        await refused(client.enroll(student, course))
        exposed = await scraped(port)
    assert exposed.value("enrollment_patient_turns_total", result="given_up") == 1
    assert exposed.value("enrollment_calls_total", code="UNAVAILABLE", reason="DATABASE_UNAVAILABLE") == 1


async def test_the_build_is_told(processes: Processes) -> None:
    _, _, port = await measured(processes)
    ((labels, value),) = (await scraped(port)).series["enrollment_build_info"]
    assert value == 1
    assert labels["version"] == "0.1.0"
    assert re.fullmatch(r"3\.\d+\.\d+.*", labels["python_version"])
    assert {labels["optimized"], labels["lto"]} <= {"true", "false"}


async def test_labels_hold_nothing_that_callers_choose(processes: Processes) -> None:
    _, client, port = await measured(processes)
    await client.create_student("Marked Name", "marked@example.org")
    await refused(client.raw("NoSuchMethod", b""))
    status, text = await asyncio.to_thread(asked, port)
    assert status == 200
    assert not re.search("marked|NoSuchMethod|127.0.0.1", text, re.IGNORECASE)
    exposed = await scraped(port)
    named = {name for samples in exposed.series.values() for labels, _ in samples for name in labels}
    assert named <= {"method", "code", "reason", "kind", "lane", "state", "result", "le"} | {
        "version", "python_version", "optimized", "lto",
    }  # fmt: skip


def test_names_follow_the_conventions_of_prometheus() -> None:
    for family in REGISTRY.collect():
        assert family.name.startswith("enrollment_"), family.name
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"_(ms|milliseconds|minutes|total|count|sum)$", family.name), family.name


# --- the endpoint -------------------------------------------------------------------------------------------------


async def test_only_the_metrics_are_served(processes: Processes) -> None:
    _, _, port = await measured(processes)
    assert [asked(port, *what)[0] for what in (("GET", "/"), ("GET", "/favicon.ico"), ("POST",), ("HEAD",))] == [
        404, 404, 405, 405,
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"\x16\x03\x01garbage\r\n\r\n")
        stranger.recv(1024)
    assert asked(port)[0] == 200


async def test_who_reads_nothing_holds_up_neither_calls_nor_the_end(processes: Processes) -> None:
    process, client, port = await measured(processes)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    try:
        for one in silent:
            with suppress(OSError):
                one.sendall(b"GET /metrics HTTP/1.1\r\n")
        await client.students(1)
        async with asyncio.timeout(5):
            assert await process.stop() == 0
    finally:
        for one in silent:
            one.close()


async def test_it_is_there_until_the_drain_is_over(processes: Processes, database_url: str) -> None:
    process, client, port = await measured(processes, LOCK_TIMEOUT_MS="20000")
    student, course = (await client.students(1))[0], (await client.courses(1))[0]
    async with held(database_url, course):
        call = asyncio.create_task(client.enroll(student, course))
        await until_exposed(port, "enrollment_queue_depth", {1}, lane="patient")
        process.process.terminate()
        await until_exposed(port, "enrollment_calls_under_way", {1})
    await call
    assert await process.ended() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_an_address_that_is_taken_is_an_error(processes: Processes, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = processes.spawn(METRICS_LISTEN=address, WORKERS=workers)
        assert await process.ended() == 1
    assert process.errors == f"cannot serve metrics on {address}: Address already in use\n"


async def test_without_the_setting_nobody_listens(processes: Processes) -> None:
    process, _ = await processes.start()
    listening = [one for one in _listening(process.pid) if one != process.port]
    assert listening == []


def _listening(pid: int) -> list[int]:
    import psutil

    connections = psutil.Process(pid).net_connections(kind="tcp")
    return [one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN]


# --- several processes --------------------------------------------------------------------------------------------


async def created_on_many_connections(process: ServerProcess, count: int) -> None:
    """Students, each over a connection of its own, so that the kernel spreads them over the workers."""

    async def create() -> None:
        async with client_of(process.address, EAGER) as client:
            await client.create_student()

    await asyncio.gather(*(create() for _ in range(count)))


async def test_one_endpoint_counts_for_all_workers(processes: Processes) -> None:
    process, client, port = await measured(processes, WORKERS="2")
    await workers_of(process, 2)
    await created_on_many_connections(process, 30)
    exposed = await until_exposed(port, "enrollment_processes", {2})
    assert exposed.value("enrollment_calls_total", method="CreateStudent") == 30
    assert exposed.value("enrollment_call_duration_seconds_count", method="CreateStudent") == 30
    assert exposed.value("enrollment_batch_size_sum", lane="creating") == 30
    assert exposed.value("enrollment_database_connections_max") == 32
    assert len(exposed.series["enrollment_build_info"]) == 1
    await morning(client)
    assert outcomes(await scraped(port)) == MORNING


@pytest.mark.long
async def test_nothing_is_lost_or_counted_twice_when_a_worker_is_killed_and_replaced(processes: Processes) -> None:
    process, _, port = await measured(processes, WORKERS="2")
    workers = await workers_of(process, 2)
    await created_on_many_connections(process, 30)
    await until_exposed(port, "enrollment_processes", {2})

    workers[0].kill()
    workers[1].kill()

    await until_exposed(port, "enrollment_worker_deaths_total", {2})
    exposed = await scraped(port)
    assert exposed.value("enrollment_calls_total", method="CreateStudent") == 30
    await until_exposed(port, "enrollment_processes", {2})
    exposed = await scraped(port)
    assert exposed.value("enrollment_calls_total", method="CreateStudent") == 30
    assert exposed.value("enrollment_database_connections_max") == 32  # of those that live, no others
    await created_on_many_connections(process, 10)
    exposed = await scraped(port)
    assert exposed.value("enrollment_calls_total", method="CreateStudent") == 40
    assert exposed.value("enrollment_call_duration_seconds_bucket", method="CreateStudent", le="+Inf") == 40


async def test_the_feed_can_be_seen(processes: Processes) -> None:
    _, client, port = await measured(processes)
    (course,), (student,) = await client.courses(1), await client.students(1)
    async with watching(client) as watcher, watching(client, student_id=student):
        await until_exposed(port, "enrollment_watchers", {2})
        await client.enroll(student, course)
        await watcher.until(lambda one: len(one.events) == 2)
        exposed = await until_exposed(port, "enrollment_watched_events_total", {2})
        assert exposed.value("enrollment_feed_lag_seconds_count") == 1
        assert exposed.value("enrollment_slow_watchers_total") == 0
    await until_exposed(port, "enrollment_watchers", {0})
