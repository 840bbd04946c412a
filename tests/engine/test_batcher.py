"""The natural batcher by itself: what goes together, who is left out, and what everybody learns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from enrollment_service.domain.errors import Overloaded, ShuttingDown
from enrollment_service.engine.batcher import Batcher
from tests.support.locks import until


class Runner:
    """Answers items with their doubles once it is let; remembers the batches. Strings come back as errors."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = asyncio.Event()
        self.error: Exception | None = None

    async def run(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(items))
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return [ValueError(item) if item < 0 else item * 2 for item in items]

    async def started(self, batches: int = 1) -> None:
        await until(lambda: len(self.batches) == batches)


@pytest.fixture
def runner() -> Runner:
    return Runner()


def batcher_of(runner: Runner, *, max_weight: int = 100, max_waiting: int = 100) -> Batcher[int, int]:
    return Batcher(runner.run, max_weight=max_weight, max_waiting=max_waiting, weigh=abs)


async def submitted(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    """Tasks whose items are in the queue, or already with the runner."""
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_a_lone_item_waits_for_nobody(runner: Runner) -> None:
    runner.free.set()
    assert await batcher_of(runner).submit(1) == 2
    assert runner.batches == [[1]]


async def test_while_a_batch_is_under_way_the_next_one_forms_in_order_of_arrival(runner: Runner) -> None:
    batcher = batcher_of(runner)
    first = await submitted(batcher, 1)
    await runner.started()
    others = await submitted(batcher, 4, 2, 3)
    runner.free.set()
    assert await asyncio.gather(*first, *others) == [2, 8, 4, 6]
    assert runner.batches == [[1], [4, 2, 3]]


async def test_items_that_arrive_together_go_together(runner: Runner) -> None:
    runner.free.set()
    batcher = batcher_of(runner)
    assert await asyncio.gather(*(batcher.submit(item) for item in (1, 2, 3))) == [2, 4, 6]
    assert runner.batches == [[1, 2, 3]]


async def test_a_batch_is_no_heavier_than_allowed_unless_one_item_is(runner: Runner) -> None:
    runner.free.set()
    batcher = batcher_of(runner, max_weight=5)
    await asyncio.gather(*(batcher.submit(item) for item in (2, 3, 1, 9, 4, 1, 1)))
    assert runner.batches == [[2, 3], [1], [9], [4, 1], [1]]


async def test_a_caller_who_goes_away_is_left_out_of_a_batch_that_has_not_formed(runner: Runner) -> None:
    batcher = batcher_of(runner)
    tasks = await submitted(batcher, 1)
    await runner.started()
    tasks += await submitted(batcher, 2, 3)
    tasks[1].cancel()
    runner.free.set()
    assert list(await asyncio.gather(tasks[0], tasks[2])) == [2, 6]
    assert runner.batches == [[1], [3]]


async def test_if_all_callers_go_away_nothing_is_run(runner: Runner) -> None:
    batcher = batcher_of(runner)
    first, second = await submitted(batcher, 1, 2)
    first.cancel()
    second.cancel()
    await batcher.close()
    assert runner.batches == []


async def test_a_caller_who_goes_away_does_not_cancel_what_is_under_way(runner: Runner) -> None:
    batcher = batcher_of(runner)
    gone, stays = await submitted(batcher, 1, 2)
    await runner.started()
    gone.cancel()
    runner.free.set()
    assert await stays == 4
    assert gone.cancelled()
    assert runner.batches == [[1, 2]]


async def test_an_exception_of_the_run_answers_all_and_the_next_batch_goes_on(runner: Runner) -> None:
    batcher = batcher_of(runner)
    tasks = await submitted(batcher, 1, 2)
    await runner.started()
    runner.error = RuntimeError("broken")
    runner.free.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(answer is runner.error for answer in answers)
    runner.error = None
    assert await batcher.submit(3) == 6


async def test_an_exception_among_the_answers_is_that_items_alone(runner: Runner) -> None:
    runner.free.set()
    batcher = batcher_of(runner)
    one, two, three = await asyncio.gather(*(batcher.submit(item) for item in (1, -2, 3)), return_exceptions=True)
    assert (one, three) == (2, 6)
    assert isinstance(two, ValueError)


async def test_too_many_waiting_items_are_refused(runner: Runner) -> None:
    batcher = batcher_of(runner, max_waiting=2)
    tasks = await submitted(batcher, 1)
    await runner.started()
    tasks += await submitted(batcher, 2, 3)
    with pytest.raises(Overloaded):
        await batcher.submit(4)
    runner.free.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6]
    assert await batcher.submit(4) == 8


async def test_whoever_cannot_be_served_in_time_is_refused_at_once(runner: Runner) -> None:
    batcher = batcher_of(runner, max_weight=2)
    clock = asyncio.get_running_loop().time
    tasks = await submitted(batcher, 1)
    await runner.started()
    await asyncio.sleep(0.1)  # what the batcher learns: a batch takes so long
    runner.free.set()
    await asyncio.gather(*tasks)
    runner.free.clear()
    tasks = await submitted(batcher, 1)
    await runner.started(2)
    # The queue is empty: nobody knows how soon the batch that is under way will be back.
    tasks.append(asyncio.create_task(batcher.submit(2, clock() + 0.01)))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit(2, clock() + 0.01)
    tasks += [asyncio.create_task(batcher.submit(2, clock() + 60)), asyncio.create_task(batcher.submit(2))]
    await until(lambda: len(batcher._queue) == 3)
    runner.free.set()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_is_late_never_enters_a_batch(runner: Runner) -> None:
    batcher = batcher_of(runner)
    clock = asyncio.get_running_loop().time
    tasks = await submitted(batcher, 1)
    await runner.started()
    late = clock() + 0.01
    tasks += [asyncio.create_task(batcher.submit(2, late)), asyncio.create_task(batcher.submit(3, late + 60))]
    await until(lambda: clock() > late)
    runner.free.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert (answers[0], answers[2]) == (2, 6)
    assert isinstance(answers[1], TimeoutError)
    assert runner.batches == [[1], [3]]


async def test_close_answers_everybody_who_waits_and_refuses_newcomers(runner: Runner) -> None:
    batcher = batcher_of(runner, max_weight=2)
    tasks = await submitted(batcher, 1)
    await runner.started()
    tasks += await submitted(batcher, 2, 1, 1)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await batcher.submit(5)
    assert not closing.done()
    runner.free.set()
    await closing
    assert [task.result() for task in tasks] == [2, 4, 2, 2]


async def test_close_of_an_idle_batcher_returns_at_once(runner: Runner) -> None:
    batcher = batcher_of(runner)
    await batcher.close()
    with pytest.raises(ShuttingDown):
        await batcher.submit(1)
