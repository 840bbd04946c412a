"""Structured logs: one JSON object a line on standard output. Ids, codes and durations; never a name, address or body.

Here is what a line says; `sink.py` writes it.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson
import structlog

from enrollment_service.telemetry.sink import LogSink


def _line(level: str, fields: MutableMapping[str, Any]) -> bytes:
    fields["level"] = level
    fields["timestamp"] = datetime.now(UTC)
    return orjson.dumps(fields, option=orjson.OPT_UTC_Z)


def _dropped_line(count: int) -> bytes:
    return _line("warning", {"event": "log lines dropped", "count": count})


def _standard_output() -> BinaryIO:
    return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)


class _Logger:
    """What structlog hands its finished lines to."""

    def __init__(self, sink: LogSink) -> None:
        self._sink = sink

    def debug(self, line: bytes) -> None:
        self._sink.add(line)

    info = debug

    def warning(self, line: bytes) -> None:
        self._sink.add(line, urgent=True)

    error = critical = warning


def _render(_: Any, level: str, fields: MutableMapping[str, Any]) -> bytes:
    return _line(level, fields)


_sink: LogSink | None = None
_calls_shown = True


def call(level: str, fields: dict[str, Any]) -> None:
    """Writes the line of one call: what a logger would write, without its detours, for which every call would pay."""
    if _sink is not None and (_calls_shown or level == "error"):
        fields["event"] = "call"
        _sink.add(_line(level, fields), urgent=level == "error")


def dropped_lines() -> int:
    """How many lines of this process were dropped so far."""
    return 0 if _sink is None else _sink.dropped


def configure(level: str, file: BinaryIO | None = None) -> LogSink:
    """Sends all logs of this process, the libraries' warnings too, to one stream of JSON lines."""
    global _sink, _calls_shown  # noqa: PLW0603 - one stream per process
    _sink = sink = LogSink(file or _standard_output(), _dropped_line)
    _calls_shown = level in ("debug", "info")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Logger(sink),
        processors=[_render],
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryHandler()], force=True)
    return sink


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
