"""The patient lane: commands that need a row which others have locked wait here, so that nobody else has to.

Each such row has a queue, in order of arrival. A worker waits in PostgreSQL for one row, holding nothing else. Once it
has the row it decides the row's commands, and takes along those of other queues whose rows have become free meanwhile.
If the row stays locked for the lock timeout, everybody who waits for it is answered together. Where there are more rows
than workers, rows that one look finds free go first, and the others are waited for in short turns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from enrollment_service.domain.commands import Answer, Command
from enrollment_service.domain.errors import DatabaseUnavailable, Overloaded
from enrollment_service.domain.footprint import SOMETHING, Footprint, Row, rounds
from enrollment_service.engine.batch import Busy, Heavy
from enrollment_service.store.database import MAX_IDLE_IN_TRANSACTION_MS
from enrollment_service.store.locks import RowBusyError, end_frozen, find_busy
from enrollment_service.store.transactions import HeldConnection, told
from enrollment_service.telemetry import metrics

MAX_WORKERS = 3
# While so many rows are waited for that no worker is left, each is waited for so long at a time: a row that is busy
# only for a moment is never left behind those that are really held.
TURN_MS = 50
# Otherwise a row is waited for so long at a time. Then it is seen to it that no server which stands still holds it.
LONG_TURN_MS = MAX_IDLE_IN_TRANSACTION_MS
# What waits for something unknown cannot wait in PostgreSQL, so it is tried again after such a pause, in seconds. While
# it tries it holds its seats, and nobody else should have to notice.
PAUSE_SECONDS = 0.1

Results: TypeAlias = dict[Command[Any], Answer | Exception | Busy | Heavy]


class Entry(NamedTuple):
    """A command that waits: since when by the event loop's clock, for which row, and where its caller is answered."""

    since: float
    row: Row
    command: Command[Any]
    answer: asyncio.Future[Answer]


class Turn:
    """One try to serve a row, in a transaction that begins by waiting for it.

    Attributes:
        held: the connection to do it on.
        row: the row to wait for.
        max_wait_ms: for how long.
        free: the rows that were free a moment ago; None where nobody has looked.
        claimed: the rows whose queues are served with it; nobody else serves them meanwhile.
        entries: what is decided, by command.
        in_vain: whether somebody was tried who still has to wait.
    """

    def __init__(
        self, lane: PatientLane, held: HeldConnection, row: Row, max_wait_ms: int, free: set[Row] | None
    ) -> None:
        self._lane = lane
        self.held = held
        self.row = row
        self.max_wait_ms = max_wait_ms
        self.free = free
        self.claimed = [row]
        self.entries: dict[Command[Any], Entry] = {}
        self.in_vain = False

    def commands(self) -> list[Command[Any]]:
        """What is to be decided now that the row is locked; whose caller has gone meanwhile is left out."""
        if not self.entries:
            self._lane.form(self)
        return [command for command, entry in self.entries.items() if not entry.answer.done()]


