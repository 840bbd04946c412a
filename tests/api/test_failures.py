"""What callers learn when something goes wrong inside, and that only those fail who must."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from enrollment_service.domain import rules
from enrollment_service.domain.commands import Command, Enroll
from enrollment_service.domain.state import State
from enrollment_service.engine.reader import Reader
from enrollment_service.engine.writer import Writer
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.locks import held, in_one_batch, until, until_waiting, waiting_in
from tests.support.refusals import Refusal, refusal_of, refused
from tests.support.services import Service, ServiceLog

SECRET = "marked-secret"


def check_hidden(refusal: Refusal, method: str, log: ServiceLog) -> None:
    """The caller gets a fixed text and an id; the log has the id, the type and the place, and no text either."""
    assert refusal.message == "Something went wrong on our side; the error_id finds it in the log."
    assert refusal.metadata.keys() == {"error_id"}
    assert len(refusal.status.details) == 1
    (line,) = [line for line in log.calls(method) if line.get("error_id") == refusal.metadata["error_id"]]
    assert (line["level"], line["code"], line["reason"]) == ("error", "INTERNAL", "INTERNAL")
    assert line["error"]["type"]
    assert line["error"]["trace"]
    assert SECRET not in log.text
    assert SECRET.encode() not in refusal.status.SerializeToString()


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, AssertionError, OSError, ExceptionGroup])
async def test_an_unforeseen_exception_shows_nothing_from_inside(
    client: Client, service_log: ServiceLog, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    async def fail(*_: Any) -> None:
        raise kind(SECRET, [ValueError(SECRET)]) if kind is ExceptionGroup else kind(SECRET) from ValueError(SECRET)

    monkeypatch.setattr(Reader, "student", fail)
    with refused("INTERNAL", "INTERNAL") as refusal:
        await client.call("GetStudent", student_id=1)
    check_hidden(refusal, "GetStudent", service_log)


async def test_an_exception_within_a_stream_shows_nothing_from_inside(
    client: Client, service_log: ServiceLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Writer, "submit", fail)
    with refused("INTERNAL", "INTERNAL") as refusal:
        requests = [pb.ImportEnrollmentsRequest(chunk_id=1, student_ids=[1], course_ids=[1])]
        _ = [answer async for answer in client.stub.ImportEnrollments(requests)]
    check_hidden(refusal, "ImportEnrollments", service_log)


async def test_a_cancellation_from_inside_is_answered_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled(*_: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(Reader, "student", cancelled)
    with refused("UNAVAILABLE", "SHUTTING_DOWN", metadata={}) as refusal:
        await client.call("GetStudent", student_id=1)
    assert refusal.retry_delay == 1


# --- one bad command among good ones ----------------------------------------------------------------------------


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that were decided, but those that create students and courses."""
    sizes: list[int] = []

    def counted(state: State, commands: Sequence[Command[Any]]) -> list[Any]:
        if not commands[0].creates:
            sizes.append(len(commands))
        return rules.decide(state, commands)

    monkeypatch.setattr("enrollment_service.engine.batch.decide", counted)
    return sizes


def check_only_one_failed(answers: Sequence[Any], poisoned: int) -> Refusal:
    failed = [index for index, answer in enumerate(answers) if isinstance(answer, BaseException)]
    assert failed == [poisoned]
    refusal = refusal_of(answers[poisoned])
    assert (refusal.code, refusal.reason) == ("INTERNAL", "INTERNAL")
    return refusal


