"""Every method of the client on the real service, and addresses of several servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from demo.line import Line
from enrollment_service.client import EnrollmentClient, Refused
from enrollment_service.client.methods import METHODS
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.databases import Connection
from tests.support.processes import free_port
from tests.support.scripted import ScriptedServer, scripted_server
from tests.support.services import Service

ENROLLED, WAITLISTED = pb.ENROLLMENT_STATE_ENROLLED, pb.ENROLLMENT_STATE_WAITLISTED


@pytest.fixture
async def caller(service: Service) -> AsyncIterator[EnrollmentClient]:
    async with EnrollmentClient(service.address) as client:
        yield client


def test_there_is_one_for_each_rpc() -> None:
    names = {"".join(word.title() for word in name.split("_")) for name in vars(EnrollmentClient)}
    assert set(METHODS) <= names


async def test_students(caller: EnrollmentClient) -> None:
    ann = await caller.create_student("Ann Lee", "ann@example.org")
    bo = await caller.create_student(full_name="Bo Chen", email="bo@example.org")
    assert await caller.get_student(ann.student_id) == ann
    ann.full_name = "Ann Li"
    changed = await caller.update_student(ann, ["full_name"])
    assert (changed.full_name, changed.email) == ("Ann Li", "ann@example.org")
    with pytest.raises(Refused) as stale:
        await caller.update_student(ann, ["full_name"])
    assert stale.value.reason == "ETAG_MISMATCH"
    assert [one.full_name async for one in caller.list_students(page_size=1)] == ["Ann Li", "Bo Chen"]
    assert [one.full_name async for one in caller.list_students(query="bo")] == ["Bo Chen"]
    await caller.delete_student(bo.student_id, etag=bo.etag)
    assert [one.full_name async for one in caller.list_students()] == ["Ann Li"]


async def test_courses(caller: EnrollmentClient) -> None:
    now = datetime.now(UTC)
    course = await caller.create_course(
        "ART-1", "Drawing", description="With ink.", capacity=0, waitlist_capacity=3,
        enroll_open_time=now - timedelta(hours=1), enroll_close_time=now + timedelta(hours=1),
    )  # fmt: skip
    assert (course.HasField("capacity"), course.waitlist_capacity) == (True, 3)
    assert course.enroll_open_time.ToDatetime(UTC) == now - timedelta(hours=1)
    assert await caller.get_course(course.course_id) == course
    unlimited = await caller.update_course(pb.Course(course_id=course.course_id), ["capacity", "enroll_close_time"])
    assert (unlimited.HasField("capacity"), unlimited.HasField("enroll_close_time")) == (False, False)
    other = await caller.create_course("ZOO-1", "Zoology", enroll_open_time=now + timedelta(hours=1))
    assert [one.code async for one in caller.list_courses(page_size=1)] == ["ART-1", "ZOO-1"]
    assert [one.code async for one in caller.list_courses(only_open=True)] == ["ART-1"]
    await caller.delete_course(other.course_id, force=True)
    assert [one.code async for one in caller.list_courses(query="zoo")] == []


async def test_enrollments(caller: EnrollmentClient) -> None:
    ann, bo = [(await caller.create_student(name, f"{name}@example.org")).student_id for name in ("Ann", "Bo")]
    art = (await caller.create_course("ART-1", "Drawing", capacity=1, waitlist_capacity=1)).course_id
    zoo = (await caller.create_course("ZOO-1", "Zoology")).course_id
    assert [one.course_id for one in await caller.enroll_student(ann, [zoo, art], validate_only=True)] == [zoo, art]
    assert [one.state for one in await caller.enroll_student(ann, [art])] == [ENROLLED]
    (waiting,) = await caller.enroll_student(bo, [art], on_full=pb.ON_FULL_WAITLIST, reason="late")
    assert (waiting.state, waiting.waitlist_position) == (WAITLISTED, 1)
    assert [one.student.full_name async for one in caller.list_course_students(art, page_size=1)] == ["Ann", "Bo"]
    assert [one.student_id async for one in caller.list_course_students(art, states=[WAITLISTED])] == [bo]
    assert [one.course.code async for one in caller.list_student_courses(bo)] == ["ART-1"]
    moved = await caller.swap_enrollment(ann, art, zoo)
    assert (moved.dropped.course_id, moved.enrolled.course_id) == (art, zoo)
    waits = await caller.swap_enrollment(ann, zoo, art, on_full=pb.ON_FULL_WAITLIST)
    assert (waits.HasField("dropped"), waits.enrolled.swap_from_course_id) == (False, zoo)
    await caller.unenroll_student(ann, art)
    promoted = await caller.get_enrollment(bo, art)
    assert (promoted.state, promoted.student.full_name, promoted.course.code) == (ENROLLED, "Bo", "ART-1")
    left = await caller.unenroll_student(ann, zoo, etag=moved.enrolled.etag)
    assert left.state == pb.ENROLLMENT_STATE_DROPPED
    await caller.unenroll_student(ann, zoo, allow_missing=True)
    difference = await caller.reconcile_roster(art, [ann], max_removals=1)
    assert (list(difference.added), list(difference.removed)) == ([ann], [bo])


async def test_by_the_numbers_of_another_system(caller: EnrollmentClient) -> None:
    rows = [pb.Student(external_id=f"S-{number}", full_name="Ann", email=f"{number}@x.org") for number in range(4)]
    chunks = [pb.ImportStudentsRequest(students=rows[:2]), pb.ImportStudentsRequest(students=rows[1:])]
    answers = [answer async for answer in caller.import_students(chunks)]
    assert [(answer.chunk_id, answer.created, answer.unchanged) for answer in answers] == [(1, 2, 0), (2, 2, 1)]
    opened = pb.ImportCoursesRequest(courses=[pb.Course(external_id="C-1", code="ART-1", title="Drawing")])
    assert [answer.created async for answer in caller.import_courses([opened])] == [1]
    ann = await caller.create_student("Ann", "ann@x.org", external_id="S-4")
    zoo = await caller.create_course("ZOO-1", "Zoology", external_id="C-2")
    assert [await caller.get_student(external_id="S-4"), await caller.get_student(email="ANN@x.org")] == [ann, ann]
    assert [await caller.get_course(external_id="C-2"), await caller.get_course(code="zoo-1")] == [zoo, zoo]
    wanted = ["S-0", "S-3"]
    difference = await caller.reconcile_roster(course_external_id="C-1", student_external_ids=wanted)
    assert list(difference.added) == [(await caller.get_student(external_id=one)).student_id for one in wanted]


async def test_waivers(caller: EnrollmentClient) -> None:
    ann = (await caller.create_student("Ann", "ann@example.org")).student_id
    art = (await caller.create_course("ART-1", "Drawing", permit_required=True)).course_id
    until = datetime.now(UTC) + timedelta(hours=1)
    permit = pb.ERROR_REASON_PERMIT_REQUIRED
    assert len(await caller.grant_waivers(art, [ann], [permit], validate_only=True)) == 1
    (granted,) = await caller.grant_waivers(art, [ann], [permit], expire_time=until, reason="consent")
    assert granted.expire_time.ToDatetime(UTC) == until
    assert [one async for one in caller.list_waivers(art, page_size=1)] == [granted]
    (seat,) = await caller.explain_enrollment(ann, [art])
    assert (seat.outcome, list(seat.obstacles)) == (ENROLLED, [])
    await caller.enroll_student(ann, [art])
    assert await caller.revoke_waivers(art, [ann]) == [granted]
    assert [one async for one in caller.list_waivers(art)] == []


async def test_a_call_by_its_name(caller: EnrollmentClient) -> None:
    student = pb.Student(full_name="Ann Lee", email="ann@example.org")
    created = await caller.call("CreateStudent", pb.CreateStudentRequest(student=student))
    assert isinstance(created, pb.CreateStudentResponse)
    pages = [page async for page in caller.pages("ListStudents", pb.ListStudentsRequest(page_size=1))]
    assert [list(page.students) for page in pages] == [[created.student]]


async def test_a_channel_of_ones_own_stays_open(service: Service) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel:
        async with EnrollmentClient(channel) as client:
            await client.create_student("Ann Lee", "ann@example.org")
        async with EnrollmentClient(channel) as client:
            assert len([one async for one in client.list_students()]) == 1


async def test_metadata_goes_with_every_call(scripted: ScriptedServer) -> None:
    seen = []

    async def look(_: object, context: grpc.aio.ServicerContext[object, object]) -> pb.GetStudentResponse:
        seen.append(dict(context.invocation_metadata() or {}).get("x-term"))
        return pb.GetStudentResponse()

    scripted.script.append(look)
    async with EnrollmentClient(scripted.address, metadata=[("x-term", "autumn")]) as client:
        await client.get_student(1)
    assert seen == ["autumn"]


async def test_credentials_secure_the_channel() -> None:
    async with scripted_server(grpc.local_server_credentials()) as server:
        async with EnrollmentClient(server.address, credentials=grpc.local_channel_credentials()) as client:
            await client.get_student(1)
        assert server.called == ["GetStudent"]


async def test_a_name_is_resolved(service: Service) -> None:
    async with EnrollmentClient(f"dns:///localhost:{service.app.port}") as client:
        assert [one async for one in client.list_students()] == []


async def test_of_two_addresses_one_may_be_dead(service: Service) -> None:
    addresses = f"ipv4:127.0.0.1:{free_port()},{service.address}"
    async with EnrollmentClient(addresses) as client:
        made = await asyncio.gather(*(client.create_student("Ann Lee", f"{i}@example.org") for i in range(20)))
    assert len({one.student_id for one in made}) == 20


async def test_calls_go_to_all_addresses(scripted: ScriptedServer, service: Service) -> None:
    async with EnrollmentClient(f"ipv4:{scripted.address},{service.address}") as client:
        for _ in range(50):
            await client.call("ListStudents", pb.ListStudentsRequest())
    assert 0 < scripted.called.count("ListStudents") < 50


async def test_a_lost_answer_is_asked_for_again_elsewhere(service: Service, connection: Connection) -> None:
    student_id = (await service.client.create_student()).student_id
    course_id = (await service.client.create_course(capacity=1)).course_id
    # Both addresses lead to the same service; the line swallows every answer once it is deaf.
    async with (
        Line(service.address) as line,
        EnrollmentClient(f"ipv4:{line.address},{service.address}", timeout=0.3) as client,
    ):
        for _ in range(4):
            await client.get_course(course_id)
        line.deaf = True
        for _ in range(4):
            (enrolled,) = await client.enroll_student(student_id, [course_id])
            assert enrolled.state == ENROLLED
            await client.unenroll_student(student_id, course_id)
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 8
