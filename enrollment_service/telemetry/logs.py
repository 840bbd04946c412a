"""Structured logs: one JSON object a line on standard output. Ids, codes and durations; never a name, address or body.

Lines of calls are buffered for a moment, because a write for each costs more than everything else in it. Warnings
and errors are written at once.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson
import structlog

FLUSH_SECONDS = 0.1
FLUSH_LINES = 500
PIPE_BYTES = 4096  # PIPE_BUF: what Linux writes to a pipe as one


class LineBuffer:
    """Collects finished lines and writes many of them at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lines: list[bytes] = []
        self._lock = threading.Lock()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, line: bytes) -> None:
        """Takes a line; it is written within FLUSH_SECONDS, or at once where no event loop runs."""
        self._lines.append(line)
        if len(self._lines) >= FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            except RuntimeError:
                self.flush()

    def flush(self) -> None:
        """Writes what has been collected."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            lines, self._lines = self._lines, []
            for piece in _pieces(lines):
                self._file.write(piece)
                self._file.flush()


def _pieces(lines: list[bytes]) -> Iterator[bytes]:
    """Whole lines in pieces that a pipe takes at once, so that lines of several processes never mix."""
    piece = b""
    for line in lines:
        if piece and len(piece) + len(line) >= PIPE_BYTES:
            yield piece
            piece = b""
        piece += line + b"\n"
    if piece:
        yield piece


class _Logger:
    """What structlog hands its finished lines to."""

    def __init__(self, buffer: LineBuffer) -> None:
        self._buffer = buffer

    def debug(self, line: bytes) -> None:
        self._buffer.add(line)

    info = debug

    def warning(self, line: bytes) -> None:
        self._buffer.add(line)
        self._buffer.flush()

    error = critical = warning


_sink = LineBuffer(sys.stdout.buffer)
_calls_shown = True


def call(level: str, fields: dict[str, Any]) -> None:
    """Writes the line of one call. Looks like structlog's lines, without its way there: this is every call's cost."""
    if _calls_shown or level == "error":
        fields["event"] = "call"
        fields["level"] = level
        fields["timestamp"] = datetime.now(UTC)
        _sink.add(orjson.dumps(fields, option=orjson.OPT_UTC_Z))
        if level == "error":
            _sink.flush()


def configure(level: str, file: BinaryIO | None = None) -> LineBuffer:
    """Sends all logs of this process, the libraries' warnings too, to one buffered stream of JSON lines."""
    global _sink, _calls_shown  # noqa: PLW0603 - one stream per process
    _sink = buffer = LineBuffer(file or sys.stdout.buffer)
    _calls_shown = level in ("debug", "info")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Logger(buffer),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryHandler()], force=True)
    return buffer


class _LibraryHandler(logging.Handler):
    """Says that a library logged something, and where, but not its text, which may quote data."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name, "at": f"{record.module}:{record.lineno}"}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = describe(record.exc_info[1])
        structlog.get_logger().warning("library", **fields)


def describe(error: BaseException) -> dict[str, Any]:
    """What may be logged of an exception: its type, its SQLSTATE and where it came from, never its text."""
    frames = traceback.extract_tb(error.__traceback__)
    described: dict[str, Any] = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "trace": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if state := getattr(error, "sqlstate", None):
        described["sqlstate"] = state
    if error.__cause__ is not None:
        described["cause"] = describe(error.__cause__)
    return described
