"""Sends the rows of a CSV file to a running server: what the command `import` does with its file.

A client of the import streams like any other; it touches no database. Which rows there are: rows.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from enrollment_service.cli.pace import Pace
from enrollment_service.cli.rows import ENROLLMENTS, KINDS, InvalidRowError, Kind, Row
from enrollment_service.cli.tables import Table, UnreadableFileError
from enrollment_service.cli.target import Target
from enrollment_service.client import EnrollmentClient
from enrollment_service.v1 import enrollment_pb2 as pb

# Of what is sent in a chunk; servers take messages of 4 MB.
MAX_CHUNK_BYTES = 1_000_000


class Rejected(NamedTuple):
    """A row that did not come in: its line in the file, what stood there, and why."""

    line: int
    shown: tuple[str, ...]
    reason: str


@dataclass
class Report:
    """What became of the rows of a file."""

    kind: Kind = ENROLLMENTS
    counts: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, rows: list[Row], answer: Any) -> None:
        """Counts in the answer to a chunk."""
        for name in self.kind.counts:
            self.counts[name] += getattr(answer, name)
        for rejected in answer.rejected_rows:
            row = rows[rejected.index]
            reason = pb.ErrorReason.Name(rejected.reason).removeprefix("ERROR_REASON_")
            self.rejected.append(Rejected(row.line, row.shown, reason))


def kind_of(columns: Sequence[str]) -> Kind:
    """The kind of rows that a file with these columns has.

    Raises:
        UnreadableFileError: it lacks a column, or has one twice.
    """
    for kind in KINDS:
        if set(kind.columns) <= set(columns):
            twice = [name for name in (*kind.columns, *kind.optional) if columns.count(name) > 1]
            if twice:
                raise UnreadableFileError(f"the first line names the column {twice[0]} more than once")
            return kind
    known = ", or ".join(" and ".join(kind.columns) for kind in KINDS)
    raise UnreadableFileError(f"the first line must name the columns {known}")


def chunks_of(rows: Iterable[Row], most: Callable[[], int]) -> Iterator[list[Row]]:
    """The rows in chunks, each of as many as there may be when it begins."""
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += row.sent.ByteSize() if hasattr(row.sent, "ByteSize") else 0
        if len(chunk) >= most() or size >= MAX_CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def valid_rows(kind: Kind, table: Table, report: Report) -> Iterator[Row]:
    """The rows that can be sent; the others go straight to the report."""
    seen: set[str] = set()
    used = [name for name in table.columns if name in kind.columns or name in kind.optional]
    for line, values in table:
        texts = {name: (values[name] or "").strip() for name in used}
        shown = tuple(texts[name] for name in kind.shown)
        try:
            # An empty field may clear something; one that is not there says nothing.
            if any(values[name] is None for name in used):
                raise InvalidRowError
            row = Row(line, shown, kind.read(texts))
        except (InvalidRowError, ValueError):
            report.rejected.append(Rejected(line, shown, "INVALID_FIELD"))
            continue
        if "external_id" in kind.shown:
            # The first row with an external id counts, in whichever chunk another comes.
            if shown[0] in seen:
                report.rejected.append(Rejected(line, shown, "INVALID_FIELD"))
                continue
            seen.add(shown[0])
        yield row


async def send(
    client: EnrollmentClient,
    kind: Kind,
    rows: Iterable[Row],
    report: Report,
    *,
    columns: Iterable[str] = (),
    waitlist: bool = False,
    pace: Pace,
    patience: float,
    progress: Callable[[int], None],
) -> None:
    """Sends rows of a kind through the client, which sees to it that none is lost or counts twice.

    The arguments are those of `import_file`.
    """
    sent: dict[int, list[Row]] = {}

    def requests() -> Iterator[Any]:
        for number, chunk in enumerate(chunks_of(rows, lambda: min(pace.rows, kind.most)), 1):
            sent[number] = chunk
            request = kind.request([row.sent for row in chunk], list(columns))
            request.chunk_id = number
            if waitlist:
                request.on_full = pb.ON_FULL_WAITLIST
            yield request

    async for answer in getattr(client, kind.method)(requests(), answer_timeout=patience):
        chunk = sent.pop(answer.chunk_id)
        report.add(chunk, answer)
        pace.answered(len(chunk))
        progress(len(chunk))


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
    """Sends a file.

    Args:
        path: the CSV file.
        target: where the server is, and with what to call it.
        report: is kept up to date on the way, so that it tells how far it got however this ends.
        waitlist: whether enrollments that find a course full join its waitlist.
        chunk_size: rows per chunk, up to 10,000; by default what the server takes a tenth of a second for.
        patience: how long to wait for an answer, and then to go on trying, in seconds.
        progress: called with the number of rows of each chunk that was answered.

    Raises:
        UnreadableFileError: the file has no such columns, or is no CSV file further on; rows before that are sent.
        ServiceError: the server refused a chunk, or could not be reached for too long.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = Table(file)
        report.kind = kind_of(table.columns)
        async with target.client(budget=patience) as client:
            await send(
                client,
                report.kind,
                valid_rows(report.kind, table, report),
                report,
                columns=table.columns,
                waitlist=waitlist and report.kind.method == "import_enrollments",
                pace=Pace(chunk_size),
                patience=patience,
                progress=progress,
            )
