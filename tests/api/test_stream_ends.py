"""How a stream ends, as a message: for callers that cannot see its status, and for nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.rpc import code_pb2

from enrollment_service.api.ends import ASKS
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import PATIENCE, Client
from tests.support.refusals import Refusal, refused
from tests.support.services import Service
from tests.support.watching import history, watching


def asking(client: Client) -> Client:
    return Client(client.channel, (ASKS,))


async def imported(client: Client, chunks: list[pb.ImportEnrollmentsRequest]) -> tuple[list[Any], Refusal | None]:
    """What was answered, and the refusal that ended the stream, of chunks whose last one is malformed."""

    async def sent() -> AsyncIterator[pb.ImportEnrollmentsRequest]:
        for chunk in chunks:
            yield chunk

    answers = []
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as refusal:
        async for answer in client.stub.ImportEnrollments(sent(), timeout=PATIENCE, metadata=client.metadata):
            answers.append(answer)  # noqa: PERF401 - what came before the refusal counts
    return answers, refusal


def chunk(number: int, students: list[int], courses: list[int]) -> pb.ImportEnrollmentsRequest:
    return pb.ImportEnrollmentsRequest(chunk_id=number, student_ids=students, course_ids=courses)


async def test_a_stream_that_ends_well_says_so(client: Client) -> None:
    await client.create_course()
    *before, last = await history(asking(client))
    assert [message.caught_up for message in before] == [True]
    assert last.HasField("end")
    assert last == pb.WatchEnrollmentEventsResponse(end={"code": code_pb2.OK})


async def test_only_who_asks_is_told(client: Client) -> None:
    await client.create_course()
    strangers = Client(client.channel, ((ASKS[0], "status"),))
    for messages in (await history(client), await history(strangers)):
        assert [message.HasField("end") for message in messages] == [False]


async def test_a_failure_after_answers_is_told_whole_and_is_the_status_too(client: Client) -> None:
    (student,), (course,) = await client.students(1), await client.courses(1)
    chunks = [chunk(1, [student], [course]), chunk(2, [student], [])]
    answers, refusal = await imported(asking(client), chunks)
    assert [answer.enrolled for answer in answers] == [1, 0]
    assert refusal is not None
    assert answers[1] == pb.ImportEnrollmentsResponse(end=refusal.status)
    assert refusal.fields == ["course_ids"]
    answers, _ = await imported(client, chunks)
    assert [answer.HasField("end") for answer in answers] == [False]


async def test_a_failure_before_any_answer_is_the_status_alone(client: Client) -> None:
    answers, refusal = await imported(asking(client), [chunk(1, [1], [])])
    assert answers == []
    assert refusal is not None


async def test_a_watcher_is_told_of_a_drain(client: Client, service: Service) -> None:
    async with watching(asking(client)) as watcher:
        await service.app.drain()
        with refused("UNAVAILABLE", "SHUTTING_DOWN") as refusal:
            await watcher.ended()
        assert watcher.messages[-1].end == refusal.status
        assert watcher.messages[-2].resume_token
