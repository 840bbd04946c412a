"""The random histories of `test_rules_histories.py` on the service: against the model, then all at once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from enrollment_service.domain.commands import Command, CourseId, EnrollmentsAnswer, Import, StudentId
from enrollment_service.domain.errors import Refusal
from enrollment_service.domain.footprint import rounds
from enrollment_service.domain.records import CountedCourse, Student
from enrollment_service.engine.batch import run_batch
from enrollment_service.engine.housekeeping import settle
from enrollment_service.engine.writer import Writer
from enrollment_service.store import database, seats
from enrollment_service.store.database import Database
from enrollment_service.store.transactions import HeldConnection
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.histories import Batch, histories, plain
from tests.support.services import Clock, settings_for
from tests.support.thoroughness import few
from tests.support.verification import wrong_in
from tests.support.wire import Play, as_seen, send

pytestmark = [pytest.mark.random, pytest.mark.timeout(900)]

# Every example gets students and courses of its own in the test's one database.
a_few = few(8)

# Every way to be refused that a history can run into; anything else is a failure.
EXPECTED = {
    "STUDENT_NOT_FOUND", "COURSE_NOT_FOUND", "NOT_ENROLLED", "ALREADY_ENROLLED", "ALREADY_WAITLISTED", "COURSE_FULL",
    "WAITLIST_FULL", "ENROLLMENT_NOT_OPEN", "ENROLLMENT_CLOSED", "CAPACITY_BELOW_ENROLLED", "TOO_MANY_REMOVALS",
    "HAS_ENROLLMENTS", "PERMIT_REQUIRED", "ETAG_MISMATCH", "INVALID_FIELD",
}  # fmt: skip


async def end(database_url: str, connection: Connection, clock: Clock) -> None:
    """Nothing is wrong, once free seats that a clock set back has left are given away; then the tables are emptied."""
    async with writing_to(database_url, clock.column) as (made, _):
        writer = Writer(made, settings_for(database_url))
        await settle(made, writer)
        await writer.close()
    assert await wrong_in(database_url) == []
    await connection.execute(
        "TRUNCATE students, courses, waivers, student_courses, course_seats, enrollment_events, requests"
    )


@a_few
@given(history=histories(12))
async def test_one_by_one_the_service_does_what_the_model_does(
    timed_client: Client, clock: Clock, database_url: str, connection: Connection, history: Sequence[Batch]
) -> None:
    play = Play(timed_client, clock)
    for batch in history:
        for command in await play.begin(batch):
            expected = as_seen(command, play.model.answer(command))
            assert await send(play.client, command) == expected, command
    await play.check_tables(connection)
    await end(database_url, connection, clock)


@pytest.fixture(params=["arrays", "copy"])
def way_to_write(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large decisions are written in another way than small ones; here it is chosen."""
    monkeypatch.setattr(seats, "MAX_EVENTS_BY_ARRAYS", 0 if request.param == "copy" else 1_000_000)


@pytest.mark.usefixtures("way_to_write")
@a_few
@given(history=histories(12))
async def test_batch_by_batch_the_writer_does_what_the_model_does(
    timed_client: Client, clock: Clock, database_url: str, connection: Connection, history: Sequence[Batch]
) -> None:
    """Several commands in one transaction; what has an effect is repeated afterwards, under its request_id."""
    play = Play(timed_client, clock)
    async with writing_to(database_url, clock.column) as (made, held):
        for batch in history:
            commands = [with_request_id(command) for command in await play.begin(batch)]
            answers: dict[Command[Any], Any] = {}
            for group in rounds(commands):
                async with held.transaction() as driver:
                    answers |= (await run_batch(driver, group, made)).outcomes
            expected = [play.model.answer(command) for command in commands]
            assert [plain(answers[command]) for command in commands] == expected
            repeated = [command for command in commands if command.key and not is_refusal(answers[command])]
            async with held.transaction() as driver:
                again = (await run_batch(driver, repeated, made)).outcomes
            assert list(map(without_details, again.values())) == [
                without_details(answers[command]) for command in again
            ]
    await play.check_tables(connection)
    await end(database_url, connection, clock)


@asynccontextmanager
async def writing_to(database_url: str, clock: database.Clock) -> AsyncIterator[tuple[Database, HeldConnection]]:
    """The database as the writer has it, by a clock."""
    made = Database(settings_for(database_url), clock)
    held = made.hold()
    yield made, held
    await held.close()
    await made.close()


def with_request_id(command: Command[Any]) -> Command[Any]:
    return replace(command, request_id=uuid.uuid4())


def is_refusal(answer: Any) -> bool:
    return isinstance(answer, Refusal)


def without_details(answer: Any) -> Any:
    """What a replay has in common with the answer that it repeats; the rest is today's."""
    match answer:
        case EnrollmentsAnswer():
            return [view.enrollment for view in answer.enrollments]
        case CountedCourse():
            return CourseId(answer.course.course_id)
        case Student():
            return StudentId(answer.student_id)
    return answer


@a_few
@given(history=histories(12))
async def test_all_at_once_every_promise_holds(
    timed_client: Client, clock: Clock, database_url: str, connection: Connection, history: Sequence[Batch]
) -> None:
    """Each command twice, in whatever order they come; of the model only who was deleted is kept up."""
    play = Play(timed_client, clock)
    for batch in history:
        commands = [*await play.begin(batch)] * 2
        answers = await asyncio.gather(*(send(play.client, command) for command in commands))
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, list):
                assert not answer or not isinstance(answer[0][0], str) or answer[0][0] in EXPECTED
            elif isinstance(command, Import):
                assert {reason for _, reason in answer[3]} <= EXPECTED
        for table, known in (("students", play.model.students), ("courses", play.model.courses)):
            left = {row["id"] for row in await connection.fetch(f"SELECT id FROM {table}")}
            for gone in known.keys() - left:
                del known[gone]
    await end(database_url, connection, clock)
