"""Imports and feeds over streams that break: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from enrollment_service.client import EnrollmentClient, OutcomeUnknown, Refused
from enrollment_service.client.chunks import CHUNKS_IN_FLIGHT
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.databases import Connection
from tests.support.processes import Processes
from tests.support.scripted import ScriptedServer, Time, fails
from tests.support.services import Service

Code = grpc.StatusCode


class Importing:
    """What a scripted server does with chunks: answers them until it is told to fail."""

    def __init__(self, scripted: ScriptedServer) -> None:
        scripted.stream = self.stream
        self.received: list[pb.ImportEnrollmentsRequest] = []
        self.failures: dict[int, Any] = {}  # after how many chunks a stream fails, and how
        self.refused: dict[int, Any] = {}  # which chunks are refused, and how

    async def stream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for chunk in requests:
            self.received.append(chunk)
            if (fail := self.failures.pop(len(self.received), None)) is not None:
                await fail(chunk, context)
            if (refuse := self.refused.get(chunk.chunk_id)) is not None:
                await refuse(chunk, context)
            yield pb.ImportEnrollmentsResponse(chunk_id=chunk.chunk_id, enrolled=len(chunk.student_ids))


def chunks_of(count: int) -> Iterator[pb.ImportEnrollmentsRequest]:
    return (pb.ImportEnrollmentsRequest(student_ids=[n], course_ids=[n]) for n in range(1, count + 1))


async def ids(answers: AsyncIterator[pb.ImportEnrollmentsResponse]) -> list[int]:
    return [answer.chunk_id async for answer in answers]


async def gather(answers: AsyncIterator[pb.ImportEnrollmentsResponse], answered: list[int]) -> None:
    """The ids of the answers, kept also when it ends with an error."""
    async for answer in answers:
        answered.append(answer.chunk_id)  # noqa: PERF401 - see above


@pytest.fixture
def importing(scripted: ScriptedServer) -> Importing:
    return Importing(scripted)


async def test_every_chunk_is_answered_once_and_in_order(importing: Importing, caller: EnrollmentClient) -> None:
    assert await ids(caller.import_enrollments(chunks_of(20))) == list(range(1, 21))
    assert len({chunk.request_id for chunk in importing.received}) == 20


async def test_nothing_to_import(importing: Importing, caller: EnrollmentClient) -> None:
    assert await ids(caller.import_enrollments([])) == []
    assert importing.received == []


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED, Code.INTERNAL, Code.UNKNOWN])
async def test_a_broken_stream_is_opened_again_and_what_was_not_answered_is_resent(
    importing: Importing, caller: EnrollmentClient, code: grpc.StatusCode
) -> None:
    importing.failures = {3: fails(code), 9: fails(code), 17: fails(code)}
    assert await ids(caller.import_enrollments(chunks_of(20))) == list(range(1, 21))
    assert len(importing.received) > 20
    sent: dict[int, set[str]] = {}
    for chunk in importing.received:
        sent.setdefault(chunk.chunk_id, set()).add(chunk.request_id)
    assert all(len(request_ids) == 1 for request_ids in sent.values())
    assert len(set.union(*sent.values())) == 20


async def test_ids_of_the_callers_are_kept(importing: Importing, caller: EnrollmentClient) -> None:
    mine = pb.ImportEnrollmentsRequest(chunk_id=77, request_id="6f1e14a6-3f1c-4a57-9d7b-0a4fd07ecd4f")
    assert await ids(caller.import_enrollments([mine])) == [77]
    assert importing.received == [mine]


@pytest.mark.usefixtures("importing")
async def test_two_open_chunks_cannot_have_one_id(caller: EnrollmentClient) -> None:
    twice = [pb.ImportEnrollmentsRequest(chunk_id=7)] * 2
    with pytest.raises(ValueError, match="chunk_id 7"):
        await ids(caller.import_enrollments(twice))


async def test_only_a_few_chunks_are_in_flight(scripted: ScriptedServer, caller: EnrollmentClient) -> None:
    taken, go_on = 0, asyncio.Event()

    def source() -> Iterator[pb.ImportEnrollmentsRequest]:
        nonlocal taken
        for chunk in chunks_of(30):
            taken += 1
            yield chunk

    async def slow(requests: Any, _: Any) -> AsyncIterator[Any]:
        await go_on.wait()
        async for chunk in requests:
            yield pb.ImportEnrollmentsResponse(chunk_id=chunk.chunk_id)

    scripted.stream = slow
    importing = asyncio.create_task(ids(caller.import_enrollments(source())))
    await scripted.arrived.wait()
    await asyncio.sleep(0.1)
    assert taken == CHUNKS_IN_FLIGHT
    go_on.set()
    assert len(await importing) == 30


async def test_what_the_source_raises_comes_after_the_answers(importing: Importing, caller: EnrollmentClient) -> None:
    async def source() -> AsyncIterator[pb.ImportEnrollmentsRequest]:
        for chunk in chunks_of(6):
            yield chunk
        raise RuntimeError("the file ends in the middle")

    answered: list[int] = []
    with pytest.raises(RuntimeError, match="in the middle"):
        await gather(caller.import_enrollments(source()), answered)
    assert answered == list(range(1, 7))
    assert len(importing.received) == 6


async def test_a_refused_chunk_ends_the_import(importing: Importing, caller: EnrollmentClient) -> None:
    # Whatever grpc.aio makes of the status at first, the stream that is opened again tells.
    importing.refused = {5: fails(Code.INVALID_ARGUMENT, "INVALID_FIELD")}
    answered: list[int] = []
    with pytest.raises(Refused) as refusal:
        await gather(caller.import_enrollments(chunks_of(20)), answered)
    assert refusal.value.reason == "INVALID_FIELD"
    assert answered == [1, 2, 3, 4]


async def test_an_import_that_never_gets_on_is_given_up(
    scripted: ScriptedServer, importing: Importing, caller: EnrollmentClient, time: Time
) -> None:
    scripted.script.extend([fails(Code.UNAVAILABLE, "SHUTTING_DOWN", retry_delay=1)] * 100)
    with pytest.raises(OutcomeUnknown) as failure:
        await ids(caller.within(budget=10).import_enrollments(chunks_of(20)))
    assert failure.value.attempts == len(time.pauses) + 1
    assert 7 < sum(time.pauses) < 10
    assert importing.received == []


async def test_a_chunk_that_is_never_answered_counts_as_a_broken_stream(
    importing: Importing, caller: EnrollmentClient
) -> None:
    async def silence(*_: Any) -> None:
        await asyncio.sleep(30)

    importing.failures = {2: silence}
    assert await ids(caller.import_enrollments(chunks_of(5), answer_timeout=0.2)) == [1, 2, 3, 4, 5]


async def test_an_import_can_be_left(importing: Importing, caller: EnrollmentClient) -> None:
    async with contextlib.aclosing(caller.import_enrollments(chunks_of(1000))) as answers:
        async for _ in answers:
            break
    assert len(importing.received) < 100


async def test_an_import_on_the_real_service(service: Service, connection: Connection) -> None:
    student_ids = await service.client.students(40)
    (course_id,) = await service.client.courses(1, capacity=30)
    chunks = (
        pb.ImportEnrollmentsRequest(student_ids=student_ids[n : n + 4], course_ids=[course_id] * 4)
        for n in range(0, 40, 4)
    )
    async with EnrollmentClient(service.address) as client:
        answers = [answer async for answer in client.import_enrollments(chunks)]
    assert [answer.chunk_id for answer in answers] == list(range(1, 11))
    assert (sum(one.enrolled for one in answers), sum(one.rejected for one in answers)) == (30, 10)
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 30


async def test_a_feed_is_resumed_where_it_broke(scripted: ScriptedServer, caller: EnrollmentClient, time: Time) -> None:
    asked: list[str] = []

    async def feed(request: Any, context: Any) -> AsyncIterator[Any]:
        asked.append(request.resume_token)
        begin = int(request.resume_token or 0)
        for number in range(begin + 1, min(begin + 3, 7) + 1):
            yield pb.WatchEnrollmentEventsResponse(resume_token=f"{number}")
        if begin < 6:
            await fails(Code.UNAVAILABLE, "SHUTTING_DOWN", retry_delay=1)(request, context)

    scripted.stream = feed
    seen = [message.resume_token async for message in caller.watch_enrollment_events(follow=False)]
    assert seen == ["1", "2", "3", "4", "5", "6", "7"]
    assert asked == ["", "3", "6"]
    assert len(time.pauses) == 2


async def test_a_token_that_has_expired_is_the_callers_matter(
    scripted: ScriptedServer, caller: EnrollmentClient
) -> None:
    scripted.script.append(fails(Code.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED"))
    with pytest.raises(Refused) as refusal:
        await anext(caller.watch_enrollment_events(resume_token="old"))
    assert refusal.value.reason == "RESUME_TOKEN_EXPIRED"


async def test_a_feed_of_a_real_server_goes_on_on_another(processes: Processes) -> None:
    (first, client), (second, _) = await processes.start_several(2)
    (course,), students = await client.courses(1), await client.students(4)
    addresses = ",".join(process.address for process in (first, second))
    seen: list[int] = []
    async with EnrollmentClient(f"ipv4:{addresses}") as caller:
        feed = caller.watch_enrollment_events(course_id=course)
        async with contextlib.aclosing(feed):
            for student in students:
                await caller.enroll_student(student, [course])
                while len(seen) < students.index(student) + 2:
                    seen += [event.sequence for event in (await anext(feed)).events]
                if student == students[1]:
                    first.signal(signal.SIGKILL)
                    await first.ended()
        theirs = [one async for one in caller.watch_enrollment_events(student_id=students[0], follow=False)]
    assert seen == [1, 2, 3, 4, 5]
    assert [event.student_id for message in theirs for event in message.events] == [students[0]]


async def test_a_feed_that_falls_silent_is_resumed(scripted: ScriptedServer, caller: EnrollmentClient) -> None:
    asked: list[str] = []

    async def feed(request: Any, _: Any) -> AsyncIterator[Any]:
        asked.append(request.resume_token)
        yield pb.WatchEnrollmentEventsResponse(resume_token=f"{len(asked)}")
        if len(asked) < 3:
            await asyncio.Event().wait()

    scripted.stream = feed
    messages = caller.watch_enrollment_events(silence_timeout=0.1)
    assert [message.resume_token async for message in messages] == ["1", "2", "3"]
    assert asked == ["", "1", "2"]


async def test_a_feed_that_stays_silent_is_given_up(scripted: ScriptedServer, caller: EnrollmentClient) -> None:
    async def feed(*_: Any) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    scripted.stream = feed
    with pytest.raises(OutcomeUnknown) as failure:
        await anext(caller.within(budget=1).watch_enrollment_events(silence_timeout=0.05))
    assert failure.value.code is Code.DEADLINE_EXCEEDED
    assert failure.value.attempts > 1


class Expiring:
    """A feed whose watchers have to bring another token for each message."""

    def __init__(self) -> None:
        self.brought: list[tuple[str, str]] = []

    async def __call__(self, request: Any, context: Any) -> AsyncIterator[Any]:
        metadata = dict(context.invocation_metadata())
        self.brought.append((metadata["authorization"], request.resume_token))
        if len({token for token, _ in self.brought}) == len(self.brought):
            yield pb.WatchEnrollmentEventsResponse(resume_token=f"{len(self.brought)}")
        if len(self.brought) < 3:
            await fails(Code.UNAUTHENTICATED, "UNAUTHENTICATED")(request, context)


async def test_a_feed_outlives_the_access_token(scripted: ScriptedServer, time: Time) -> None:
    scripted.stream = expiring = Expiring()
    tokens = iter(["one", "two", "three"])
    async with EnrollmentClient(scripted.address, token=lambda: next(tokens), pauses=time.for_client) as client:
        assert [one.resume_token async for one in client.watch_enrollment_events()] == ["1", "2", "3"]
    assert expiring.brought == [("Bearer one", ""), ("Bearer two", "1"), ("Bearer three", "2")]


@pytest.mark.parametrize("token", ["one", lambda: "one"], ids=["fixed", "not renewed"])
async def test_who_has_no_other_token_is_told(scripted: ScriptedServer, token: Any) -> None:
    scripted.stream = expiring = Expiring()
    async with EnrollmentClient(scripted.address, token=token) as client:
        with pytest.raises(Refused) as refusal:
            async for _ in client.watch_enrollment_events():
                pass
    assert refusal.value.reason == "UNAUTHENTICATED"
    assert len(expiring.brought) == (1 if token == "one" else 2)
