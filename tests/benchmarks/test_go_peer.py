"""The Go peer does what the service does: the same rows and events, and answers that the service would give."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from benchmarks.contestants import go_peers, running
from benchmarks.dataset import courses_out_of_balance
from benchmarks.toolchain import build_peer
from dev.golang import BuildError
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client, client_of
from tests.support.databases import Connection
from tests.support.services import Service

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The peer, built from its pinned modules."""
    try:
        return build_peer(tmp_path_factory.mktemp("go"))
    except BuildError as error:
        pytest.skip(str(error))


async def listed(client: Client, student_id: int) -> pb.ListStudentCoursesResponse:
    """The first page of a student's courses, without the token that only the service gives."""
    answer: pb.ListStudentCoursesResponse = await client.call("ListStudentCourses", student_id=student_id)
    answer.ClearField("resume_token")
    return answer


async def refusal(client: Client, student_id: int, course_id: int) -> tuple[str, str | None]:
    """Code and message of an enrollment that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.enroll(student_id, course_id)
    return refused.value.code().name, refused.value.details()


@pytest.mark.parametrize("batching", [False, True])
async def test_it_answers_as_the_service_does(
    program: Path, service: Service, connection: Connection, tmp_path: Path, *, batching: bool
) -> None:
    students = await service.client.students(8)
    (course,), (full,) = await service.client.courses(1), await service.client.courses(1, capacity=8)
    contestant = go_peers(program)[batching]
    with running(contestant, service.settings.database_url, tmp_path) as peer:
        async with client_of(peer.address) as client:
            answers = await asyncio.gather(*(client.enroll(student_id, course) for student_id in students))
            for student_id, answer in zip(students, answers, strict=True):
                assert [enrollment.student_id for enrollment in answer] == [student_id]
                assert await listed(client, student_id) == await listed(service.client, student_id)
            await asyncio.gather(*(client.enroll(student_id, full) for student_id in students))
            (late,) = await service.client.students(1)
            assert await refusal(client, late, full) == ("FAILED_PRECONDITION", "COURSE_FULL")
            assert await refusal(client, students[0], course) == ("ALREADY_EXISTS", "ALREADY_ENROLLED")
    assert sorted(answer[0].course.enrolled_count for answer in answers) == list(range(1, 9))
    assert await service.client.roster(course) == sorted(students)
    assert await courses_out_of_balance(connection) == 0
