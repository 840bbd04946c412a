"""Turns by themselves: how many run, how many wait, who is refused, and what becomes of those who go away."""

from __future__ import annotations

import asyncio

import pytest

from enrollment_service.domain.errors import Overloaded
from enrollment_service.engine.turns import Turns


class Crowd:
    """Takes turns and keeps them until it is told to let go."""

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self._turns = Turns(max_running=max_running, max_waiting=max_waiting)
        self.running: list[str] = []
        self._leaves: dict[str, asyncio.Event] = {}

    async def _take(self, name: str) -> None:
        async with self._turns.take():
            self.running.append(name)
            try:
                await self._leaves[name].wait()
            finally:
                self.running.remove(name)

    async def come(self, *names: str) -> list[asyncio.Task[None]]:
        """Tasks that have their turn, wait for it, or were refused."""
        self._leaves |= {name: asyncio.Event() for name in names}
        tasks = [asyncio.create_task(self._take(name)) for name in names]
        await settle()
        return tasks

    async def leave(self, *names: str) -> None:
        """Ends turns."""
        for name in names:
            self._leaves[name].set()
        await settle()


async def settle() -> None:
    """Lets everybody do what they can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_run_and_the_others_follow_in_order() -> None:
    crowd = Crowd(max_running=2, max_waiting=9)
    tasks = await crowd.come("a", "b", "c", "d")
    assert crowd.running == ["a", "b"]
    await crowd.leave("b")
    assert crowd.running == ["a", "c"]
    await crowd.leave("a", "c")
    assert crowd.running == ["d"]
    await crowd.leave("d")
    await asyncio.gather(*tasks)


async def test_so_many_wait_and_the_next_is_refused() -> None:
    crowd = Crowd(max_running=1, max_waiting=1)
    first, second, third = await crowd.come("a", "b", "c")
    with pytest.raises(Overloaded):
        await third
    await crowd.leave("a")
    (fourth,) = await crowd.come("d")
    assert crowd.running == ["b"]
    await crowd.leave("b", "d")
    await asyncio.gather(first, second, fourth)


async def test_nobody_waits_where_nobody_may() -> None:
    crowd = Crowd(max_running=1, max_waiting=0)
    first, second = await crowd.come("a", "b")
    with pytest.raises(Overloaded):
        await second
    await crowd.leave("a")
    await first
    await crowd.come("c")
    assert crowd.running == ["c"]
    await crowd.leave("c")


async def test_whoever_goes_away_makes_room() -> None:
    crowd = Crowd(max_running=1, max_waiting=1)
    first, second = await crowd.come("a", "b")
    second.cancel()
    await settle()
    (third,) = await crowd.come("c")
    first.cancel()
    await settle()
    assert crowd.running == ["c"]
    await crowd.leave("c")
    await third
