"""A reader of a publication, as programs for change data capture are: a replication slot, and pgoutput's messages.

The messages are those of PostgreSQL's manual, "Logical Replication Message Formats", version 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from tests.support.databases import Connection

Row = dict[str, str | None]
_CHANGES = (
    "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', $2)"
)
BEGIN, COMMIT, RELATION, INSERT = b"BCRI"


class Outbox:
    """A slot on a publication."""

    def __init__(self, connection: Connection, publication: str, slot: str) -> None:
        self._connection = connection
        self._publication = publication
        self._slot = slot
        self.messages: list[bytes] = []

    async def open(self) -> None:
        """From now on, what is committed comes."""
        await self._connection.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", self._slot)

    async def close(self) -> None:
        """Gives up the slot, for which PostgreSQL would keep its write-ahead log for ever."""
        await self._connection.execute("SELECT pg_drop_replication_slot($1)", self._slot)

    async def new(self) -> list[tuple[str, Row]]:
        """What was inserted since the last time: the table, and the row as text, in the order of the commits."""
        rows = await self._connection.fetch(_CHANGES, self._slot, self._publication)
        messages = [row["data"] for row in rows]
        self.messages += messages
        return list(inserted(messages))


def inserted(messages: Iterable[bytes]) -> Iterator[tuple[str, Row]]:
    """The rows that messages tell of; any kind of change but an insert is a mistake."""
    tables: dict[int, tuple[str, list[str]]] = {}
    for message in messages:
        assert message[0] in (BEGIN, COMMIT, RELATION, INSERT), message[:1]
        if message[0] == RELATION:
            (oid,) = struct.unpack_from("!I", message, 1)
            _, table, rest = message[5:].split(b"\0", 2)
            tables[oid] = table.decode(), list(_columns(rest[1:]))
        elif message[0] == INSERT:
            (oid,) = struct.unpack_from("!I", message, 1)
            table_name, columns = tables[oid]
            yield table_name, dict(zip(columns, _values(message[6:]), strict=True))


def _columns(rest: bytes) -> Iterator[str]:
    (count,) = struct.unpack_from("!H", rest)
    rest = rest[2:]
    for _ in range(count):
        name, rest = rest[1:].split(b"\0", 1)
        rest = rest[8:]  # its type
        yield name.decode()


def _values(rest: bytes) -> Iterator[str | None]:
    (count,) = struct.unpack_from("!H", rest)
    place = 2
    for _ in range(count):
        kind = rest[place : place + 1]
        place += 1
        if kind == b"n":
            yield None
            continue
        (length,) = struct.unpack_from("!I", rest, place)
        place += 4 + length
        yield rest[place - length : place].decode()
