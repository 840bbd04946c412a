"""The messages of PostgreSQL's protocol that a driver sends, cut out of the bytes on their way."""

from __future__ import annotations

from collections.abc import Iterator

# The first byte of a message.
PARSE, QUERY, COPY_DATA = b"P", b"Q", b"d"


class Messages:
    """What one connection sends, without encryption."""

    def __init__(self) -> None:
        self._bytes = b""
        self._started = False

    def read(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The messages that have become complete: the kind of each, and what it says."""
        self._bytes += data
        while True:
            # The very first message has no kind.
            head = 1 if self._started else 0
            length = int.from_bytes(self._bytes[head : head + 4])
            if len(self._bytes) < head + 4 or len(self._bytes) < head + length:
                return
            kind, text = self._bytes[:head], self._bytes[head + 4 : head + length]
            self._bytes = self._bytes[head + length :]
            self._started = True
            yield kind, text
