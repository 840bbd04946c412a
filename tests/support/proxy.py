"""A small TCP proxy before PostgreSQL, so that a connection can break exactly where a test wants it to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Passes bytes on in both directions until it is told to do otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._writers: set[asyncio.StreamWriter] = set()
        self.refusing = False
        # Is told what is sent to the database, and by which connection, before it is passed on.
        self.sent: Callable[[object, bytes], None] | None = None
        # Whoever sends this to the database loses the connection: before it is passed on, or after.
        self.cut_before: bytes | None = None
        self.cut_after: bytes | None = None
        self.cuts = 0
        # Whoever sends this is never answered again, and the connection stays open: before it is passed on, or after.
        self.silent_before: bytes | None = None
        self.silent_after: bytes | None = None
        self.silences = 0
        # Whoever sends this waits before it is passed on: `holding` says that somebody does, `released` lets go.
        self.held_before: bytes | None = None
        self.holding = asyncio.Event()
        self.released = asyncio.Event()
        self._frozen = False
        self._silent: set[asyncio.StreamWriter] = set()

    async def serve(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        if self.refusing:
            client_writer.close()
            return
        if self._frozen:
            self._writers.add(client_writer)
            await client_reader.read()
            client_writer.close()
            return
        try:
            reader, writer = await asyncio.open_connection(*self._target)
        except OSError:
            client_writer.transport.abort()
            return
        self._writers |= {client_writer, writer}
        try:
            await asyncio.gather(
                self._pass_on(client_reader, writer, client_writer),
                self._pass_on(reader, client_writer, None),
            )
        finally:
            for one in (client_writer, writer):
                one.close()
                self._writers.discard(one)
                self._silent.discard(one)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter | None
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if back is not None and self.sent:
                    self.sent(back, data)
                if back is not None and self.held_before and self.held_before in data:
                    self.held_before = None
                    self.holding.set()
                    await self.released.wait()
                if back is not None and self.cut_before and self.cut_before in data:
                    self._cut(back)
                    break
                # Closed towards the client first: it must not read an answer that the test says is lost.
                if back is not None and self.cut_after and self.cut_after in data:
                    self._cut(back)
                if back is not None and self.silent_before and self.silent_before in data:
                    self._silence(writer, back)
                if writer not in self._silent:
                    writer.write(data)
                    await writer.drain()
                if back is not None and self.silent_after and self.silent_after in data:
                    self._silence(back)
            if writer not in self._silent:
                writer.close()

    def _cut(self, writer: asyncio.StreamWriter) -> None:
        self.cuts += 1
        self.cut_before = self.cut_after = None
        writer.transport.abort()

    def _silence(self, *writers: asyncio.StreamWriter) -> None:
        self.silences += 1
        self.silent_before = self.silent_after = None
        self._silent |= set(writers)

    def silence(self) -> None:
        """Nothing passes on the present connections any more, and nobody is told; new ones are served."""
        self._silent |= self._writers

    def freeze(self) -> None:
        """As if the server stood still: connections are open, also new ones, and nothing is answered."""
        self._frozen = True
        self.silence()

    def thaw(self) -> None:
        """The server goes on for newcomers; what was sent to it before is lost, as after a failover."""
        self._frozen = False

    def lead_to(self, url: str) -> None:
        """New connections go to another server, or to the same on another port."""
        parts = urlsplit(url)
        self._target = parts.hostname or "127.0.0.1", parts.port or 5432

    def refuse(self) -> None:
        """Breaks all connections and accepts no new ones."""
        self.refusing = True
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def proxied(database_url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before a database, and the database's URL through it."""
    parts = urlsplit(database_url)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    login = parts.netloc.rpartition("@")[0]
    query = "&".join(filter(None, [parts.query, "sslmode=disable"]))
    try:
        yield proxy, urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}", query=query))
    finally:
        server.close()
        proxy.refuse()
        await server.wait_closed()
