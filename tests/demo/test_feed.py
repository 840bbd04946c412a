"""The demo's board shows what the feed tells, and notices if something were missing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from rich.console import Console

from demo.board import Board
from demo.feed import Feed
from demo.screen import picture
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.services import Service

WIDTH, HEIGHT = 80, 24


@pytest.fixture
def board() -> Board:
    return Board(live=True, fast=True, chapters=1)


@pytest.fixture
async def feed(board: Board, service: Service) -> AsyncIterator[Feed]:
    following = Feed(board, service.address)
    yield following
    await following.close()


def shown(board: Board, code: str) -> list[str]:
    """The row of a course on a small terminal, without its bars."""
    console = Console(width=WIDTH, height=HEIGHT)
    with console.capture() as captured:
        console.print(picture(board, WIDTH, HEIGHT), height=HEIGHT)
    (row,) = [line for line in captured.get().splitlines() if code in line]
    return [word for word in row.strip("│ ").split() if word.strip("█▒·")]


async def test_the_board_follows_what_others_do(service: Service, board: Board, feed: Feed) -> None:
    course = await service.client.create_course(code="ART-1", title="Art", capacity=3, waitlist_capacity=4)
    students = await service.client.students(4)
    for student in students[:2]:
        await service.client.enroll(student, course.course_id)
    await feed.caught_up()
    assert shown(board, "ART-1") == ["ART-1", "Art", "2/3", "1", "0/4"]
    for student in students[2:]:
        await service.client.enroll(student, course.course_id, on_full=pb.ON_FULL_WAITLIST)
    await feed.caught_up()
    assert shown(board, "ART-1") == ["ART-1", "Art", "3/3", "0", "1/4"]
    await service.client.unenroll(students[0], course.course_id)
    await feed.caught_up()
    assert shown(board, "ART-1") == ["ART-1", "Art", "3/3", "0", "0/4"]
    assert board.counts["promoted"] == 1
    assert (feed.events, feed.gaps) == (7, [])


async def test_a_course_without_a_limit_has_any_number_left(service: Service, board: Board, feed: Feed) -> None:
    await service.client.create_course(code="TLK-1", title="Talks")
    await feed.caught_up()
    assert shown(board, "TLK-1") == ["TLK-1", "Talks", "no", "limit", "0", "any", "none"]


async def test_a_missing_event_is_noted(service: Service, feed: Feed) -> None:
    (course,) = await service.client.courses(1)
    await feed.caught_up()
    await feed._take(pb.EnrollmentEvent(course_id=course, sequence=3, kind=pb.EVENT_KIND_ENROLLMENT))
    assert feed.gaps == [(course, 3)]
