"""What there is to see of the morning: the courses, what happened, and the claims, held or not.

The chapters write here. On a terminal `screen.py` draws it many times a second; elsewhere each line is printed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from enrollment_service.v1 import enrollment_pb2 as pb

LineKind = Literal["chapter", "told", "detail", "held", "broken"]
CrowdKind = Literal["pressed", "seat", "wait", "no", "lost", "done"]

_MOST_LINES = 200
_MOST_SEEN = 300  # characters
_MARKS: dict[LineKind, str] = {"told": "  ", "detail": "  ", "held": "  ok: ", "broken": "  NOT SO: "}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of what happened, and when, in seconds since the beginning."""

    at: float
    kind: LineKind
    text: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that must be true, whether it was, and what was seen instead."""

    text: str
    held: bool
    seen: str = ""

    def __str__(self) -> str:
        return self.text if self.held or not self.seen else f"{self.text} (seen: {self.seen})"


class Board:
    """The state of the show."""

    def __init__(self, *, live: bool, fast: bool, chapters: int) -> None:
        """Start an empty one.

        live: something draws it; otherwise lines are printed.
        fast: no pauses.
        """
        self.live = live
        self.chapters = chapters
        self.number = 0
        self.title = "Before the doors open"
        self.caption = ""
        self.server = "not started"
        self.courses: dict[int, pb.Course] = {}
        self.changed_at: dict[int, float] = {}
        self.lines: deque[Line] = deque(maxlen=_MOST_LINES)
        self.crowd: list[CrowdKind] = []
        self.crowd_title = ""
        self.crowd_is_news = False  # it changes just now: where there is little room, it comes first
        self.queue: Sequence[str] = ()
        self.queue_title = ""
        self.counts: Counter[str] = Counter()
        self.claims: list[Claim] = []
        self._fast = fast
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def broken(self) -> list[Claim]:
        """The claims that did not hold."""
        return [claim for claim in self.claims if not claim.held]

    async def pause(self, seconds: float) -> None:
        """Lets people read."""
        await asyncio.sleep(0 if self._fast else seconds)

    async def chapter(self, title: str, caption: str) -> None:
        """Begins a chapter."""
        self.number += 1
        self.title, self.caption = title, caption
        self.crowd, self.queue, self.crowd_is_news = [], (), False
        self._add("chapter", f"{self.number}. {title}" if self.live else f"{self.number}. {title}: {caption}")
        await self.pause(0.7)

    def tell(self, text: str) -> None:
        """Says what happened."""
        self._add("told", text)

    def detail(self, text: str) -> None:
        """Says what happened, to those who watch live; in a file there would be too many of them."""
        if self.live:
            self._add("detail", text)

    def claim(self, text: str, held: bool, seen: object = "") -> None:
        """States what must be true now, and notes whether it is."""
        claim = Claim(text, held, str(seen)[:_MOST_SEEN])
        self.claims.append(claim)
        self._add("held" if held else "broken", str(claim))

    def saw(self, course: pb.Course) -> None:
        """Takes in a course as the feed shows it."""
        known = self.courses.get(course.course_id)
        if known is None or known != course:
            self.courses[course.course_id] = course
            self.changed_at[course.course_id] = time.monotonic()

    def show_crowd(self, title: str, size: int) -> None:
        """Shows a dot for each of so many callers."""
        self.crowd_title, self.crowd, self.queue = title, ["pressed"] * size, ()
        self.crowd_is_news = True

    def show_queue(self, title: str, names: Sequence[str]) -> None:
        """Shows who waits, first to last."""
        self.queue_title, self.queue, self.crowd = title, names, []

    def _add(self, kind: LineKind, text: str) -> None:
        line = Line(self.elapsed, kind, text)
        self.lines.append(line)
        if not self.live:
            print(f"\n{text}" if kind == "chapter" else f"{_MARKS[kind]}{text}", flush=True)
