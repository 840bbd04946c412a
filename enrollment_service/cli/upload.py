"""Sends a CSV file of enrollments to a running server: what the command `import` does with its file.

A client of ImportEnrollments like any other; it touches no database.
"""

from __future__ import annotations

import asyncio
import csv
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

import grpc

from enrollment_service.v1 import enrollment_pb2 as pb
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceStub

COLUMNS = ("student_id", "course_id")
LARGEST_ID = 2**63 - 1
MOST_TRIES = 10
PAUSE_SECONDS = 1.0


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
    """Rows that are sent, and resent, together."""

    chunk_id: int
    rows: list[Row]
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass
class Report:
    """What became of the rows of a file."""

    counts: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, chunk: Chunk, answer: pb.ImportEnrollmentsResponse) -> None:
        """Counts in the answer to a chunk."""
        for name in ("enrolled", "waitlisted", "already_enrolled"):
            self.counts[name] += getattr(answer, name)
        for one in answer.rejected_rows:
            row = chunk.rows[one.index]
            reason = pb.ErrorReason.Name(one.reason).removeprefix("ERROR_REASON_")
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


def chunks_of(reader: csv.DictReader[str], size: int, report: Report) -> Iterator[Chunk]:
    """The rows of the file in chunks; rows that have no ids go straight to the report."""
    chunk = Chunk(1, [])
    for values in reader:
        texts = [(values[name] or "").strip() for name in COLUMNS]
        if not all(text.isascii() and text.isdigit() and 0 < int(text) <= LARGEST_ID for text in texts):
            report.rejected.append(Rejected(reader.line_num, texts[0], texts[1], "INVALID_FIELD"))
            continue
        chunk.rows.append(Row(reader.line_num, *map(int, texts)))
        if len(chunk.rows) == size:
            yield chunk
            chunk = Chunk(chunk.chunk_id + 1, [])
    if chunk.rows:
        yield chunk


class Sender:
    """What is still to be sent, and what was sent and not answered yet."""

    def __init__(self, source: Iterator[Chunk], on_full: pb.OnFull) -> None:
        self._source = source
        self._on_full = on_full
        self._open: dict[int, Chunk] = {}
        self._problem: Exception | None = None

    async def requests(self) -> AsyncIterator[pb.ImportEnrollmentsRequest]:
        """First what a broken stream left without an answer, then the rest of the file."""
        for chunk in list(self._open.values()):
            yield _request(chunk, self._on_full)
        try:
            for chunk in self._source:
                self._open[chunk.chunk_id] = chunk
                yield _request(chunk, self._on_full)
        except (UnicodeDecodeError, csv.Error) as error:
            # gRPC would turn it into a cancellation; what was sent so far is answered first.
            self._problem = error

    def answered(self, chunk_id: int) -> Chunk:
        """The chunk that an answer is about."""
        return self._open.pop(chunk_id)

    def check(self) -> None:
        """Raises UnreadableFileError if the file could not be read to its end."""
        if self._problem is not None:
            raise UnreadableFileError(f"not a CSV file in UTF-8 ({type(self._problem).__name__})")


async def import_file(
    path: Path, address: str, *, waitlist: bool, chunk_size: int, progress: Callable[[int], None]
) -> Report:
    """Sends the file; a stream that breaks is opened again and its open chunks resent with the same request ids.

    Args:
        path: the CSV file.
        address: host and port of the server.
        waitlist: whether rows that find a course full join its waitlist.
        chunk_size: rows per chunk, up to 10,000.
        progress: called with the number of rows of each chunk that was answered.

    Raises:
        UnreadableFileError: the file has no such columns, or is no CSV file further on; rows before that are sent.
        grpc.aio.AioRpcError: the server refused a chunk, or could not be reached for too long.
    """
    report = Report()
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            source = chunks_of(rows_of(file), chunk_size, report)
        except UnicodeDecodeError as error:
            raise UnreadableFileError("not a CSV file in UTF-8") from error
        sender = Sender(source, pb.ON_FULL_WAITLIST if waitlist else pb.ON_FULL_REJECT)
        async with grpc.aio.insecure_channel(address) as channel:
            stub = EnrollmentServiceStub(channel)
            tries = 0
            while True:
                try:
                    async for answer in stub.ImportEnrollments(sender.requests(), wait_for_ready=True):
                        chunk = sender.answered(answer.chunk_id)
                        report.add(chunk, answer)
                        progress(len(chunk.rows))
                        tries = 0
                except grpc.aio.AioRpcError as error:
                    tries += 1
                    if error.code() is not grpc.StatusCode.UNAVAILABLE or tries == MOST_TRIES:
                        raise
                    await asyncio.sleep(PAUSE_SECONDS)
                else:
                    sender.check()
                    report.rejected.sort()
                    return report


def _request(chunk: Chunk, on_full: pb.OnFull) -> pb.ImportEnrollmentsRequest:
    return pb.ImportEnrollmentsRequest(
        chunk_id=chunk.chunk_id,
        student_ids=[row.student_id for row in chunk.rows],
        course_ids=[row.course_id for row in chunk.rows],
        on_full=on_full,
        request_id=chunk.request_id,
    )
