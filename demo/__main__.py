"""`python -m demo`: play a registration morning, show it, and tell by the exit status whether every claim held."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import click
from rich.console import Console
from rich.live import Live

from demo import mishaps, morning, screen
from demo.board import Board
from demo.client import Client
from demo.feed import Feed
from demo.office import Office
from demo.scene import Scene

CHAPTERS: tuple[Callable[[Scene], Awaitable[None]], ...] = (
    morning.open_doors,
    morning.stampede,
    morning.move_queue,
    morning.swap_courses,
    morning.ask_what_if,
    mishaps.lose_answer,
    mishaps.cut_power,
    morning.add_seats,
    mishaps.audit,
)
_LONGEST = 180  # seconds for the whole morning
_FRAMES_PER_SECOND = 12
_INTERRUPTED = 130


@click.command()
@click.option("--fast", is_flag=True, help="No pauses to read; always so when the output is not a terminal.")
def main(fast: bool) -> None:
    """Play a registration morning against a real server and a PostgreSQL of its own.

    Exit status 0 if everything it claims held, 1 if not.
    """
    console = Console()
    live = console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")
    board = Board(live=live, fast=fast or not live, chapters=len(CHAPTERS))
    sys.exit(_run(board, console))


def _run(board: Board, console: Console) -> int:
    try:
        with Office() as office:
            try:
                asyncio.run(_play(board, office, console))
            except Exception as error:  # noqa: BLE001 - whatever it is, say it and clean up
                board.claim("The morning ran to its end", False, f"{type(error).__name__}: {error}")
                click.echo(office.log_tail(), err=True)
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("Interrupted.", err=True)
        return _INTERRUPTED
    _sum_up(board, console)
    return 1 if board.broken else 0


async def _play(board: Board, office: Office, console: Console) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with asyncio.timeout(_LONGEST):
        if not board.live:
            await _chapters(board, office)
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            painter = asyncio.create_task(_paint(live, board))
            try:
                await _chapters(board, office)
            finally:
                painter.cancel()


async def _paint(live: Live, board: Board) -> None:
    while True:
        live.update(screen.picture(board, *live.console.size), refresh=True)
        await asyncio.sleep(1 / _FRAMES_PER_SECOND)


async def _chapters(board: Board, office: Office) -> None:
    board.caption = "A private PostgreSQL and a real server process start."
    version = await asyncio.to_thread(office.start_database)
    board.tell(f"PostgreSQL {version} runs in a temporary folder, migrated.")
    pid = await asyncio.to_thread(office.start_server)
    board.server = f"pid {pid}"
    board.tell(f"The server is process {pid} and serves on {office.address}.")
    await board.pause(0.8)
    client, feed = Client(office.address, board.counts), Feed(board, office.address)
    try:
        scene = Scene(board, client, feed, office)
        for chapter in CHAPTERS:
            await chapter(scene)
    finally:
        await feed.close()
        await client.close()


def _sum_up(board: Board, console: Console) -> None:
    if board.live:
        console.print(screen.summary(board))
        return
    held = len(board.claims) - len(board.broken)
    print(f"\n{held} of {len(board.claims)} claims held in {board.elapsed:.0f} seconds; ", end="")
    print(", ".join(f"{name} {number}" for name, number in sorted(board.counts.items())) + ".")
    for claim in board.broken:
        print(f"  NOT SO: {claim}")


if __name__ == "__main__":
    main(prog_name="python -m demo")