async def test_a_command_that_the_rules_choke_on_fails_alone(
    service: Service, service_log: ServiceLog, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    students, (course_id,) = await service.client.students(5), await service.client.courses(1)

    def poisoned(state: State, command: Enroll) -> Any:
        if command.student_id == students[2]:
            raise RuntimeError(SECRET)
        return rules.enroll(state, command)

    monkeypatch.setitem(rules._RULES, Enroll, poisoned)
    answers = await in_one_batch(service, [service.client.enroll(one, course_id) for one in students])
    check_hidden(check_only_one_failed(answers, 2), "EnrollStudent", service_log)
    assert await service.client.roster(course_id) == [*students[:2], *students[3:]]
    assert batches == [1, 5, 1, 1, 1, 1, 1]


async def test_a_command_that_the_database_chokes_on_fails_alone(
    service: Service, service_log: ServiceLog, batches: list[int], connection: Connection
) -> None:
    students, (course_id,) = await service.client.students(5), await service.client.courses(1)
    await connection.execute(
        f"CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{SECRET}'; END $$"
    )
    await connection.execute(
        "CREATE TRIGGER poison BEFORE INSERT ON student_courses "
        f"FOR EACH ROW WHEN (NEW.student_id = {students[0]}) EXECUTE FUNCTION poison()"
    )
    answers = await in_one_batch(service, [service.client.enroll(one, course_id) for one in students])
    check_hidden(check_only_one_failed(answers, 0), "EnrollStudent", service_log)
    assert await service.client.roster(course_id) == students[1:]
    assert batches[:2] == [1, 5]
    sequences = await connection.fetch("SELECT sequence FROM enrollment_events WHERE course_id = $1", course_id)
    assert [row["sequence"] for row in sequences] == [1, 2, 3, 4, 5]


async def test_refusals_in_a_batch_are_no_failures_of_it(service: Service, batches: list[int]) -> None:
    students, (course_id,) = await service.client.students(4), await service.client.courses(1, capacity=2)
    answers = await in_one_batch(service, [service.client.enroll(one, course_id) for one in students])
    assert [isinstance(answer, grpc.aio.AioRpcError) for answer in answers] == [False, False, True, True]
    assert batches == [1, 4]


# --- one bad query among good ones ------------------------------------------------------------------------------


async def test_a_query_that_the_database_chokes_on_fails_alone(
    client: Client, service_log: ServiceLog, connection: Connection
) -> None:
    """The name of one student cannot be read, and the queries of many share their statements."""
    ids = await client.students(50)
    unreadable = f"CASE WHEN id = {ids[7]} THEN (1 / (id - id))::text ELSE full_name END AS full_name"
    await connection.execute("ALTER TABLE students RENAME TO readable_students")
    await connection.execute(
        f"CREATE VIEW students AS SELECT id, {unreadable}, email, external_id, create_time, update_time, version "
        "FROM readable_students"
    )
    await connection.execute("GRANT SELECT ON students TO PUBLIC")
    for method in ("GetStudent", "ListStudentCourses"):
        calls = [client.call(method, student_id=student_id) for student_id in ids]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        check_hidden(check_only_one_failed(answers, 7), method, service_log)
        shown = [answer.student.student_id for answer in answers if not isinstance(answer, BaseException)]
        assert shown == [*ids[:7], *ids[8:]]


async def test_a_create_that_the_database_chokes_on_is_hidden(
    client: Client, service_log: ServiceLog, connection: Connection
) -> None:
    """The address stands in the error's detail, which must not travel."""
    await connection.execute(f"ALTER TABLE students ADD CHECK (email <> '{SECRET}@example.org')")
    with refused("INTERNAL", "INTERNAL") as refusal:
        await client.create_student(email=f"{SECRET}@example.org")
    check_hidden(refusal, "CreateStudent", service_log)
    assert (await client.create_student()).student_id


# --- waiting ----------------------------------------------------------------------------------------------------


async def test_a_course_that_stays_locked_fails_its_callers_and_nobody_else(start_service: StartService) -> None:
    service = await start_service(lock_timeout_ms=200)
    students, (stuck, free) = await service.client.students(3), await service.client.courses(2)
    async with held(service.settings.database_url, stuck) as observer:
        first = asyncio.create_task(service.client.enroll(students[0], stuck))
        await until_waiting(observer)
        second = asyncio.create_task(service.client.enroll(students[1], stuck))
        third = asyncio.create_task(service.client.enroll(students[2], free))
        for task in (first, second):
            with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE") as refusal:
                await task
            assert refusal.retry_delay == 1
        await third
    assert await service.client.roster(stuck) == []
    assert await service.client.roster(free) == [students[2]]


async def test_too_many_waiting_calls_are_refused_before_any_effect(start_service: StartService) -> None:
    service = await start_service(max_waiting=2)
    students = [(await service.client.create_student()).student_id for _ in range(3)]
    (course_id,) = await service.client.courses(1)
    async with held(service.settings.database_url, course_id) as observer:
        tasks = [asyncio.create_task(service.client.enroll(students[0], course_id))]
        await until_waiting(observer)
        tasks += [asyncio.create_task(service.client.enroll(students[1], course_id))]
        await until(lambda: waiting_in(service) == 2)
        with refused("RESOURCE_EXHAUSTED", "OVERLOADED", metadata={}) as refusal:
            await service.client.enroll(students[2], course_id)
        assert refusal.retry_delay == 1
    await asyncio.gather(*tasks)
    assert await service.client.roster(course_id) == students[:2]


async def test_a_call_without_a_deadline_gets_one(start_service: StartService) -> None:
    service = await start_service(default_deadline=0.1)
    (student_id,), (course_id,) = await service.client.students(1), await service.client.courses(1)
    async with held(service.settings.database_url, course_id):
        with refused("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", metadata={}):
            await service.client.stub.EnrollStudent(
                pb.EnrollStudentRequest(student_id=student_id, course_ids=[course_id])
            )


async def test_a_caller_who_goes_away_before_the_batch_forms_is_left_out(service: Service) -> None:
    students, (course_id,) = await service.client.students(3), await service.client.courses(1)
    async with held(service.settings.database_url, course_id) as observer:
        tasks = [asyncio.create_task(service.client.enroll(students[0], course_id))]
        await until_waiting(observer)
        tasks += [asyncio.create_task(service.client.enroll(one, course_id)) for one in students[1:]]
        await until(lambda: waiting_in(service) == 3)
        waiting = service.app._writer._patient._queues.values()
        tasks[1].cancel()
        await until(lambda: any(entry.answer.cancelled() for queue in waiting for entry in queue))
    await asyncio.gather(tasks[0], tasks[2])
    assert await service.client.roster(course_id) == [students[0], students[2]]


async def test_a_caller_who_goes_away_later_does_not_cancel_the_commit(
    service: Service, service_log: ServiceLog, connection: Connection
) -> None:
    """The caller's deadline passes while the decision is being written."""
    (student_id,), (course_id,) = await service.client.students(1), await service.client.courses(1)
    await connection.execute(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN WHILE NOT pg_try_advisory_xact_lock_shared(7) LOOP PERFORM pg_sleep(0.01); END LOOP; "
        "RETURN NEW; END $$"
    )
    await connection.execute(
        "CREATE TRIGGER slowly BEFORE INSERT ON student_courses FOR EACH ROW EXECUTE FUNCTION slowly()"
    )
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(7)")
        request = pb.EnrollStudentRequest(student_id=student_id, course_ids=[course_id])
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await service.client.stub.EnrollStudent(request, timeout=0.3)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: bool(service_log.calls("EnrollStudent")))
    # The next command is decided after it, in the next batch.
    (next_id,) = await service.client.students(1)
    await service.client.enroll(next_id, course_id)
    assert await service.client.roster(course_id) == [student_id, next_id]
    assert [line["code"] for line in service_log.calls("EnrollStudent")] == ["CANCELLED", "OK"]


async def test_whose_deadline_has_passed_while_a_course_was_locked_is_not_served(
    service: Service, service_log: ServiceLog
) -> None:
    students, (course_id,) = await service.client.students(2), await service.client.courses(1)
    async with held(service.settings.database_url, course_id) as observer:
        request = pb.EnrollStudentRequest(student_id=students[0], course_ids=[course_id])
        call = service.client.stub.EnrollStudent(request, timeout=0.2)
        await until_waiting(observer)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # The caller's clock may be a moment ahead of the server's.
        await until(lambda: service_log.calls("EnrollStudent") != [])
    await service.client.enroll(students[1], course_id)
    assert await service.client.roster(course_id) == [students[1]]
