"""Takes a OneRoster export in: compares it with what a running server has, then sends what differs.

Students and courses are matched by their external ids, which are the sourcedIds of the export. People and courses are
never removed. Enrollments are: those that a delta withdraws and, where enrollments are bulk, those of its classes that
are not in it; only of students with an external id, and never a place in a waitlist, of which the export knows nothing.
They go first, so that their seats are free, and not at all if they are more than the brake allows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from enrollment_service.cli.foresight import refused_courses, refused_students
from enrollment_service.cli.oneroster import Export, Pair, Refused, codes_of, read_export
from enrollment_service.cli.pace import Pace
from enrollment_service.cli.rows import COURSES, EXTERNAL_ENROLLMENTS, STUDENTS, Kind, Row
from enrollment_service.cli.target import Target
from enrollment_service.cli.upload import Report, send
from enrollment_service.client import EnrollmentClient
from enrollment_service.client import Refused as RefusedError
from enrollment_service.v1 import enrollment_pb2 as pb

# Calls under way at a time.
MAX_CALLS = 8
REASON = "oneroster"
LARGEST_PAGE = 1_000

Item = TypeVar("Item")


class Bars(Protocol):
    """Shows how far a step of so much work has got."""

    def __call__(self, length: int, label: str) -> AbstractContextManager[Any]:
        """A block that is told how far it has got."""


class BrakedError(Exception):
    """More enrollments would be removed than may be; nothing was changed."""

    def __init__(self, removals: int) -> None:
        super().__init__(removals)
        self.removals = removals


class Removal(NamedTuple):
    """An enrollment to remove, and the etag that it was seen with, if it was."""

    student_id: int
    course_id: int
    etag: str


@dataclass
class Outcome:
    """What became of an export, or would become of it."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    removed: int = 0
    left_alone: Counter[str] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)


@dataclass
class _Known:
    """What the server has: students and courses by external id, and who is enrolled in the courses of the export."""

    students: dict[str, pb.Student] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    courses: dict[str, pb.Course] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    enrolled: dict[Pair, Removal] = field(default_factory=dict)
    waiting: dict[Pair, Removal] = field(default_factory=dict)


class Options(NamedTuple):
    """How an export is to be taken in.

    Attributes:
        dry_run: only compare.
        max_removals: the brake: so many enrollments may be removed.
        waitlist: whether students who find a course full join its waitlist.
        chunk_size: rows per chunk; None: what the server takes a tenth of a second for.
        patience: how long to go on trying without an answer, in seconds.
    """

    dry_run: bool = False
    max_removals: int = 0
    waitlist: bool = False
    chunk_size: int | None = None
    patience: float = 30.0


async def take_in(path: Path, target: Target, options: Options, outcome: Outcome, bars: Bars) -> None:
    """Takes an export in.

    Args:
        path: a folder or a ZIP file.
        target: where the server is, and with what to call it.
        options: how.
        outcome: is kept up to date on the way, so that it tells how far it got however this ends.
        bars: show how far it has got.

    Raises:
        UnusableExportError: it cannot be read; nothing was changed.
        BrakedError: it would remove too much; nothing was changed.
        ServiceError: the server refused something, or could not be reached for too long.
    """
    async with target.client(budget=options.patience) as client:
        known = _Known()
        with bars(0, "Reading what is there") as bar:
            await _read_people_and_courses(client, known, bar.update)
        export = read_export(path, known.students)
        outcome.refused, outcome.left_alone = export.refused, export.left_alone
        courses = [known.courses[one] for one in _classes_concerned(export) if one in known.courses]
        with bars(len(courses), "Reading who is enrolled") as bar:
            await _each(courses, lambda course: _read_roster(client, known, course), bar.update)
        removals = list(_removals(export, known))
        students, classes, pairs = _student_rows(export), _course_rows(export, known), _pair_rows(export, known)
        if options.dry_run:
            _foresee(export, known, students, classes, pairs, outcome)
            outcome.removed = len(removals)
        if len(removals) > options.max_removals:
            raise BrakedError(len(removals))
        if options.dry_run:
            return

        async def sent(kind: Kind, rows: list[Row], file: str, columns: Iterable[str] = (), **others: Any) -> None:
            report = Report(kind)
            outcome.counts[kind.name] = report.counts
            try:
                with bars(len(rows), f"Sending {kind.name}") as bar:
                    pace = Pace(options.chunk_size)
                    await send(
                        client, kind, rows, report, columns=columns, pace=pace, patience=options.patience,
                        progress=bar.update, **others,
                    )  # fmt: skip
            finally:
                outcome.refused += [Refused(file, one.line, " ".join(one.shown), one.reason) for one in report.rejected]

        await sent(STUDENTS, students, "users.csv")
        await sent(COURSES, classes, "classes.csv", ("code", "title"))
        with bars(len(removals), "Removing enrollments") as bar:
            await _each(removals, lambda removal: _remove(client, removal, outcome), bar.update)
        await sent(EXTERNAL_ENROLLMENTS, pairs, "enrollments.csv", waitlist=options.waitlist)
        outcome.counts["enrollments"]["already_enrolled"] += len(export.enrolled) - len(pairs)


