"""Traces: the trace of a caller is known, and a real receiver gets a span for each call and each batch."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

import grpc
import pytest

from enrollment_service.telemetry.tracing import LAST_SECONDS, trace_id_of
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.cli.test_workers import workers_of
from tests.support.client import SERVICE, Client, client_of
from tests.support.locks import held
from tests.support.processes import EAGER, PROJECT, Processes, ServerProcess, free_port
from tests.support.receiver import receiving
from tests.support.services import Service, ServiceLog

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
NOT_SAMPLED = f"00-{TRACE}-{PARENT}-00"
SERVER, INTERNAL = 2, 1
# So soon after a call its spans are sent.
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


async def call(client: Client, method: str, traceparent: str, **fields: Any) -> Any:
    request = getattr(pb, f"{method}Request")(**fields)
    return await getattr(client.stub, method)(request, metadata=(("traceparent", traceparent),), timeout=20)


async def traced(processes: Processes, endpoint: str, **variables: str) -> tuple[ServerProcess, Client]:
    return await processes.start(TRACES_ENDPOINT=endpoint, **variables)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)


# --- the trace of a caller ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [TRACEPARENT.upper()],
        [TRACEPARENT + "-more"],
        [f"ff{TRACEPARENT[2:]}"],
        [TRACEPARENT.replace(TRACE, "0" * 32)],
        [TRACEPARENT.replace(PARENT, "0" * 16)],
        [TRACEPARENT[:-1]],
        [TRACEPARENT + "\n"],
        [TRACEPARENT, TRACEPARENT],
        [TRACEPARENT.encode()],
        ["00-" + "4" * 10_000],
    ],
)
def test_what_is_no_traceparent_is_ignored(values: Iterable[str | bytes]) -> None:
    assert trace_id_of([("traceparent", value) for value in values]) == ""


@pytest.mark.parametrize("value", [TRACEPARENT, NOT_SAMPLED, f"01{TRACEPARENT[2:]}", f"cc{TRACEPARENT[2:]}-what-comes"])
def test_a_traceparent_of_any_version_is_read(value: str) -> None:
    assert trace_id_of([("user-agent", "x"), ("traceparent", value)]) == TRACE


async def test_the_log_names_the_trace_of_a_call(service: Service, service_log: ServiceLog) -> None:
    await call(service.client, "CreateStudent", TRACEPARENT, student={"full_name": "A", "email": "a@example.org"})
    with pytest.raises(grpc.aio.AioRpcError):
        await call(service.client, "GetStudent", TRACEPARENT, student_id=99)
    await call(service.client, "ListStudents", "nonsense")
    assert [service_log.calls(name)[0].get("trace_id") for name in ("CreateStudent", "GetStudent", "ListStudents")] == [
        TRACE, TRACE, None,
    ]  # fmt: skip


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    program = "import sys, enrollment_service.app; print([name for name in sys.modules if 'opentelemetry' in name])"
    ran = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# --- spans --------------------------------------------------------------------------------------------------------


async def test_a_call_is_a_span_of_its_callers_trace(processes: Processes) -> None:
    with receiving() as receiver:
        _, client = await traced(processes, receiver.endpoint)
        await call(client, "CreateStudent", TRACEPARENT, student={"full_name": "A", "email": "a@example.org"})
        (span,) = await receiver.until("CreateStudent")
    assert (span.name, span.kind, span.failed) == (f"{SERVICE}/CreateStudent", SERVER, False)
    assert (span.trace_id, span.parent_id) == (TRACE, PARENT)
    assert span.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/CreateStudent",
        "rpc.response.status_code": "OK",
    }
    assert 0 < span.seconds < 20
    assert {resource["service.name"] for resource in receiver.resources} == {"enrollment-service"}


async def test_a_call_without_a_trace_begins_one_and_the_log_names_it(processes: Processes) -> None:
    with receiving() as receiver:
        process, client = await traced(processes, receiver.endpoint)
        await client.create_student()
        (span,) = await receiver.until("CreateStudent")
        assert await process.stop() == 0
    assert span.parent_id == ""
    (line,) = [line for line in process.log if line.get("method") == "CreateStudent"]
    assert line["trace_id"] == span.trace_id


async def test_a_refusal_is_no_error_of_ours_and_says_its_reason(processes: Processes, database_url: str) -> None:
    with receiving() as receiver:
        _, client = await traced(processes, receiver.endpoint, LOCK_TIMEOUT_MS="200")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(client, "GetStudent", TRACEPARENT, student_id=99)
        (span,) = await receiver.until("GetStudent")
        assert span.attributes["rpc.response.status_code"] == "NOT_FOUND"
        assert (span.attributes["enrollment.reason"], span.failed) == ("STUDENT_NOT_FOUND", False)

        student, course = (await client.students(1))[0], (await client.courses(1))[0]
        async with held(database_url, course):
            with pytest.raises(grpc.aio.AioRpcError):
                await client.enroll(student, course)
        (span,) = await receiver.until("EnrollStudent")
        assert (span.attributes["error.type"], span.failed) == ("UNAVAILABLE", True)


async def test_a_batch_is_a_span_with_links_to_its_calls(processes: Processes) -> None:
    with receiving() as receiver:
        _, client = await traced(processes, receiver.endpoint)
        await client.students(10)
        calls = await receiver.until("CreateStudent", 10)
        async with asyncio.timeout(20):
            while sum(len(batch.links) for batch in receiver.named("batch creating")) < 10:  # noqa: ASYNC110 - a thread
                await asyncio.sleep(0.05)
        batches = receiver.named("batch creating")
    linked = [link for batch in batches for link in batch.links]
    assert sorted(linked) == sorted(span.span_id for span in calls)
    for batch in batches:
        assert (batch.kind, batch.parent_id) == (INTERNAL, "")
        assert batch.attributes == {"enrollment.lane": "creating", "enrollment.batch.size": len(batch.links)}


async def test_every_lane_has_its_batches(processes: Processes, database_url: str) -> None:
    with receiving() as receiver:
        _, client = await traced(processes, receiver.endpoint)
        student, course = (await client.students(1))[0], (await client.courses(1))[0]
        await client.enroll(student, course)
        await client.unenroll(student, course)
        async with held(database_url, course):
            enrolling = asyncio.create_task(client.enroll(student, course))
            await receiver.until("batch usual", 3)
        await enrolling
        chunk = pb.ImportEnrollmentsRequest(chunk_id=1, student_ids=[student], course_ids=[course])
        assert [answer.already_enrolled async for answer in client.stub.ImportEnrollments(iter([chunk]))] == [1]
        await client.call("GetStudent", student_id=student)
        for lane, method in {
            "usual": "EnrollStudent",
            "patient": "EnrollStudent",
            "bulk": "ImportEnrollments",
            "reads": "GetStudent",
            "creating": "CreateCourse",
        }.items():
            batches = await receiver.until(f"batch {lane}")
            calls = {span.span_id for span in await receiver.until(method)}
            assert calls & {link for batch in batches for link in batch.links}, lane


async def test_what_the_caller_does_not_sample_is_not_sent(processes: Processes) -> None:
    with receiving() as receiver:
        process, client = await traced(processes, receiver.endpoint)
        await call(client, "CreateStudent", NOT_SAMPLED, student={"full_name": "A", "email": "a@example.org"})
        await call(client, "CreateCourse", TRACEPARENT, course={"code": "A-1", "title": "A"})
        await receiver.until("CreateCourse")
        assert await process.stop() == 0
        assert {span.name for span in receiver.spans} == {f"{SERVICE}/CreateCourse", "batch creating"}


async def test_workers_send_theirs_too_and_the_last_spans_as_well(processes: Processes) -> None:
    with receiving() as receiver:
        process, client = await traced(processes, receiver.endpoint, WORKERS="2")
        await workers_of(process, 2)

        async def create() -> None:
            async with client_of(process.address, EAGER) as fresh:
                await fresh.create_student()

        await asyncio.gather(*(create() for _ in range(20)))
        await client.create_student("Marked Name", "marked@example.org")
        assert await process.stop() == 0
        assert len(receiver.named("CreateStudent")) == 21
        assert "marked" not in repr(receiver.spans).lower()


# --- a receiver that is of no help --------------------------------------------------------------------------------


@pytest.fixture
def small_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few spans wait to be sent; others are dropped."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64")


async def served_as_ever(processes: Processes, endpoint: str) -> None:
    process, client = await traced(processes, endpoint)
    began = time.monotonic()
    await client.students(300)
    assert time.monotonic() - began < 10
    began = time.monotonic()
    assert await process.stop() == 0
    assert time.monotonic() - began < LAST_SECONDS + 4
    assert process.errors == ""
    # The log tells of it, and not once for each span.
    assert 0 < len([line for line in process.log if line["event"] == "library"]) < 20


@pytest.mark.usefixtures("small_queue")
async def test_without_a_receiver_calls_are_served_as_ever(processes: Processes) -> None:
    await served_as_ever(processes, f"http://127.0.0.1:{free_port()}")


@pytest.mark.usefixtures("small_queue")
async def test_a_receiver_that_does_not_answer_holds_up_nobody(processes: Processes) -> None:
    with receiving(answering=False) as receiver:
        await served_as_ever(processes, receiver.endpoint)
        assert receiver.sends > 0
