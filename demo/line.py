"""A network line that can lose answers: what goes to the server arrives, what comes back is swallowed."""

from __future__ import annotations

import asyncio
from typing import Self

_CHUNK = 65_536


class Line:
    """A relay to the server on a port of its own. Set `deaf` once connected, and callers hear nothing more."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._relay: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self.address = ""
        self.deaf = False

    async def __aenter__(self) -> Self:
        self._relay = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._relay.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def cut(self) -> None:
        """Breaks every connection; there will be no more."""
        if self._relay is not None:
            self._relay.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.create_task(self._carry(reader, writer))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(self._host, int(self._port))
        except OSError:
            writer.close()
            return
        ways = [
            asyncio.create_task(self._pump(reader, server_writer, back=False)),
            asyncio.create_task(self._pump(server_reader, writer, back=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.close()
            server_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        while chunk := await reader.read(_CHUNK):
            if not (back and self.deaf):
                writer.write(chunk)
                await writer.drain()
