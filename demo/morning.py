"""The chapters in which nothing breaks: the doors open, a stampede, a queue, swaps, a dry run, more seats."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from demo import people
from demo.client import ENROLLED, Answer, Roster, all_at_once, essence, refused
from demo.people import BUSY, CLOSED, FREE, LATIN, PHOTO, PLANS, POPULAR, TALKS, Student
from demo.scene import Scene, plural, states
from enrollment_service.v1 import enrollment_pb2 as pb

_REJECTERS = 80  # of the stampede: they want a seat or nothing
_SINGLE_DROPS = 4
_RACE_DROPS = 6
_NEWCOMERS = 40
_MORE_SEATS = 15


async def open_doors(scene: Scene) -> None:
    """Courses and students are created, and early birds take two courses in one call."""
    board, client = scene.board, scene.client
    await board.chapter("The doors open", "Courses and students are created; early birds take two in one call.")
    for plan in PLANS:
        course = await client.create_course(
            plan.code, plan.title, capacity=plan.capacity, waitlist_capacity=plan.waitlist
        )
        scene.course_ids[plan.code] = course.course_id
        await board.pause(0.07)
    scene.students = await asyncio.gather(
        *(_admit(scene, people.full_name(i), people.email(i)) for i in range(people.STUDENTS))
    )
    board.tell(f"{len(scene.course_ids)} courses and {len(scene.students)} students are there.")
    await _seat_early_birds(scene)
    yesterday = Timestamp(seconds=int(time.time()) - 86_400)
    closing = pb.Course(course_id=scene.course_ids[CLOSED], enroll_close_time=yesterday)
    await client.update_course(closing, ["enroll_close_time"])
    board.tell(f"{CLOSED} is closed: its enrollment window ended yesterday.")
    await scene.feed.caught_up()
    planned = {plan.code: plan.early_birds for plan in PLANS} | {TALKS: people.EARLY_BIRDS}
    found = {code: scene.enrolled_in(code) for code in planned}
    board.claim(
        f"{people.EARLY_BIRDS} early birds have {2 * people.EARLY_BIRDS} seats, two by one call each",
        found == planned, found,
    )  # fmt: skip
    await board.pause(0.6)


async def _admit(scene: Scene, name: str, email: str) -> Student:
    created = await scene.client.create_student(name, email)
    return Student(created.student_id, created.full_name)


async def _seat_early_birds(scene: Scene) -> None:
    wishes = [plan.code for plan in PLANS for _ in range(plan.early_birds)]
    scene.chance.shuffle(wishes)
    for start in range(0, len(wishes), 6):
        group = list(zip(scene.early_birds, wishes, strict=True))[start : start + 6]
        await asyncio.gather(
            *(scene.client.enroll(one, scene.course_ids[code], scene.course_ids[TALKS]) for one, code in group)
        )
        scene.board.detail(f"{group[0][0].name} takes {group[0][1]} and {TALKS}")
        await scene.board.pause(0.06)


async def stampede(scene: Scene) -> None:
    """Three hundred students press at once for thirty seats and forty places in the queue."""
    board = scene.board
    await board.chapter(
        "The stampede",
        f"{people.STAMPEDE} students press at once for 30 seats in {POPULAR}; {_REJECTERS} will not wait.",
    )
    board.show_crowd(f"{people.STAMPEDE} callers", people.STAMPEDE)
    await board.pause(0.75)
    order = scene.chance.sample(range(people.STAMPEDE), people.STAMPEDE)
    course_id = scene.course_ids[POPULAR]
    began = time.monotonic()
    answers = await all_at_once(scene.client.ask(scene.crowd[i], course_id, waitlist=i >= _REJECTERS) for i in order)
    took = time.monotonic() - began
    board.tell(f"All {len(answers)} were answered within {took:.2f} s.")
    if board.live:
        board.detail("Slowed down, in the order the answers came:")
    await scene.replay(answers, 3.0)
    _claim_stampede(scene, answers, await scene.roster(POPULAR))
    await board.pause(1.25)


def _claim_stampede(scene: Scene, answers: Sequence[Answer], roster: Roster) -> None:
    board = scene.board
    kinds = Counter(answer.kind for answer in answers)
    board.claim(
        "Exactly 30 have a seat, 40 wait, 230 were refused",
        kinds == {"seat": 30, "wait": 40, "no": 230}, dict(kinds),
    )  # fmt: skip
    positions = sorted(answer.enrollments[0].waitlist_position for answer in answers if answer.kind == "wait")
    board.claim("The waiters hold the positions 1 to 40, each once", positions == list(range(1, 41)), positions)
    reasons = Counter(answer.refusal.reason for answer in answers if answer.refusal)
    board.tell("Refused because " + ", ".join(f"{reason}: {number}" for reason, number in sorted(reasons.items())))
    board.claim(
        "Who would wait heard WAITLIST_FULL, who would not heard COURSE_FULL",
        set(reasons) == {"COURSE_FULL", "WAITLIST_FULL"}
        and all(
            (answer.refusal.reason == "COURSE_FULL") == (answer.student in scene.crowd[:_REJECTERS])
            for answer in answers
            if answer.refusal
        ),
        dict(reasons),
    )
    by_kind = {
        kind: {answer.student.student_id for answer in answers if answer.kind == kind} for kind in ("seat", "wait")
    }
    board.claim(
        "The roster and the answers agree, name by name",
        by_kind == {"seat": roster.seated_ids, "wait": set(roster.queue)},
    )


async def move_queue(scene: Scene) -> None:
    """Seats that become free go to the first waiters, whoever else presses."""
    board = scene.board
    await board.chapter("The queue moves", "A seat that becomes free goes to whoever waits first, in the same moment.")
    before = await scene.roster(POPULAR)
    leavers = [scene.student(one) for one in sorted(before.seated_ids)]
    scene.show_queue(POPULAR, before.queue)
    await _drop_one_by_one(scene, leavers[:_SINGLE_DROPS])
    await _rejoin(scene, leavers[0])
    await _race(scene, leavers[_SINGLE_DROPS : _SINGLE_DROPS + _RACE_DROPS])
    after = await scene.roster(POPULAR)
    scene.show_queue(POPULAR, after.queue)
    moved = _SINGLE_DROPS + _RACE_DROPS
    seats = {one.student_id: one.enroll_time.ToNanoseconds() for one in after.enrolled}
    times = [seats.get(one, 0) for one in before.queue[:moved]]
    board.claim(
        f"The seats went to waiters 1 to {moved}, in that order",
        after.seated_ids - before.seated_ids == set(before.queue[:moved]) and times == sorted(times),
        scene.names(after.seated_ids - before.seated_ids),
    )
    board.claim(
        "The others kept their order and moved up",
        after.queue[: len(before.queue) - moved] == before.queue[moved:],
        scene.names(after.queue),
    )
    await board.pause(1)


async def _drop_one_by_one(scene: Scene, leavers: Sequence[Student]) -> None:
    for leaver in leavers:
        first = (await scene.roster(POPULAR)).queue[0]
        await scene.client.unenroll_student(leaver.student_id, scene.course_ids[POPULAR])
        scene.show_queue(POPULAR, (await scene.roster(POPULAR)).queue)
        scene.board.tell(f"{leaver.name} drops: {scene.name(first)} moves up")
        await scene.board.pause(0.4)


async def _rejoin(scene: Scene, returner: Student) -> None:
    (enrollment,) = await scene.client.enroll(returner, scene.course_ids[POPULAR], waitlist=True)
    roster = await scene.roster(POPULAR)
    scene.show_queue(POPULAR, roster.queue)
    scene.board.claim(
        f"{returner.name} regrets it and comes back: last, place {enrollment.waitlist_position}",
        roster.queue[-1] == returner.student_id and enrollment.waitlist_position == len(roster.queue),
        roster.queue,
    )
    await scene.board.pause(0.6)


async def _race(scene: Scene, leavers: Sequence[Student]) -> None:
    """Drops and newcomers at the same moment: no newcomer may pass a waiter."""
    board, course_id = scene.board, scene.course_ids[POPULAR]
    inside = await scene.roster(POPULAR)
    known = inside.seated_ids | set(inside.queue)
    newcomers = [one for one in scene.crowd if one.student_id not in known][:_NEWCOMERS]
    board.tell(f"Now {len(leavers)} drop while {len(newcomers)} newcomers press")
    answers, _ = await asyncio.gather(
        all_at_once(scene.client.ask(one, course_id, waitlist=i % 2 == 0) for i, one in enumerate(newcomers)),
        asyncio.gather(*(scene.client.unenroll_student(one.student_id, course_id) for one in leavers)),
    )
    kinds = Counter(answer.kind for answer in answers)
    board.claim(
        f"No newcomer got a seat: {kinds['wait']} joined the queue at its end, {kinds['no']} were refused",
        kinds["seat"] == 0 and kinds["lost"] == 0, dict(kinds),
    )  # fmt: skip
    await board.pause(0.5)


async def swap_courses(scene: Scene) -> None:
    """A swap is both or neither."""
    board, client, ids = scene.board, scene.client, scene.course_ids
    await board.chapter("Swaps", "Leave a course and enter another, both or neither: no gamble with a seat.")
    photographers = [scene.student(one) for one in sorted((await scene.roster(PHOTO)).seated_ids)]
    mover, unlucky = photographers[:2]
    await client.swap_enrollment(mover.student_id, ids[PHOTO], ids[FREE])
    now = (await client.state(mover, ids[PHOTO]), await client.state(mover, ids[FREE]))
    board.claim(f"{mover.name} swaps {PHOTO} for {FREE} in one step", now == (0, ENROLLED), now)
    await board.pause(0.6)

    refusal = await refused(client.swap_enrollment(unlucky.student_id, ids[PHOTO], ids[POPULAR]))
    reason = refusal.reason if refusal else "no refusal"
    now = (await client.state(unlucky, ids[PHOTO]), await client.state(unlucky, ids[POPULAR]))
    board.claim(
        f"{unlucky.name} wants {POPULAR} instead: {reason}, and the seat in {PHOTO} is kept",
        reason == "COURSE_FULL" and now == (ENROLLED, 0), (reason, now),
    )  # fmt: skip
    await board.pause(0.6)
    await _swap_out_of_the_popular_course(scene)
    await _trade_seminars(scene)
    await board.pause(0.75)


async def _swap_out_of_the_popular_course(scene: Scene) -> None:
    board, ids = scene.board, scene.course_ids
    before = await scene.roster(POPULAR)
    leaver, first = scene.student(min(before.seated_ids)), before.queue[0]
    await scene.client.swap_enrollment(leaver.student_id, ids[POPULAR], ids[LATIN])
    after = await scene.roster(POPULAR)
    scene.show_queue(POPULAR, after.queue)
    board.claim(
        f"{leaver.name} swaps {POPULAR} for {LATIN}, and {scene.name(first)}, who was first, has the seat",
        after.seated_ids == before.seated_ids - {leaver.student_id} | {first} and after.queue == before.queue[1:],
        scene.names(after.seated_ids - before.seated_ids),
    )


async def _trade_seminars(scene: Scene) -> None:
    """In seminars with one seat each: who is first in line for each other's seats trades, and nobody risks a seat."""
    board, client = scene.board, scene.client
    seminars = [
        (await client.create_course(f"SEM-{n}", "Seminar", capacity=1, waitlist_capacity=3)).course_id for n in range(4)
    ]
    members = scene.early_birds[:4]
    for member, seminar in zip(members, seminars, strict=True):
        await client.enroll(member, seminar)

    async def swap(place: int, wanted: int) -> pb.SwapEnrollmentResponse:
        leave, enter = seminars[place], seminars[wanted]
        student_id = members[place].student_id
        return await client.swap_enrollment(student_id, leave, enter, on_full=pb.ON_FULL_WAITLIST)

    waits = await swap(3, 0)
    await client.unenroll_student(members[0].student_id, seminars[0])
    now = [await client.state(members[3], one) for one in seminars]
    board.claim(
        f"{members[3].name} waits for another seminar, keeps the seat until it is free, and then has just that",
        not waits.HasField("dropped") and now == [ENROLLED, 0, 0, 0], now,
    )  # fmt: skip
    members[0] = members[3]
    await board.pause(0.5)
    await swap(0, 1)
    await swap(1, 2)
    closing = await swap(2, 0)
    now = [await client.state(member, seminars[(n + 1) % 3]) for n, member in enumerate(members[:3])]
    board.claim(
        "Three who are first in line for each other's seats trade all at once",
        closing.enrolled.state == ENROLLED and now == [ENROLLED] * 3, now,
    )  # fmt: skip
    for seminar in seminars:
        await client.delete_course(seminar, force=True)