class PatientLane:
    """Queues by row, and the workers that wait for them."""

    def __init__(
        self,
        hold: Callable[[], HeldConnection],
        run: Callable[[Turn], Awaitable[Results]],
        *,
        lock_timeout_ms: int,
        max_commands: int,
        max_waiting: int,
    ) -> None:
        """Nothing is opened before a row is busy.

        Args:
            hold: gives a worker its connection.
            run: serves a turn; raises RowBusyError if it has waited for the row in vain.
            lock_timeout_ms: how long a row is waited for in all.
            max_commands: in one transaction.
            max_waiting: commands in all queues; beyond it they are refused with OVERLOADED.
        """
        self._hold = hold
        self._run = run
        self._lock_timeout = lock_timeout_ms / 1000
        self._max_commands = max_commands
        self._max_waiting = max_waiting
        self._served = metrics.batches("patient")
        self._queues: dict[Row, deque[Entry]] = {}
        self._since: dict[Row, float] = {}
        # Rows that no worker is busy with, in the order in which they have their turn.
        self._turns: deque[Row] = deque()
        self._idle: list[HeldConnection] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._ended_at = float("-inf")
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return sum(map(len, self._queues.values()))

    def samples(self) -> list[metrics.Sample]:
        """What can be seen from outside."""
        return [
            (metrics.queue_depth("patient"), lambda: self.waiting),
            (metrics.patient_rows, lambda: len(self._queues)),
        ]

    def row_of(self, command: Command[Any]) -> Row | None:
        """The row in whose queue a newcomer must wait, so that it passes nobody who came before."""
        if not self._queues:
            return None
        return next((row for row in Footprint.of([command]).rows if row in self._queues), None)

    def add(self, row: Row, command: Command[Any]) -> asyncio.Future[Answer]:
        """Takes a command that needs a busy row; the answer is still to come."""
        loop = asyncio.get_running_loop()
        entry = Entry(loop.time(), row, command, loop.create_future())
        if self.waiting >= self._max_waiting:
            entry.answer.set_exception(Overloaded())
        else:
            self._put(entry)
        return entry.answer

    async def until_empty(self, max_wait: float) -> None:
        """Returns once nobody waits here, after so many seconds at the latest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), max_wait)

    async def close(self) -> None:
        """Answers everybody who waits, then gives the connections back."""
        await self._empty.wait()
        while self._workers:
            await asyncio.wait(self._workers)
        for held in self._idle:
            await held.close()

    def form(self, turn: Turn) -> None:
        """Chooses what a turn decides: the commands of its row, then of all rows that may have become free."""
        if turn.row != SOMETHING:
            # What waits for something unknown is never taken along: it would hold up whoever it travels with.
            along = {row for row in self._turns if row != SOMETHING and (turn.free is None or row in turn.free)}
            turn.claimed += [row for row in self._turns if row in along]
            self._turns = deque(row for row in self._turns if row not in along)
        waiting = [entry for row in turn.claimed for entry in self._drain(row)]
        chosen = self._chosen(turn.row, waiting)
        for entry in waiting:
            if entry.command in chosen:
                turn.entries[entry.command] = entry
            else:
                self._queues[entry.row].append(entry)

    def _chosen(self, row: Row, waiting: Sequence[Entry]) -> set[Command[Any]]:
        """What may share a transaction.

        Bulk commands may take long and wait for locks: each of them goes alone. Others that wait for locks do so from
        the row of the turn on, in the order of all, so that nobody waits in a circle.
        """
        if not waiting:
            return set()
        together = rounds([entry.command for entry in waiting])[0]
        first = together[0]
        if row == SOMETHING or first.bulk:
            return {first}
        if first.waits:
            here = {entry.command for entry in waiting if entry.row == row}
            together = [command for command in together if command in here]
        alike = [command for command in together if not command.bulk and command.waits == first.waits]
        return set(alike[: self._max_commands])

    def _put(self, entry: Entry) -> None:
        if entry.row not in self._queues:
            self._empty.clear()
            self._queues[entry.row] = deque()
            self._since[entry.row] = asyncio.get_running_loop().time()
            self._line_up(entry.row)
        self._queues[entry.row].append(entry)

    def _line_up(self, row: Row) -> None:
        """Gives a row a turn, after those that have theirs."""
        self._turns.append(row)
        self._employ()

    def _employ(self) -> None:
        """Starts a worker where one more may be of use."""
        # One that has just ended is still among them until its callback has run.
        if sum(not worker.done() for worker in self._workers) < MAX_WORKERS:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        held = self._idle.pop() if self._idle else self._hold()
        try:
            while self._turns:
                free = await self._free_rows(held) if self._crowded else None
                if turn := self._next_turn(held, free):
                    try:
                        await self._serve(turn)
                    finally:
                        self._give_back(turn)
        finally:
            self._idle.append(held)

    @property
    def _crowded(self) -> bool:
        """Whether more rows are waited for than there are workers to spare."""
        return len(self._queues) >= MAX_WORKERS

    async def _free_rows(self, held: HeldConnection) -> set[Row] | None:
        """The rows in line that nobody holds at this moment; None if that cannot be seen."""
        rows = {row for row in self._turns if row != SOMETHING}
        try:
            return rows - await held.transact(lambda connection: find_busy(connection, rows))
        except Exception:  # noqa: BLE001 - whoever has the next turn is told
            return None

    def _next_turn(self, held: HeldConnection, free: set[Row] | None) -> Turn | None:
        """A turn for the first row in line that is free, otherwise for the first one, if there is any left."""
        self._give_up()
        if not self._turns:
            return None
        row = next((row for row in self._turns if row in (free or ())), self._turns[0])
        self._turns.remove(row)
        return Turn(self, held, row, self._max_wait_ms(row), free)

    def _give_up(self) -> None:
        """Answers everybody who has waited long enough, whether or not it is the turn of their row."""
        for row in [row for row in self._turns if row != SOMETHING and self._remaining(self._since[row]) <= 0]:
            metrics.patient_turns_given_up.inc()
            for entry in self._drain(row):
                entry.answer.set_exception(DatabaseUnavailable())
            self._turns.remove(row)
            self._forget(row)

    def _forget(self, row: Row) -> None:
        """Removes a queue that is empty."""
        del self._queues[row], self._since[row]
        if not self._queues:
            self._empty.set()

    def _give_back(self, turn: Turn) -> None:
        """Rows that are still waited for have another turn, the one that has just been served last."""
        for row in reversed(turn.claimed):
            if self._queues[row] and row == SOMETHING and turn.in_vain:
                asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._line_up, row)
            elif self._queues[row]:
                self._turns.append(row)
            else:
                self._forget(row)
        if len(self._turns) > 1:
            self._employ()

    async def _serve(self, turn: Turn) -> None:
        if all(entry.answer.done() for entry in self._queues[turn.row]):
            self._queues[turn.row].clear()
            return
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            results = await self._run(turn)
        except RowBusyError:
            # Something was chosen if the row has been lost with the connection, and waited for once more.
            self._put_back(list(turn.entries.values()))
            metrics.patient_turns_busy.inc()
            await self._end_frozen(turn.held)
            return
        except Exception as error:  # noqa: BLE001 - nobody may be left without an answer
            results = dict.fromkeys(turn.entries, told(error))
        metrics.patient_turns_served.inc()
        if turn.entries:
            waited = began - min(entry.since for entry in turn.entries.values())
            self._served(len(turn.entries), max(0.0, waited), clock() - began)
        turn.in_vain = any(isinstance(result, Busy) for result in results.values())
        back = []
        for command, result in results.items():
            entry = turn.entries[command]
            if isinstance(result, Busy) and result.row == entry.row != SOMETHING and self._may_go_on(entry):
                back.append(entry)
            else:
                self._settle(entry, result)
        self._put_back(back)
        self._restart_clocks(turn, [entry for entry in back if not entry.command.waits])

    def _may_go_on(self, entry: Entry) -> bool:
        """Whether a command may wait for the same row again. Who has had it and needs more may not do so for ever."""
        return not entry.command.waits or self._remaining(entry.since) > 0

    async def _end_frozen(self, held: HeldConnection) -> None:
        """Ends servers' sessions that stand still, if that has not been tried for a while."""
        now = asyncio.get_running_loop().time()
        if now - self._ended_at >= LONG_TURN_MS / 1000:
            self._ended_at = now
            with contextlib.suppress(Exception):  # whoever has the next turn is told
                await held.transact(end_frozen)

    def _put_back(self, entries: Sequence[Entry]) -> None:
        """Returns what was chosen in vain to its queues, before those who have come meanwhile."""
        for entry in reversed(entries):
            self._queues[entry.row].appendleft(entry)

    def _restart_clocks(self, turn: Turn, back: Sequence[Entry]) -> None:
        """Whoever waits for a row that could be locked just now waits for somebody else from here on."""
        now = asyncio.get_running_loop().time()
        for row in {turn.row, *(entry.row for entry in turn.entries.values())} - {entry.row for entry in back}:
            if row in self._since:
                self._since[row] = now

    def _settle(self, entry: Entry, result: Answer | Exception | Busy | Heavy) -> None:
        if entry.answer.done():
            return
        if isinstance(result, Busy) and self._remaining(entry.since) > 0:
            self._put(entry._replace(row=result.row))
        elif isinstance(result, Busy):
            # It needs several rows, and never got them all.
            entry.answer.set_exception(DatabaseUnavailable())
        elif isinstance(result, Exception):
            entry.answer.set_exception(result)
        elif not isinstance(result, Heavy):  # which only the usual lane sorts out
            entry.answer.set_result(result)

    def _drain(self, row: Row) -> list[Entry]:
        """Empties a queue; whose caller has gone is left out."""
        queue = self._queues[row]
        entries = [entry for entry in queue if not entry.answer.done()]
        queue.clear()
        return entries

    def _remaining(self, since: float) -> float:
        """How many seconds are left of the lock timeout that began at a time."""
        return since + self._lock_timeout - asyncio.get_running_loop().time()

    def _max_wait_ms(self, row: Row) -> int:
        remaining = max(1, int(self._remaining(self._since[row]) * 1000))
        return min(TURN_MS if self._crowded else LONG_TURN_MS, remaining)
