"""The feed, over the wire: all of it, once, in order, from the beginning or from any token."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from enrollment_service.api import resume
from enrollment_service.api.auth.tokens import CLOCK_SKEW_SECONDS
from enrollment_service.domain.feed import Mark, Place, Scope, Snapshot
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.provider import Provider
from tests.support.refusals import refused
from tests.support.watching import check_order, events_of, history, key_of, watching

WAITLIST = pb.ON_FULL_WAITLIST


async def morning(client: Client) -> tuple[list[int], list[int]]:
    """Two courses with a seat each, three students: two wait, and one is promoted. Students and courses."""
    students = await client.students(3)
    courses = await client.courses(2, capacity=1, waitlist_capacity=5)
    for student in students:
        await client.enroll(student, *courses, on_full=WAITLIST, reason="walk_in")
    await client.unenroll(students[0], courses[0])
    return students, courses


def shown(event: pb.EnrollmentEvent) -> tuple[int, ...]:
    return (
        event.kind, event.student_id, event.previous_state, event.state, event.waitlist_position,
        event.enrolled_count, event.waitlisted_count,
    )  # fmt: skip


async def test_history_ends_when_it_is_told(client: Client) -> None:
    students, courses = await morning(client)
    messages = await history(client)
    assert [message.caught_up for message in messages] == [True]
    events = list(messages[0].events)
    check_order(events)
    one, two, three = students
    assert [shown(event) for event in events if event.course_id == courses[0]] == [
        (2, 0, 0, 0, 0, 0, 0),
        (1, one, 0, 1, 0, 1, 0),
        (1, two, 0, 2, 1, 1, 1),
        (1, three, 0, 2, 2, 1, 2),
        (1, one, 1, 3, 0, 0, 2),
        (1, two, 2, 1, 0, 1, 1),
    ]
    assert {event.capacity for event in events} == {1}
    assert [event.reason for event in events if event.course_id == courses[0]] == [
        *("", "walk_in", "walk_in", "walk_in", "", "waitlist_promotion")
    ]


async def test_an_event_says_what_the_log_has(client: Client, connection: Connection) -> None:
    request_id = str(uuid.uuid4())
    course = await client.create_course()
    await client.call(
        "UpdateCourse",
        course={"course_id": course.course_id, "title": "Painting", "capacity": 7},
        update_mask={"paths": ["title", "capacity"]},
        request_id=request_id,
        reason="annual",
    )
    created, updated = await events_of(client)
    assert (created.kind, created.HasField("capacity")) == (pb.EVENT_KIND_COURSE_CREATED, False)
    assert (updated.kind, updated.capacity) == (pb.EVENT_KIND_COURSE_UPDATED, 7)
    assert (sorted(updated.changed_fields), updated.reason) == (["capacity", "title"], "annual")
    assert updated.request_id == request_id
    (logged,) = await connection.fetch("SELECT event_time FROM enrollment_events WHERE sequence = 2")
    assert updated.event_time.ToDatetime(tzinfo=logged["event_time"].tzinfo) == logged["event_time"]


async def test_what_happens_is_seen_at_once(client: Client) -> None:
    (student,), (course,) = await client.students(1), await client.courses(1)
    async with watching(client) as watcher:
        assert watcher.keys == [(course, 1)]
        await client.enroll(student, course)
        await watcher.until(lambda one: (course, 2) in one.keys)
        await client.unenroll(student, course)
        await watcher.until(lambda one: (course, 3) in one.keys)
        assert watcher.keys == [(course, 1), (course, 2), (course, 3)]
        assert all(message.resume_token for message in watcher.messages)


async def test_every_token_goes_on_where_it_was_given_out(client: Client) -> None:
    (student,), (course,) = await client.students(1), await client.courses(1)
    async with watching(client) as watcher:
        for turn in range(3):
            await client.enroll(student, course)
            await client.unenroll(student, course)
            await watcher.until(lambda one, turn=turn: (course, 2 * turn + 3) in one.keys)  # type: ignore[misc]
        seen = 0
        for message in watcher.messages:
            seen += len(message.events)
            rest = await events_of(client, resume_token=message.resume_token)
            assert [key_of(event) for event in rest] == watcher.keys[seen:]


async def test_a_watcher_gets_what_it_asked_for(client: Client) -> None:
    students, courses = await morning(client)
    everything = await events_of(client)
    async with (
        watching(client, course_id=courses[1]) as of_course,
        watching(client, student_id=students[1]) as of_student,
        watching(client) as of_all,
    ):
        assert of_course.events == [event for event in everything if event.course_id == courses[1]]
        assert of_student.events == [event for event in everything if event.student_id == students[1]]
        before = len(everything)
        await client.unenroll(students[1], courses[0])
        await client.unenroll(students[0], courses[1])
        await of_all.until(lambda one: len(one.events) == before + 4)
        everything = of_all.events
        await of_course.until(lambda one: len(one.events) == 6)
        await of_student.until(lambda one: len(one.events) == 5)
        assert of_course.events == [event for event in everything if event.course_id == courses[1]]
        assert of_student.events == [event for event in everything if event.student_id == students[1]]


async def test_what_nobody_knows_streams_nothing(start_service: StartService) -> None:
    client = (await start_service(watch_heartbeat=0.05)).client
    await morning(client)
    for fields in ({"course_id": 999}, {"student_id": 999}):
        async with watching(client, **fields) as watcher:
            await watcher.until(lambda one: len(one.messages) >= 3)
            assert watcher.events == []
            assert all(message.caught_up and message.resume_token for message in watcher.messages)


async def test_a_heartbeat_is_a_token_that_skips_what_others_did(start_service: StartService) -> None:
    client = (await start_service(watch_heartbeat=0.05)).client
    students, courses = await morning(client)
    async with watching(client, course_id=courses[1]) as watcher, watching(client) as of_all:
        await client.unenroll(students[1], courses[0])
        await of_all.until(lambda one: one.events[-1].state == pb.ENROLLMENT_STATE_ENROLLED)
        messages = len(watcher.messages)
        await watcher.until(lambda one: len(one.messages) >= messages + 2)
        (resumed,) = await history(client, course_id=courses[1], resume_token=watcher.token)
        assert (list(resumed.events), resumed.caught_up) == ([], True)


async def test_events_of_a_deleted_course_are_kept(client: Client) -> None:
    students, courses = await morning(client)
    await client.call("DeleteCourse", course_id=courses[0], force=True)
    await client.call("DeleteStudent", student_id=students[0], force=True)
    events = await events_of(client)
    check_order(events)
    theirs = [event for event in events if event.course_id == courses[0]]
    assert theirs[-1].kind == pb.EVENT_KIND_COURSE_DELETED
    assert [event.student_id for event in await events_of(client, student_id=students[0])] == [students[0]] * 4


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"course_id": 1, "student_id": 1}, ["student_id"]),
        ({"course_id": -1}, ["course_id"]),
        ({"student_id": -1}, ["student_id"]),
    ],
)
async def test_a_watcher_asks_for_one_thing(client: Client, fields: dict[str, Any], named: list[str]) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=named):
        await history(client, **fields)


async def test_a_token_is_bound_to_what_it_was_given_for(client: Client) -> None:
    students, courses = await morning(client)
    asked: list[dict[str, int]] = [
        *({}, {"course_id": courses[0]}, {"course_id": courses[1]}),
        *({"student_id": students[0]}, {"student_id": students[1]}),
    ]
    tokens = [(await history(client, **fields))[-1].resume_token for fields in asked]
    assert len(set(tokens)) == len(tokens)
    for fields in asked:
        for other, token in zip(asked, tokens, strict=True):
            if fields == other:
                assert await events_of(client, resume_token=token, **fields) == []
            else:
                with refused("INVALID_ARGUMENT", "RESUME_TOKEN_INVALID", fields=["resume_token"]):
                    await history(client, resume_token=token, **fields)


async def test_many_watchers_come_at_once(client: Client) -> None:
    students, courses = await morning(client)
    async with AsyncExitStack() as stack:
        coming = [stack.enter_async_context(watching(client, student_id=students[0])) for _ in range(20)]
        watchers = await asyncio.gather(*coming)
        await client.unenroll(students[0], courses[1])
        for watcher in watchers:
            await watcher.until(lambda one: len(one.events) == 4)


async def test_a_student_sees_its_own_events_and_no_others(start_service: StartService, tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    client = (await start_service(**provider.settings)).client
    registrar = client.bearing(provider.token("registrar"))
    students, _ = await morning(registrar)
    student = client.bearing(provider.token("student", student_id=students[1]))
    events = await events_of(student, student_id=students[1])
    assert {event.student_id for event in events} == {students[1]}
    assert {event.actor for event in events} == {"somebody"}
    for fields in ({}, {"course_id": 1}, {"student_id": students[0]}):
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED", metadata={}):
            await history(student, **fields)
    # A token of somebody else opens nothing either.
    (others,) = await history(registrar, student_id=students[0])
    with refused("INVALID_ARGUMENT", "RESUME_TOKEN_INVALID"):
        await history(student, student_id=students[1], resume_token=others.resume_token)
    reader = client.bearing(provider.token("reader"))
    assert len(await events_of(reader)) == len(await events_of(registrar))


async def test_a_stream_ends_with_the_credentials_that_opened_it(start_service: StartService, tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    client = (await start_service(watch_heartbeat=0.1, **provider.settings)).client
    expires = int(time.time()) + 3
    token = provider.token("reader", exp=expires - CLOCK_SKEW_SECONDS)
    async with watching(client.bearing(token)) as watcher:
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED", metadata={}):
            await watcher.ended()
        assert time.time() >= expires
        token = watcher.token
    fresh = client.bearing(provider.token("reader"))
    assert await events_of(fresh, resume_token=token) == []


CURRENT = Place(Snapshot(700, 705, (700, 703)), "0123456789abcdef", 1, 100)


def token_with(*parts: object) -> str:
    """A token whose check fits, whatever is in it."""
    payload = "|".join(map(str, parts)).encode()
    return base64.urlsafe_b64encode(resume._check(Scope(), payload) + payload).decode().rstrip("=")


def test_a_token_says_what_was_put_into_it() -> None:
    for mark in (
        Mark(CURRENT),
        Mark(CURRENT, Snapshot(3, 3), (7, 9)),
        Mark(CURRENT, Snapshot(650, 652, (651,)), (1, 0)),
    ):
        assert resume.decode(Scope(), resume.encode(Scope(), mark)) == mark
        assert resume.decode(Scope(course_id=1), resume.encode(Scope(), mark)) is None


EPOCH = CURRENT.epoch
GARBAGE = {
    "no base64": "!",
    "not ascii": "\u00e9",
    "too short": "AAAA",
    "damaged": resume.encode(Scope(), Mark(CURRENT))[:-3] + "AAA",
    "another version": token_with(2, EPOCH, 1, 100, "700,5"),
    "nothing in it": token_with(),
    "too little": token_with(1, EPOCH, 1, 100),
    "too much": token_with(1, EPOCH, 1, 100, "700,5", "3,0", "1,1", "1"),
    "no epoch": token_with(1, "x" * 16, 1, 100, "700,5"),
    "no timeline": token_with(1, EPOCH, "-1", 100, "700,5"),
    "no number": token_with(1, EPOCH, 1, "1_0", "700,5"),
    "too large": token_with(1, EPOCH, 1, 2**63, "700,5"),
    "far too large": token_with(1, EPOCH, 1, "9" * 5_000, "700,5"),
    "no snapshot": token_with(1, EPOCH, 1, 100, ""),
    "before the first": token_with(1, EPOCH, 1, 100, "0,1"),
    "beyond the last": token_with(1, EPOCH, 1, 100, f"{2**63 - 1},1"),
    "not ascending": token_with(1, EPOCH, 1, 100, "700,5,3,1"),
    "not within": token_with(1, EPOCH, 1, 100, "700,5,5"),
    "no key": token_with(1, EPOCH, 1, 100, "700,5", "3,0", "1"),
    "written otherwise": token_with(1, EPOCH, "01", 100, "700,5"),
    "too long": "A" * (resume.MAX_LENGTH + 1),
}


@pytest.mark.parametrize("token", GARBAGE.values(), ids=GARBAGE)
async def test_what_is_no_token_of_ours_is_refused(client: Client, token: str) -> None:
    with refused(
        "INVALID_ARGUMENT", "RESUME_TOKEN_INVALID", fields=["resume_token"], metadata={"field": "resume_token"}
    ):
        await history(client, resume_token=token)


async def test_a_forged_token_shows_no_more_than_none(client: Client) -> None:
    """Its check fits and it is of this log, so it counts, if it is not of the future."""
    await morning(client)
    (told,) = await history(client)
    mark = resume.decode(Scope(), told.resume_token)
    assert mark is not None
    place = mark.place
    early = resume.encode(Scope(), Mark(place, Snapshot(3, 3), (0, 0)))
    assert await events_of(client, resume_token=early) == list(told.events)
    future = place.snapshot._replace(xmax=place.snapshot.xmax + 1_000_000)
    for forged in (Mark(place._replace(snapshot=future)), Mark(place, future, (0, 0))):
        with refused("INVALID_ARGUMENT", "RESUME_TOKEN_INVALID"):
            await history(client, resume_token=resume.encode(Scope(), forged))
    # Of another history, or of one that this one has not come to: such tokens were good elsewhere.
    for changed in ({"timeline": 2}, {"epoch": "f" * 16}, {"position": 2**62}):
        with refused("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED"):
            await history(client, resume_token=resume.encode(Scope(), Mark(place._replace(**changed))))
