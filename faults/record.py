"""What was asked and what was answered, one line of JSON each, written as it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

# How an operation can end: it took effect; it was refused and had none; nobody knows.
OK, REFUSED, UNKNOWN = "ok", "fail", "unknown"


@dataclass
class Operation:
    """One thing that a client wanted, however many calls that took.

    Attributes:
        number: counts all operations of a run.
        kind: `enroll`, `unenroll`, `swap`, `capacity` or `roster`.
        student_id: who, or 0.
        course_ids: where: to enter, to leave, or of a swap to leave and to enter.
        wait: whether a place in line will do.
        request_id: what events say that it caused; empty for a read.
        invoked: when the first call of it was sent, in seconds of the process's clock.
        returned: when its last answer came; while there is none, infinity.
        outcome: OK, REFUSED or UNKNOWN.
        answer: what the last answer said: enrollments, rows, or what it was refused for.
        codes: how each call of it ended, in gRPC's codes, and of refusals the reason.
    """

    number: int
    kind: str
    student_id: int
    course_ids: list[int]
    wait: bool = False
    request_id: str = ""
    capacity: int | None = None
    invoked: float = 0.0
    returned: float = float("inf")
    outcome: str = UNKNOWN
    answer: dict[str, Any] = field(default_factory=dict)
    codes: list[str] = field(default_factory=list)


class Recorder:
    """Keeps operations and writes their beginnings and ends to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self.operations: list[Operation] = []

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The file is open inside the block."""
        with self._path.open("w") as self._file:
            yield

    def begin(self, operation: Operation) -> None:
        """Writes down that an operation is about to be sent."""
        operation.invoked = time.monotonic()
        self.operations.append(operation)
        asked = {name: value for name, value in asdict(operation).items() if name not in _ANSWERED}
        self._write({"type": "invoke", **asked})

    def end(self, operation: Operation) -> None:
        """Writes down how an operation has ended."""
        operation.returned = time.monotonic()
        ended = {"number": operation.number, "returned": operation.returned, "answer": operation.answer}
        self._write({"type": operation.outcome, **ended, "codes": operation.codes})

    def keep(self, events: Iterable[Any]) -> None:
        """Writes down, beside the operations, what was in the feed in the end."""
        with self._path.with_suffix(".events.jsonl").open("w") as file:
            file.writelines(json.dumps(asdict(event)) + "\n" for event in events)

    def _write(self, line: dict[str, Any]) -> None:
        assert self._file is not None  # noqa: S101 - for the type checker
        self._file.write(json.dumps(line) + "\n")


_ANSWERED = ("returned", "outcome", "answer", "codes")
