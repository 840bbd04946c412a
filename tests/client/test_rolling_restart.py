"""Two servers restarted in turn under many callers: nobody sees a failure, and everything happens exactly once.

TEST_ROUNDS in the environment says how many times both are restarted; a few show what usually goes wrong.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from enrollment_service.client import EnrollmentClient, OutcomeUnknown, Pauses
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.databases import Connection
from tests.support.processes import Processes, ServerProcess

CALLERS = 100
ROUNDS = int(os.environ.get("TEST_ROUNDS", "2"))
PAUSE = 0.05  # seconds between two calls of a caller, so that the test leaves the processor to the servers


class Callers:
    """Students who enroll and leave, again and again, and count what they were told."""

    def __init__(self, client: EnrollmentClient) -> None:
        self._client = client
        self._over = asyncio.Event()
        self.answers: Counter[int] = Counter()

    async def go(self, student_id: int, course_id: int) -> None:
        """One caller, until `stop`; any failure ends the test."""
        while not self._over.is_set():
            await self._client.enroll_student(student_id, [course_id])
            self.answers[student_id] += 1
            await asyncio.sleep(PAUSE)
            await self._client.unenroll_student(student_id, course_id)
            self.answers[student_id] += 1

    async def have_heard(self, answers: int) -> None:
        """Returns once there were so many answers."""
        async with asyncio.timeout(30):
            while self.answers.total() < answers:  # noqa: ASYNC110 - a hundred callers count
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Lets everybody end what they are at."""
        self._over.set()


class Replicas:
    """Two servers on one database, and students and courses for the callers."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._servers: list[ServerProcess] = []
        self.students: list[int] = []
        self.courses: list[int] = []

    async def start(self) -> None:
        """Starts both."""
        started = [await self._processes.start_lasting() for _ in range(2)]
        self._servers = [process for process, _ in started]
        client = started[0][1]
        self.students, self.courses = await client.students(CALLERS), await client.courses(5)

    @property
    def address(self) -> str:
        """Both of them."""
        return "ipv4:" + ",".join(server.address for server in self._servers)

    async def restart_under(self, callers: Callers, rounds: int) -> None:
        """Restarts them in turn while everybody calls."""
        async with asyncio.TaskGroup() as group:
            for number, student_id in enumerate(self.students):
                group.create_task(callers.go(student_id, self.courses[number % len(self.courses)]))
            for place in [0, 1] * rounds:
                before = callers.answers.total()
                await self._restart(place)
                # Nobody is left behind, and the next restart meets the full load again.
                await callers.have_heard(before + 2 * CALLERS)
            callers.stop()

    async def _restart(self, place: int) -> None:
        server = self._servers[place]
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        self._servers[place] = server = self._processes.spawn(port=server.port)
        await server.wait_serving(await self._processes.client(server))


@pytest.fixture
async def replicas(processes: Processes) -> Replicas:
    made = Replicas(processes)
    await made.start()
    return made


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_a_rolling_restart_is_silent(replicas: Replicas, connection: Connection) -> None:
    async with EnrollmentClient(replicas.address) as client:
        callers = Callers(client)
        await replicas.restart_under(callers, ROUNDS)
    events = await connection.fetch(
        "SELECT student_id, count(*) FROM enrollment_events WHERE kind = 1 GROUP BY student_id"
    )
    assert dict(map(tuple, events)) == dict(callers.answers)
    assert set(callers.answers) == set(replicas.students)


@pytest.mark.timeout(240)
async def test_without_retries_it_is_not(replicas: Replicas) -> None:
    """The negative control: a restart does break calls, and the test above would see it.

    Not every one does: the first that does ends this.
    """
    never = Pauses(draw=lambda *_: 1e9)
    async with EnrollmentClient(replicas.address, pauses=never) as client:
        with pytest.raises(ExceptionGroup) as failures:
            await replicas.restart_under(Callers(client), 10 * ROUNDS)
    assert failures.group_contains(OutcomeUnknown)


async def test_an_import_survives_a_restart(processes: Processes, connection: Connection) -> None:
    process, direct = await processes.start_lasting(SHUTDOWN_GRACE="0.2")
    students, courses = await direct.students(20), await direct.courses(100)
    half = asyncio.Event()

    async def chunks() -> AsyncIterator[pb.ImportEnrollmentsRequest]:
        for number, course_id in enumerate(courses):
            yield pb.ImportEnrollmentsRequest(student_ids=students, course_ids=[course_id] * len(students))
            await asyncio.sleep(0.01)
            if number == len(courses) // 2:
                half.set()

    async def restart() -> None:
        await half.wait()
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
        processes.spawn(port=process.port)

    restarting = asyncio.create_task(restart())
    async with EnrollmentClient(process.address) as client:
        answers = [answer async for answer in client.import_enrollments(chunks())]
    await restarting
    assert [answer.chunk_id for answer in answers] == list(range(1, 101))
    assert sum(answer.enrolled for answer in answers) == 2000
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 2000