async def ask_what_if(scene: Scene) -> None:
    """A dry run tells what would happen, and the real call then does just that."""
    board, client, ids = scene.board, scene.client, scene.course_ids
    await board.chapter("What if", "A dry run tells the outcome and changes nothing. A refusal names all.")
    curious, planner = scene.early_birds[0], scene.crowd[-1]
    wanted = [ids[code] for code in (FREE, LATIN, BUSY, PHOTO)]
    wanted = [one for one in wanted if await client.state(curious, one) == 0]
    before = [one async for one in client.list_courses()]
    predicted = await client.enroll(curious, *wanted, waitlist=True, dry_run=True)
    board.tell(f"{curious.name} asks: what if? {states(predicted)}")
    untouched = [one async for one in client.list_courses()] == before and [
        await client.state(curious, one) for one in wanted
    ]
    board.claim("Nothing has changed by asking", untouched == [0] * len(wanted), untouched)
    await board.pause(0.75)

    real = await client.enroll(curious, *wanted, waitlist=True)
    board.claim("Done for real, it comes out as predicted", essence(real) == essence(predicted), states(real))
    await board.pause(0.5)

    refusal = await refused(client.enroll(planner, ids[POPULAR], ids[CLOSED], ids[LATIN]))
    violations = [f"{one.reason} {one.subject}" for one in refusal.violations] if refusal else []
    expected = [f"COURSE_FULL courses/{ids[POPULAR]}", f"ENROLLMENT_CLOSED courses/{ids[CLOSED]}"]
    codes = {f"courses/{course_id}": code for code, course_id in ids.items()}
    named = ", ".join(f"{codes.get(subject, subject)} {rule}" for rule, subject in map(str.split, violations))
    board.tell(f"{planner.name} asks for {POPULAR}, {CLOSED} and {LATIN}, and hears: {named}")
    now = await client.state(planner, ids[LATIN])
    board.claim(
        f"All obstacles are named at once, and no seat is taken, not in {LATIN} either",
        violations == expected and now == 0, (violations, now),
    )  # fmt: skip
    await board.pause(0.9)


