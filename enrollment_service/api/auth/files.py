"""Files of an operator that are read again when they change: certificates, keys, and who is who."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from enrollment_service.telemetry.seldom import Seldom

log = structlog.get_logger()

LOOK_SECONDS = 1.0
TELL_SECONDS = 60.0

Content = TypeVar("Content")


class UnusableFileError(Exception):
    """A file cannot be read, or does not hold what it should. The text names the setting, and quotes nothing."""


class Watched(Generic[Content]):
    """What some files say together. Once it was usable, files that are not leave what was known.

    Args:
        name: the setting, for messages.
        paths: the files.
        parse: from their bytes to what they say; raises ValueError with a reason where they say nothing usable.

    Raises:
        UnusableFileError: they are not usable now.
    """

    def __init__(self, name: str, paths: Sequence[str], parse: Callable[..., Content]) -> None:
        self._name = name
        self._paths = [Path(path) for path in paths]
        self._parse = parse
        self._seldom = Seldom(TELL_SECONDS)
        self._seen = self._state()
        self._content = self._read()
        self._next_look = time.monotonic() + LOOK_SECONDS

    def latest(self) -> Content:
        """What they say, not older than a second."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look()
        return self._content

    def _look(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        try:
            self._content = self._read()
        except UnusableFileError as error:
            # Perhaps only half of it is written yet: the next look tries again.
            if self._seldom.due(str(error)):
                log.error("file not usable, keeping what was known", setting=self._name, problem=str(error))
        else:
            self._seen = state
            log.info("file read again", setting=self._name)

    def _state(self) -> list[tuple[int, int, int] | None]:
        """What changes when a file is written to or replaced."""
        return [_state_of(path) for path in self._paths]

    def _read(self) -> Content:
        try:
            return self._parse(*(path.read_bytes() for path in self._paths))
        except OSError as error:
            raise UnusableFileError(f"{self._name}: {error.strerror or 'cannot be read'}") from None
        except ValueError as error:
            raise UnusableFileError(f"{self._name}: {error}") from None


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
