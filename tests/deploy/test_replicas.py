"""Three servers behind the door: they share the calls, and one after the other can be restarted without losing any."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, product

import pytest

from tests.support.client import PATIENCE, Client, client_of
from tests.support.databases import connected
from tests.support.door import Door, door_to, require_envoy
from tests.support.exposition import Exposed, scraped
from tests.support.locks import held, until
from tests.support.processes import Processes, ServerProcess, lasting_port
from tests.support.refusals import outcome_of

CALLS_A_SECOND = 400
REPLICAS = 3
# The delay is that of deploy/compose.scale.yml, in which the door sees that a server leaves. No call gives up here.
SETTINGS = {"SHUTDOWN_DELAY": "1", "LOCK_TIMEOUT_MS": "20000"}
# Nothing of the client's may make up for a call that the door has lost.
PLAIN = (("grpc.enable_retries", 0),)

pytestmark = pytest.mark.usefixtures("verified")


@dataclass
class Replicas:
    """The servers, the door in front of them, and a client of that."""

    processes: Processes
    servers: list[ServerProcess]
    clients: list[Client]
    metrics: list[int]
    door: Door
    through: Client

    async def exposed(self) -> list[Exposed]:
        """The metrics of each."""
        return await asyncio.gather(*(scraped(port) for port in self.metrics))

    async def under_way(self) -> float:
        """How many calls they are at work on, as they tell once a second."""
        return sum(one.value("enrollment_calls_under_way", kind="call") for one in await self.exposed())

    async def restart(self, number: int) -> None:
        """Ends one as an upgrade does, starts it anew, and returns once it serves."""
        self.servers[number].signal(signal.SIGTERM)
        assert await self.servers[number].ended() == 0
        port = self.servers[number].port
        self.servers[number] = self.processes.spawn(port=port, **SETTINGS)
        await self.servers[number].wait_serving(self.clients[number])


@asynccontextmanager
async def replicas(processes: Processes) -> AsyncIterator[Replicas]:
    require_envoy()
    metrics = [lasting_port() for _ in range(REPLICAS)]
    servers = [processes.spawn(port=lasting_port(), METRICS_LISTEN=f"127.0.0.1:{port}", **SETTINGS) for port in metrics]
    clients = [await processes.client(server) for server in servers]
    await asyncio.gather(*(server.wait_serving(client) for server, client in zip(servers, clients, strict=True)))
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(door_to(*(server.address for server in servers)))
        through = await stack.enter_async_context(client_of(door.address, PLAIN))
        yield Replicas(processes, servers, clients, metrics, door, through)


@dataclass
class Load:
    """Calls at a steady pace, whether those before them were answered or not."""

    client: Client
    pairs: list[tuple[int, int]]
    outcomes: list[str] = field(default_factory=list)
    longest: float = 0.0  # seconds
    turned_away: int = 0

    @property
    def enrolled(self) -> int:
        """How many enrollments were acknowledged."""
        return self.outcomes.count("enrolled")

    @property
    def lost(self) -> list[str]:
        """What was answered to those that failed."""
        return [outcome for outcome in self.outcomes if outcome not in ("enrolled", "listed")]

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """The calls come inside the block, and all of them are answered at its end."""
        enough = asyncio.Event()
        calls: list[asyncio.Task[None]] = []
        flow = asyncio.create_task(self._flow(enough, calls))
        try:
            yield
        finally:
            enough.set()
            await flow
            await asyncio.gather(*calls)

    async def _flow(self, enough: asyncio.Event, calls: list[asyncio.Task[None]]) -> None:
        pairs, began = iter(self.pairs), time.monotonic()
        for number in count():
            if enough.is_set():
                return
            calls.append(asyncio.create_task(self._call(number, *next(pairs))))
            await asyncio.sleep(began + (number + 1) / CALLS_A_SECOND - time.monotonic())

    async def _call(self, number: int, student: int, course: int) -> None:
        began = time.monotonic()
        outcome = await self._outcome(number, student, course)
        while outcome == "RESOURCE_EXHAUSTED OVERLOADED" and time.monotonic() < began + PATIENCE:
            # Others may leave this machine too little. Such a call had no effect, and comes again when it was told to.
            self.turned_away += 1
            await asyncio.sleep(1)
            outcome = await self._outcome(number, student, course)
        self.longest = max(self.longest, time.monotonic() - began)
        self.outcomes.append(("listed" if number % 2 else "enrolled") if outcome == "OK" else outcome)

    async def _outcome(self, number: int, student: int, course: int) -> str:
        if number % 2:
            return await outcome_of(self.client.call("ListStudentCourses", student_id=student))
        return await outcome_of(self.client.enroll(student, course))


async def rolling_restart(processes: Processes, database_url: str, restarts: int) -> None:
    async with replicas(processes) as running:
        students, courses = await running.clients[0].students(100), await running.clients[0].courses(50 * restarts)
        load = Load(running.through, [(student, course) for course, student in product(courses, students)])
        async with load.flowing():
            for number in range(restarts):
                await running.restart(number % REPLICAS)
        print(
            f"{restarts} restarts, {len(load.outcomes)} calls, {load.turned_away} of them turned away for a moment, "
            f"the longest took {load.longest:.2f} s; lost: {load.lost}"
        )
        assert load.lost == []
        assert load.enrolled > 0
        async with connected(database_url) as connection:
            assert await connection.fetchval("SELECT count(*) FROM student_courses") == load.enrolled


@pytest.mark.long
async def test_a_rolling_restart_loses_no_call(processes: Processes, database_url: str) -> None:
    await rolling_restart(processes, database_url, restarts=2)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_ten_rolling_restarts_lose_no_call(processes: Processes, database_url: str) -> None:
    await rolling_restart(processes, database_url, restarts=10 * REPLICAS)


async def test_a_server_that_is_killed_loses_what_it_had_under_way_and_nothing_else(
    processes: Processes, database_url: str
) -> None:
    """The negative control of those above, and what retries must not do: what has left may have had its effect."""
    async with replicas(processes) as running:
        students, (course, other) = await running.clients[0].students(30), await running.clients[0].courses(2)
        async with held(database_url, course):
            calls = [asyncio.create_task(outcome_of(running.through.enroll(one, course))) for one in students]
            async with asyncio.timeout(PATIENCE):
                while await running.under_way() < len(students):  # noqa: ASYNC110 - metrics are to be asked for
                    await asyncio.sleep(0.05)
            running.servers[0].signal(signal.SIGKILL)
            await until(lambda: any(call.done() for call in calls))
            # Whoever comes now does not notice.
            for student in students:
                await running.through.enroll(student, other)
        outcomes = await asyncio.gather(*calls)
        assert set(outcomes) == {"OK", "UNAVAILABLE"}
        assert outcomes.count("OK") >= len(students) / REPLICAS
        assert outcomes.count("OK") == len(await running.clients[1].roster(course))


async def test_the_servers_share_the_calls(processes: Processes) -> None:
    async with replicas(processes) as running:
        student = (await running.clients[0].create_student()).student_id
        answered = [0.0] * REPLICAS
        async with asyncio.timeout(PATIENCE):  # the door looks at each of them before it sends it a call
            while min(answered) < 5:
                await running.through.call("ListStudentCourses", student_id=student)
                exposed = await running.exposed()
                answered = [one.value("enrollment_calls_total", method="ListStudentCourses") for one in exposed]