async def add_seats(scene: Scene) -> None:
    """A larger room: the first waiters get the new seats in the same transaction."""
    board, client, ids = scene.board, scene.client, scene.course_ids
    await board.chapter(
        "A larger room", f"{POPULAR} moves to a larger room: {_MORE_SEATS} more seats, and waiters to fill them."
    )
    before = await scene.roster(POPULAR)
    scene.show_queue(POPULAR, before.queue)
    await board.pause(0.6)
    capacity = before.course.capacity + _MORE_SEATS
    course = await client.update_course(pb.Course(course_id=ids[POPULAR], capacity=capacity), ["capacity"])
    after = await scene.roster(POPULAR)
    scene.show_queue(POPULAR, after.queue)
    promoted = after.seated_ids - before.seated_ids
    board.claim(
        f"{_MORE_SEATS} more seats: the first {_MORE_SEATS} waiters have them, before anybody could ask",
        promoted == set(before.queue[:_MORE_SEATS])
        and (course.enrolled_count, course.waitlisted_count) == (capacity, len(before.queue) - _MORE_SEATS),
        scene.names(promoted),
    )
    board.claim("The rest kept their order", after.queue == before.queue[_MORE_SEATS:], scene.names(after.queue))
    await board.pause(0.75)

    refusal = await refused(client.update_course(pb.Course(course_id=ids[POPULAR], capacity=20), ["capacity"]))
    reason = refusal.reason if refusal else "no refusal"
    kept = (await scene.roster(POPULAR)).seated_ids == after.seated_ids
    board.claim(
        f"Down to 20 again? {reason}: {plural(len(after.enrolled), 'student')} keep their seats",
        reason == "CAPACITY_BELOW_ENROLLED" and kept, reason,
    )  # fmt: skip
    await board.pause(0.75)