async def _read_people_and_courses(client: EnrollmentClient, known: _Known, progress: Callable[[int], None]) -> None:
    async for student in client.list_students(page_size=LARGEST_PAGE):
        # Of a student without an external id only the address matters; no sourcedId begins so.
        known.addresses[student.email.lower()] = student.external_id or f"\n{student.student_id}"
        if student.external_id:
            known.students[student.external_id] = student
        progress(1)
    async for course in client.list_courses(page_size=LARGEST_PAGE):
        # Likewise the code of a course.
        known.codes[course.external_id or f"\n{course.course_id}"] = course.code
        if course.external_id:
            known.courses[course.external_id] = course
        progress(1)


def _classes_concerned(export: Export) -> Iterable[str]:
    """The classes of which must be known who is in them."""
    if export.is_whole:
        return export.classes.keys() | {sourced_id for _, sourced_id in export.enrolled}
    return {sourced_id for pairs in (export.enrolled, export.withdrawn) for _, sourced_id in pairs}


async def _read_roster(client: EnrollmentClient, known: _Known, course: pb.Course) -> None:
    async for one in client.list_course_students(course.course_id, page_size=LARGEST_PAGE):
        if one.student.external_id:
            kept = known.enrolled if one.state == pb.ENROLLMENT_STATE_ENROLLED else known.waiting
            pair = one.student.external_id, course.external_id
            kept[pair] = Removal(one.student_id, course.course_id, one.etag)


def _removals(export: Export, known: _Known) -> Iterator[Removal]:
    # First the waiters, so that none of them is promoted on the way out.
    yield from (known.waiting[pair] for pair in export.withdrawn if pair in known.waiting)
    for pair, removal in known.enrolled.items():
        absent = export.is_whole and pair[1] in export.classes and pair not in export.enrolled
        if absent or pair in export.withdrawn:
            yield removal


def _student_rows(export: Export) -> list[Row]:
    return [
        Row(
            one.line,
            (one.sourced_id,),
            pb.Student(external_id=one.sourced_id, full_name=one.full_name, email=one.email),
        )
        for one in export.students.values()
    ]


def _course_rows(export: Export, known: _Known) -> list[Row]:
    codes = codes_of(export, known.codes)
    return [
        Row(
            one.line,
            (one.sourced_id,),
            pb.Course(external_id=one.sourced_id, code=codes[one.sourced_id], title=one.title),
        )
        for one in export.classes.values()
    ]


def _pair_rows(export: Export, known: _Known) -> list[Row]:
    """Those who are neither in nor waiting yet."""
    return [
        Row(line, pair, pair)
        for pair, line in export.enrolled.items()
        if pair not in known.enrolled and pair not in known.waiting
    ]


def _foresee(
    export: Export, known: _Known, students: list[Row], courses: list[Row], pairs: list[Row], outcome: Outcome
) -> None:
    """Counts what would be sent, as far as that can be known without sending it."""
    no_students = refused_students(students, known.students, known.addresses)
    no_courses = refused_courses(courses)
    for file, rows, refused in (("users.csv", students, no_students), ("classes.csv", courses, no_courses)):
        outcome.refused += [
            Refused(file, row.line, " ".join(row.shown), refused[row.sent.external_id])
            for row in rows
            if row.sent.external_id in refused
        ]
    students = [row for row in students if row.sent.external_id not in no_students]
    courses = [row for row in courses if row.sent.external_id not in no_courses]
    outcome.counts = {
        "students": _compared(students, known.students, ("full_name", "email")),
        "courses": _compared(courses, known.courses, ("code", "title")),
        "enrollments": Counter(),
    }
    there = {
        "student": {row.sent.external_id for row in students} | known.students.keys(),
        "course": {row.sent.external_id for row in courses} | known.courses.keys(),
    }
    counts = outcome.counts["enrollments"]
    for row in pairs:
        unknown = [kind for kind, one in zip(there, row.shown, strict=True) if one not in there[kind]]
        if unknown:
            reason = f"{unknown[0].upper()}_NOT_FOUND"
            outcome.refused.append(Refused("enrollments.csv", row.line, " ".join(row.shown), reason))
        else:
            counts["enrolled"] += 1
    counts["already_enrolled"] += len(export.enrolled) - len(pairs)


def _compared(rows: list[Row], known: dict[str, Any], names: tuple[str, ...]) -> Counter[str]:
    counts = Counter(created=0, updated=0, unchanged=0)
    for row in rows:
        before = known.get(row.sent.external_id)
        if before is None:
            counts["created"] += 1
        else:
            same = all(getattr(before, name) == getattr(row.sent, name) for name in names)
            counts["unchanged" if same else "updated"] += 1
    return counts


async def _remove(client: EnrollmentClient, removal: Removal, outcome: Outcome) -> None:
    """Removes an enrollment as it was seen; one that has changed or gone since is left to the next time."""
    try:
        await client.unenroll_student(removal.student_id, removal.course_id, etag=removal.etag, reason=REASON)
    except RefusedError as refusal:
        if refusal.reason not in ("ETAG_MISMATCH", "NOT_ENROLLED", "STUDENT_NOT_FOUND", "COURSE_NOT_FOUND"):
            raise
    else:
        outcome.removed += 1


async def _each(items: list[Item], work: Callable[[Item], Awaitable[None]], progress: Callable[[int], None]) -> None:
    """Works on all items, a few at a time."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)
            progress(1)

    workers = [asyncio.create_task(worker()) for _ in range(min(MAX_CALLS, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
