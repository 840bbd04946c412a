"""What every chapter works with: the board and the feed that fills it, the client, the processes, and who is who."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from demo import people
from demo.board import Board
from demo.client import Answer, Client, Roster
from demo.feed import Feed
from demo.office import Office
from demo.people import Student
from enrollment_service.v1 import enrollment_pb2 as pb

_FRAME = 0.03  # seconds: shorter pauses nobody sees


@dataclass
class Scene:
    """The state of the morning between chapters."""

    board: Board
    client: Client
    feed: Feed
    office: Office
    students: list[Student] = field(default_factory=list)
    course_ids: dict[str, int] = field(default_factory=dict)
    # Seeded: who does what is the same every morning; who is first is up to the service.
    chance: random.Random = field(default_factory=lambda: random.Random(2026))

    @property
    def crowd(self) -> list[Student]:
        """Those who want into the popular course."""
        return self.students[: people.STAMPEDE]

    @property
    def early_birds(self) -> list[Student]:
        """Those in the quiet courses."""
        return self.students[people.STAMPEDE :]

    def student(self, student_id: int) -> Student:
        """The student with this id."""
        return next(one for one in self.students if one.student_id == student_id)

    def name(self, student_id: int) -> str:
        """A student's name."""
        return self.student(student_id).name

    def names(self, student_ids: Iterable[int]) -> list[str]:
        """Students' names, in the same order."""
        return [self.name(one) for one in student_ids]

    def enrolled_in(self, code: str) -> int:
        """How many seats the board shows as taken."""
        return self.board.courses[self.course_ids[code]].enrolled_count

    async def roster(self, code: str) -> Roster:
        """A course's roster."""
        return await self.client.roster(self.course_ids[code])

    def show_queue(self, code: str, queue: Sequence[int]) -> None:
        """Shows who waits for a course."""
        self.board.show_queue(f"Waiting for {code}: {len(queue)}", self.names(queue))

    async def replay(self, answers: Sequence[Answer], seconds: float) -> None:
        """Shows the answers one by one in the order in which they came, slower than they did."""
        places = {student.student_id: place for place, student in enumerate(self.students)}
        self.board.crowd_is_news = True
        began = time.monotonic()
        for number, answer in enumerate(answers):
            self.board.crowd[places[answer.student.student_id]] = answer.kind
            # By the clock, because a pause for each would be the longer the more the screen has to draw.
            if (early := began + seconds * number / len(answers) - time.monotonic()) > _FRAME:
                await self.board.pause(early)
        self.board.crowd_is_news = False


def plural(number: int, noun: str) -> str:
    """`1 seat`, `2 seats`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def states(enrollments: Iterable[pb.Enrollment]) -> str:
    """What a student got, in words: `CS-101: seat, JAZ-120: place 1 on the waitlist`."""
    return ", ".join(
        f"{one.course.code}: {f'place {one.waitlist_position} on the waitlist' if one.waitlist_position else 'a seat'}"
        for one in enrollments
    )
