"""Where finished log lines go: a thread of its own writes them, so that no call ever waits for who reads the log.

Whoever adds a line only queues it. Where lines come faster than they are read, or nobody can read them any more, they
are dropped and counted, and the next line that gets through says how many.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

# Lines are gathered for a moment, because a write for each costs more than everything else in it.
GATHER_SECONDS = 0.1
MAX_WAITING_LINES = 20_000
# What Linux writes to a pipe as one (PIPE_BUF), so that lines of several processes never mix.
PIPE_BYTES = 4096
FILE_BYTES = 64 * 1024


class LogSink:
    """Writes lines to a file in the background."""

    def __init__(self, file: BinaryIO, dropped_line: Callable[[int], bytes]) -> None:
        """Nothing is written before the first line.

        Args:
            file: where to write; unbuffered, or else it is flushed after each write.
            dropped_line: makes the line that says how many lines were dropped.
        """
        self._file = file
        self._dropped_line = dropped_line
        self._max_bytes = PIPE_BYTES if _is_pipe(file) else FILE_BYTES
        self._lines: deque[bytes] = deque()
        self._overflowed = 0  # counted by those who add
        self._lost = 0  # counted by the thread that writes
        self._reported = 0
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._idle = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """How many lines have been dropped so far."""
        return self._overflowed + self._lost

    def add(self, line: bytes, *, urgent: bool = False) -> None:
        """Queues a line; it is written within GATHER_SECONDS, or at once where it is urgent."""
        if len(self._lines) >= MAX_WAITING_LINES:
            self._overflowed += 1
            return
        self._lines.append(line)
        if urgent:
            self._urgent.set()
        if not self._wake.is_set():
            self._idle.clear()
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()

    def flush(self, timeout: float = 1.0) -> None:
        """Waits until everything is written, for so many seconds at most."""
        deadline = time.monotonic() + timeout
        while self._thread is not None and self._lines and time.monotonic() < deadline:
            self._urgent.set()
            self._wake.set()
            self._idle.wait(0.01)
        if self._thread is not None:
            self._idle.wait(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._urgent.wait(GATHER_SECONDS)
            self._urgent.clear()
            self._wake.clear()
            while self._lines:
                self._write(*self._next_piece())
            if not self._wake.is_set():
                self._idle.set()

    def _next_piece(self) -> tuple[bytes, int]:
        """Whole lines that are written as one, and how many."""
        lines: list[bytes] = []
        size = 0
        while self._lines and (not lines or size + len(self._lines[0]) < self._max_bytes):
            lines.append(self._lines.popleft())
            size += len(lines[-1]) + 1
        return b"\n".join([*lines, b""]), len(lines)

    def _write(self, piece: bytes, lines: int) -> None:
        dropped = self.dropped
        if dropped > self._reported:
            piece = self._dropped_line(dropped - self._reported) + b"\n" + piece
        try:
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]
            self._file.flush()
        except (OSError, ValueError):
            # Nobody reads any more, or the disk is full.
            self._lost += lines
        else:
            self._reported = dropped


def _is_pipe(file: BinaryIO) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    except OSError:
        return False
