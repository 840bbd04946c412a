"""Sends a CSV file of enrollments to a running server: what the command `import` does with its file.

A client of ImportEnrollments like any other; it touches no database.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

from enrollment_service.cli.pace import Pace
from enrollment_service.cli.target import Target
from enrollment_service.v1 import enrollment_pb2 as pb

COLUMNS = ("student_id", "course_id")
LARGEST_ID = 2**63 - 1
MAX_DIGITS = len(str(LARGEST_ID))


class UnreadableFileError(Exception):
    """The file is not a CSV file with the columns `student_id` and `course_id`."""


class Rejected(NamedTuple):
    """A row that was not enrolled: its line in the file, what stood there, and why."""

    line: int
    student_id: str
    course_id: str
    reason: str


class Row(NamedTuple):
    """A row that can be sent."""

    line: int
    student_id: int
    course_id: int


@dataclass
class Chunk:
    """Rows that are sent together."""

    chunk_id: int
    rows: list[Row]


@dataclass
class Report:
    """What became of the rows of a file."""

    counts: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, chunk: Chunk, answer: pb.ImportEnrollmentsResponse) -> None:
        """Counts in the answer to a chunk."""
        for name in ("enrolled", "waitlisted", "already_enrolled"):
            self.counts[name] += getattr(answer, name)
        for rejected in answer.rejected_rows:
            row = chunk.rows[rejected.index]
            reason = pb.ErrorReason.Name(rejected.reason).removeprefix("ERROR_REASON_")
            self.rejected.append(Rejected(row.line, str(row.student_id), str(row.course_id), reason))


def rows_of(file: TextIO) -> csv.DictReader[str]:
    """A reader of the file, past its header.

    Raises:
        UnreadableFileError: the header lacks a column.
    """
    reader = csv.DictReader(file)
    if not set(COLUMNS) <= set(reader.fieldnames or ()):
        raise UnreadableFileError(f"the first line must name the columns {' and '.join(COLUMNS)}")
    return reader


def chunks_of(reader: csv.DictReader[str], pace: Pace, report: Report) -> Iterator[Chunk]:
    """The rows of the file in chunks; rows that have no ids go straight to the report."""
    chunk = Chunk(1, [])
    for values in reader:
        texts = [(values[name] or "").strip() for name in COLUMNS]
        student_id, course_id = map(_id_in, texts)
        if student_id is None or course_id is None:
            report.rejected.append(Rejected(reader.line_num, texts[0], texts[1], "INVALID_FIELD"))
            continue
        chunk.rows.append(Row(reader.line_num, student_id, course_id))
        if len(chunk.rows) >= pace.rows:
            yield chunk
            chunk = Chunk(chunk.chunk_id + 1, [])
    if chunk.rows:
        yield chunk


def _id_in(text: str) -> int | None:
    digits = text.lstrip("0")
    # The length first: Python refuses to read a number of thousands of digits.
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS and int(digits) <= LARGEST_ID):
        return None
    return int(digits)


async def import_file(
    path: Path,
    target: Target,
    report: Report,
    *,
    waitlist: bool,
    chunk_size: int | None,
    patience: float,
    progress: Callable[[int], None],
) -> None:
    """Sends the file through the client, which sees to it that no row is lost or counts twice.

    Args:
        path: the CSV file.
        target: where the server is, and with what to call it.
        report: is kept up to date on the way, so that it tells how far it got however this ends.
        waitlist: whether rows that find a course full join its waitlist.
        chunk_size: rows per chunk, up to 10,000; by default what the server takes a tenth of a second for.
        patience: how long to wait for an answer, and then to go on trying, in seconds.
        progress: called with the number of rows of each chunk that was answered.

    Raises:
        UnreadableFileError: the file has no such columns, or is no CSV file further on; rows before that are sent.
        ServiceError: the server refused a chunk, or could not be reached for too long.
    """
    on_full = pb.ON_FULL_WAITLIST if waitlist else pb.ON_FULL_REJECT
    pace = Pace(chunk_size)
    sent: dict[int, Chunk] = {}

    def requests() -> Iterator[pb.ImportEnrollmentsRequest]:
        for chunk in chunks_of(rows_of(file), pace, report):
            sent[chunk.chunk_id] = chunk
            yield _request(chunk, on_full)

    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            async with target.client(budget=patience) as client:
                async for answer in client.import_enrollments(requests(), answer_timeout=patience):
                    chunk = sent.pop(answer.chunk_id)
                    report.add(chunk, answer)
                    pace.answered(len(chunk.rows))
                    progress(len(chunk.rows))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UnreadableFileError(f"not a CSV file in UTF-8 ({type(error).__name__})") from error


def _request(chunk: Chunk, on_full: pb.OnFull) -> pb.ImportEnrollmentsRequest:
    return pb.ImportEnrollmentsRequest(
        chunk_id=chunk.chunk_id,
        student_ids=[row.student_id for row in chunk.rows],
        course_ids=[row.course_id for row in chunk.rows],
        on_full=on_full,
    )
