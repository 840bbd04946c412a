"""The chapters in which something breaks, and the audit at the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from demo.client import Answer, Client, Roster, all_at_once, essence, refused
from demo.line import Line
from demo.people import FREE, PHOTO, STARS, Student
from demo.scene import Scene, plural
from enrollment_service.v1 import enrollment_pb2 as pb

_Questions = Callable[[Client, Sequence[Student]], Iterator[Awaitable[Answer]]]

_THIRD = 40  # callers of each of the three kinds in the power cut
_BURST = 3 * _THIRD
_PATIENCE = 10.0  # seconds until what must have happened is given up


async def lose_answer(scene: Scene) -> None:
    """One answer is lost on its way; the caller asks again with the same request_id."""
    board, client, ids = scene.board, scene.client, scene.course_ids
    await board.chapter("A lost answer", "The call gets through, the answer does not. So ask again, with the same id.")
    caller = scene.crowd[-2]
    request_id = str(uuid.uuid4())
    present = (await scene.roster(PHOTO)).course.enrolled_count
    async with _bad_line(scene) as (bad_client, line):
        asking = asyncio.create_task(bad_client.ask(caller, ids[PHOTO], waitlist=False, request_id=request_id))
        await _until_on_roster(scene, PHOTO, present + 1)
        board.tell(f"{caller.name} enrolls in {PHOTO}, the line swallows the answer, and breaks.")
        await line.cut()
        lost = await asking
    first = (await scene.roster(PHOTO)).seated_ids
    board.claim(
        "The caller heard nothing, and has a seat without knowing it",
        lost.kind == "lost" and caller.student_id in first, lost.kind,
    )  # fmt: skip
    await board.pause(0.75)
    again = [await client.enroll(caller, ids[PHOTO], request_id=request_id) for _ in range(3)]
    board.tell("Asked three times more with the same request_id: the same answer each time.")
    board.claim(
        "Four calls, one answer, one seat",
        all(essence(one) == essence(again[0]) and one[0].etag == again[0][0].etag for one in again)
        and (await scene.roster(PHOTO)).seated_ids == first,
    )
    await board.pause(0.6)
    other = await refused(client.enroll(caller, ids[FREE], request_id=request_id))
    anew = await refused(client.enroll(caller, ids[PHOTO]))
    heard = (other.reason if other else "", anew.reason if anew else "")
    board.claim(
        f"The id for another wish: {heard[0]}. A new id: {heard[1]}",
        heard == ("REQUEST_ID_REUSED", "ALREADY_ENROLLED"), heard,
    )  # fmt: skip
    await board.pause(0.75)


@contextlib.asynccontextmanager
async def _bad_line(scene: Scene) -> AsyncIterator[tuple[Client, Line]]:
    """A client whose calls arrive but whose answers do not, and its line."""
    async with Line(scene.office.address) as line:
        client = Client(line.address, scene.board.counts)
        try:
            await client.call("ListCourses", pb.ListCoursesRequest())  # connects while the line still works
            line.deaf = True
            yield client, line
        finally:
            await client.close()


async def cut_power(scene: Scene) -> None:
    """The server is killed in the middle of a burst; another is started; everybody asks again."""
    board = scene.board
    await board.chapter(
        "The power cut", f"{_BURST} students want 60 seats and 60 places to wait; the server is killed."
    )
    callers = scene.crowd[:_BURST]
    scene.chance.shuffle(callers)
    request_ids = {caller.student_id: str(uuid.uuid4()) for caller in callers}

    def questions(client: Client, asking: Sequence[Student]) -> Iterator[Awaitable[Answer]]:
        course_id = scene.course_ids[STARS]
        return (client.ask(one, course_id, waitlist=True, request_id=request_ids[one.student_id]) for one in asking)

    board.show_crowd(f"{_BURST} callers", _BURST)
    await board.pause(0.4)
    heard = await _burst_and_kill(scene, callers, questions)
    await _restart(scene)
    await _show_what_was_done(scene, heard)
    board.tell(f"All {_BURST} ask again, each with the same request_id as before.")
    await board.pause(0.5)
    final = await all_at_once(questions(scene.client, callers))
    await scene.replay(final, 1.0)
    await _claim_feed_goes_on(scene)
    _claim_power_cut(scene, heard, final, await scene.roster(STARS))
    await board.pause(1)


async def _burst_and_kill(scene: Scene, callers: Sequence[Student], questions: _Questions) -> list[Answer]:
    """A third is answered, a third is done but hears nothing, a third presses as the server dies; who was answered."""
    board = scene.board
    answers = await all_at_once(questions(scene.client, callers[:_THIRD]))
    await scene.replay(answers, 0.7)
    board.tell(f"{_THIRD} ask and hear.")
    async with _bad_line(scene) as (bad_client, _):
        unheard = asyncio.create_task(all_at_once(questions(bad_client, callers[_THIRD : 2 * _THIRD])))
        await _until_on_roster(scene, STARS, 2 * _THIRD)
        board.tell(f"{_THIRD} ask over a line that swallows every answer.")
        await board.pause(0.6)
        answers += await all_at_once(questions(scene.client, callers[2 * _THIRD :]), lambda _: _kill(scene))
        answers += await unheard
    heard = [answer for answer in answers if answer.kind != "lost"]
    await scene.replay(answers[_THIRD:], 0.8)
    board.tell(f"{_THIRD} are asking, and kill -9: of {_BURST}, {_BURST - len(heard)} have heard nothing.")
    board.claim(f"At least {_THIRD} were cut off", len(heard) <= _BURST - _THIRD, f"{len(heard)} have an answer")
    await board.pause(0.9)
    return heard


def _kill(scene: Scene) -> None:
    if scene.board.server != "killed":
        scene.office.kill_server()
        scene.board.server = "killed"


async def _until_on_roster(scene: Scene, code: str, size: int) -> None:
    async with asyncio.timeout(_PATIENCE):
        while True:
            course = (await scene.roster(code)).course
            if course.enrolled_count + course.waitlisted_count >= size:
                return
            await asyncio.sleep(0.05)


async def _restart(scene: Scene) -> None:
    scene.board.server = "starting again"
    began = time.monotonic()
    await asyncio.to_thread(scene.office.collect_server)
    pid = await asyncio.to_thread(scene.office.start_server)
    scene.board.server = f"pid {pid}"
    scene.board.tell(f"A new server process serves after {time.monotonic() - began:.1f} s.")


async def _show_what_was_done(scene: Scene, heard: Sequence[Answer]) -> None:
    """Which of the unanswered calls had happened, as the roster shows."""
    roster = await scene.roster(STARS)
    told = {answer.student.student_id for answer in heard}
    done = (roster.seated_ids | set(roster.queue)) - told
    for place, student in enumerate(scene.crowd[:_BURST]):
        if student.student_id in done:
            scene.board.crowd[place] = "done"
    scene.board.tell(f"Of the cut off, {plural(len(done), 'call')} had been done. The callers cannot know.")
    scene.board.claim(
        "Whoever had an answer is on the roster: an answer is a promise",
        told <= roster.seated_ids | set(roster.queue), scene.names(told - roster.seated_ids - set(roster.queue)),
    )  # fmt: skip
    await scene.board.pause(0.9)


def _claim_power_cut(scene: Scene, heard: Sequence[Answer], final: Sequence[Answer], roster: Roster) -> None:
    board = scene.board
    after = {answer.student.student_id: answer for answer in final}
    differing = [one.student.name for one in heard if after[one.student.student_id].essence != one.essence]
    board.claim("Who had an answer got the very same one again", not differing, differing)
    refusals = [answer.refusal.reason for answer in final if answer.refusal]
    board.claim("Nobody was told ALREADY_ENROLLED, nobody was refused", not refusals, refusals)
    positions = [one.waitlist_position for one in roster.waiting]
    board.claim(
        "One effect each: 60 seats, 60 waiting at 1 to 60, nobody twice",
        len(roster.enrolled) == 60
        and positions == list(range(1, 61))
        and roster.seated_ids | set(roster.queue) == {one.student_id for one in scene.crowd[:_BURST]},
        (len(roster.enrolled), positions),
    )


async def _claim_feed_goes_on(scene: Scene) -> None:
    await scene.feed.caught_up()
    scene.board.claim(
        "The feed went on from its token on the new server: of every course each event, once and in order",
        not scene.feed.gaps, scene.feed.gaps,
    )  # fmt: skip


async def _claim_board(scene: Scene) -> None:
    """The lists know what the feed cannot: whether the feed has told everything."""
    await scene.feed.caught_up()
    listed = {course.course_id: course async for course in scene.client.list_courses()}
    shown = scene.board.courses
    differing = [one.code for one in listed.values() if _seats(one) != _seats(shown.get(one.course_id))]
    scene.board.claim(
        f"The board, filled by {scene.feed.events:,} events and nothing else, shows what the lists say",
        not differing and len(shown) == len(listed) and not scene.feed.gaps, differing,
    )  # fmt: skip


def _seats(course: pb.Course | None) -> tuple[int | None, int, int] | None:
    if course is None:
        return None
    capacity = course.capacity if course.HasField("capacity") else None
    return capacity, course.enrolled_count, course.waitlisted_count


async def audit(scene: Scene) -> None:
    """The service checks every promise on the database, and the server is drained."""
    board = scene.board
    await board.chapter("The audit", "`enrollment_service verify` checks every promise on the database.")
    board.crowd = []
    await _claim_board(scene)
    await board.pause(0.5)
    status, lines = await asyncio.to_thread(scene.office.verify)
    for line in lines:
        board.tell(line)
        await board.pause(0.06)
    board.claim("verify finds nothing wrong", status == 0, f"exit status {status}")
    await board.pause(0.5)
    await scene.feed.close()
    await scene.client.close()
    status = await asyncio.to_thread(scene.office.drain)
    board.server = "stopped"
    board.claim("SIGTERM drains the server: exit status 0", status == 0, f"exit status {status}")
    await board.pause(0.75)
