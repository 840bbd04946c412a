"""The rows of the fault matrix: what is done to a site under load. What must hold afterwards, the checker knows."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg
import grpc

from enrollment_service.v1 import enrollment_pb2 as pb
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from faults.load import Load
from faults.site import (
    ALONE,
    PATIENCE,
    REPLICATED,
    SMALL_DISK,
    BrokenPromiseError,
    Kind,
    Site,
    terminate_backends,
    until_writable,
)
from tests.support.broken import DROP_CONSTRAINTS
from tests.support.client import client_of
from tests.support.databases import connected, kill
from tests.support.processes import run_command


@dataclass
class Turn:
    """A row that is being played.

    Attributes:
        site: what is broken.
        load: what goes on meanwhile.
        chance: where and when.
        seconds: for how long.
        figures: what is told about it.
    """

    site: Site
    load: Load
    chance: random.Random
    seconds: float
    figures: dict[str, str] = field(default_factory=dict)

    async def pause(self, least: float, most: float) -> None:
        """Lets things go on for a while."""
        await asyncio.sleep(self.chance.uniform(least, most))

    async def until_acknowledged(self, within: float, what: str) -> float:
        """Returns once a change that is asked for from now on was acknowledged; after how many seconds."""
        began = time.monotonic()
        while not self.load.acknowledged(invoked_since=began):
            if time.monotonic() - began > within:
                raise BrokenPromiseError(f"nothing was acknowledged within {within:g} s after {what}")
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    def was_told(self, code: str) -> int:
        """How many operations have met a code so far."""
        return sum(code in one.codes for one in self.load.recorder.operations)

    def ends(self) -> float:
        """When it has been played for long enough."""
        return time.monotonic() + self.seconds


_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
_POOL = 16  # the default of ENROLLMENT_POOL_SIZE and what a server holds beside it
Play = Callable[[Turn], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """A row of the matrix.

    Attributes:
        number: its number in the matrix.
        name: what happens.
        play: does it.
        seconds: for how long in a full run; a quick one plays a part of that.
        deadlines: the least and the most of each call, in seconds.
        settings: of the servers, without ENROLLMENT_.
        kind: what lies under the servers.
    """

    number: int
    name: str
    play: Play
    seconds: float = 30.0
    deadlines: tuple[float, float] = (2.0, 2.0)
    settings: Mapping[str, str] = field(default_factory=dict)
    kind: Kind = ALONE


async def server_killed(turn: Turn) -> None:
    """Servers are killed and started again."""
    ends, kills = turn.ends(), 0
    while time.monotonic() < ends:
        await turn.pause(0.3, 1.5)
        server = turn.chance.choice(turn.site.servers)
        server.signal(signal.SIGKILL)
        await server.ended()
        kills += 1
        turn.site.restart(server)
        await turn.site.until_serving()
    turn.figures["kills"] = str(kills)


async def postgres_killed(turn: Turn) -> None:
    """PostgreSQL crashes, in the middle of whatever it does; ten seconds after it is up there are changes again."""
    ends, waits = turn.ends(), []
    while time.monotonic() < ends:
        await turn.pause(0.5, 2.0)
        kill(turn.site.postgres)
        await turn.site.revive_postgres()
        waits.append(await turn.until_acknowledged(10, "PostgreSQL was up again"))
    turn.figures |= {"crashes": str(len(waits)), "back after at most": f"{max(waits):.1f} s"}


async def backends_killed(turn: Turn) -> None:
    """All sessions of the servers are ended, again and again."""
    ends, ended = turn.ends(), 0
    while time.monotonic() < ends:
        await turn.pause(0.05, 0.5)
        ended += await terminate_backends(turn.site)
    turn.figures["sessions ended"] = str(ended)


async def postgres_frozen(turn: Turn) -> None:
    """PostgreSQL stands still; calls end with their deadline, and nothing is left behind."""
    still = min(10.0, turn.seconds / 2)
    await turn.pause(0.5, 1.0)
    with turn.site.frozen(*turn.site.postgres_pids()):
        await asyncio.sleep(still)
    back = await turn.until_acknowledged(10, "PostgreSQL went on")
    if turn.load.latest > 2:
        raise BrokenPromiseError(f"a call ended {turn.load.latest:.1f} s after its deadline")
    turn.figures |= {"still": f"{still:.0f} s", "back after": f"{back:.1f} s"}


async def server_frozen(turn: Turn) -> None:
    """A server stands still; the other serves."""
    ends, served = turn.ends(), 0
    while time.monotonic() < ends:
        await turn.pause(0.3, 1.0)
        began = time.monotonic()
        with turn.site.frozen(turn.chance.choice(turn.site.servers).pid):
            await turn.until_acknowledged(10, "a server stood still")
            await turn.pause(2.5, 5.0)
        served += turn.load.acknowledged(invoked_since=began)
    turn.figures["acknowledged meanwhile"] = str(served)


async def rolling_restart(turn: Turn) -> None:
    """Servers are told to stop, one after the other, and started again; nobody who asks again notices."""
    ends, restarts = turn.ends(), 0
    while time.monotonic() < ends:
        for server in list(turn.site.servers):
            server.signal(signal.SIGTERM)
            if status := await server.ended():
                raise BrokenPromiseError(f"a server ended with status {status}")
            turn.site.restart(server)
            await turn.site.until_serving()
            restarts += 1
    if gave_up := turn.load.gave_up:
        raise BrokenPromiseError(f"{gave_up} operations found no answer, however often they were asked for")
    turn.figures["restarts"] = str(restarts)


async def demoted(turn: Turn) -> None:
    """The primary is demoted for a while: it may only be read."""
    ends, waits = turn.ends(), []
    url = turn.site.postgres.url
    while time.monotonic() < ends:
        async with connected(url) as connection:
            await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await connection.execute("SELECT pg_reload_conf()")
        await turn.pause(0.5, 1.5)
        async with connected(url) as connection:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await connection.execute("SELECT pg_reload_conf()")
        await until_writable(url)
        waits.append(await turn.until_acknowledged(10, "the database could be written again"))
    turn.figures |= {"demotions": str(len(waits)), "back after at most": f"{max(waits):.1f} s"}


async def link_cut(turn: Turn) -> None:
    """The connections to the database break, and it cannot be reached for a while."""
    ends, cuts = turn.ends(), 0
    while time.monotonic() < ends:
        await turn.pause(0.3, 1.0)
        turn.site.link.refuse()
        await turn.pause(0.0, 1.0)
        turn.site.link.refusing = False
        await turn.until_acknowledged(10, "the link was whole again")
        cuts += 1
    turn.figures["cuts"] = str(cuts)


async def deadline_storm(turn: Turn) -> None:
    """Callers give up after a moment; no session is left idle in a transaction, and there are no more than agreed."""
    await asyncio.sleep(turn.seconds)
    turn.load.stop()
    await turn.site.until_quiet()
    async with connected(turn.site.postgres.url) as connection:
        sessions = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
    if sessions > 2 * _POOL:
        raise BrokenPromiseError(f"{sessions} connections")
    turn.figures["connections"] = str(sessions)


async def hot_course(turn: Turn) -> None:
    """Five hundred callers want ten seats on two servers: ten get one."""
    async with client_of(turn.site.addresses[0]) as first, client_of(turn.site.addresses[1]) as second:
        students = await first.students(500)
        (course,) = await first.courses(1, capacity=10)

        async def wants(number: int, student: int) -> str:
            try:
                await (first, second)[number % 2].enroll(student, course)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        answers = await asyncio.gather(*(wants(number, student) for number, student in enumerate(students)))
        seats = len(await first.roster(course))
    if (answers.count("OK"), seats) != (10, 10) or set(answers) != {"OK", "FAILED_PRECONDITION"}:
        raise BrokenPromiseError(f"{answers.count('OK')} were told that they have one of {seats} taken seats")
    turn.figures["seats"] = "10 of 10"


async def long_transaction(turn: Turn) -> None:
    """Somebody's transaction stays open, here and in another database; changes and the feed go on."""
    url = turn.site.postgres.url
    async with connected(url) as here, connected(url.rpartition("/")[0] + "/postgres") as elsewhere:
        for connection in (here, elsewhere):
            await connection.execute("BEGIN")
            await connection.execute("SELECT pg_current_xact_id()")
        await turn.pause(turn.seconds, turn.seconds)
        before = turn.load.acknowledged()
        await turn.until_acknowledged(5, "a long transaction had begun")
        async with client_of(turn.site.addresses[0]) as client:
            request = pb.WatchEnrollmentEventsRequest()
            stream = client.stub.WatchEnrollmentEvents(request, timeout=PATIENCE)
            told = sum([len(message.events) async for message in stream])
    if told < before:
        raise BrokenPromiseError(f"{told} events in the feed after {before} acknowledged changes")
    turn.figures["events"] = str(told)


async def migrations(turn: Turn) -> None:
    """Three want to migrate at once, again and again."""
    ends, rounds = turn.ends(), 0
    while time.monotonic() < ends:
        done = await asyncio.gather(*(run_command("migrate", DATABASE_URL=turn.site.postgres.url) for _ in range(3)))
        if any(one.returncode for one in done):
            raise BrokenPromiseError(f"a migration failed: {[one.stderr for one in done]}")
        rounds += 1
    turn.figures["rounds"] = str(rounds)


async def stampede(turn: Turn) -> None:
    """Ten thousand calls at once, on one connection and on twenty: each is answered, or told why not."""
    async with client_of(turn.site.addresses[0]) as client:
        (course,) = await client.courses(1)
        for connections in (1, 20):
            ended = await _all_at_once(turn.site.addresses[0], turn.load.school.students[0], course, connections)
            if unknown := set(ended) - {"OK", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED"}:
                raise BrokenPromiseError(f"calls ended in {sorted(unknown)}")
            turn.figures[f"served on {connections}"] = str(len(ended) - ended.count("RESOURCE_EXHAUSTED"))


async def _all_at_once(address: str, student: int, course: int, connections: int) -> list[str]:
    channels = [grpc.aio.insecure_channel(address, options=_OWN_CONNECTION) for _ in range(connections)]
    stubs = [EnrollmentServiceStub(channel) for channel in channels]
    request = pb.EnrollStudentRequest(student_id=student, course_ids=[course])

    async def one(number: int) -> str:
        try:
            await stubs[number % connections].EnrollStudent(request, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    try:
        return await asyncio.gather(*(one(number) for number in range(10_000)))
    finally:
        for channel in channels:
            await channel.close()


async def silent_connections(turn: Turn) -> None:
    """The connections to the database go silent, and nobody is told."""
    ends, silences = turn.ends(), 0
    while time.monotonic() < ends:
        await turn.pause(0.3, 1.0)
        turn.site.link.silence()
        # The statement timeout, up to two seconds more, and the work itself.
        await turn.until_acknowledged(10, "connections went silent")
        silences += 1
    turn.figures["silences"] = str(silences)


async def failover(turn: Turn) -> None:
    """The primary is lost, and a standby that was asked before every answer takes its place: nothing is lost."""
    await turn.pause(turn.seconds / 2, turn.seconds)
    kill(turn.site.postgres)
    turn.site.postgres = turn.site.standby
    async with connected(turn.site.postgres.url) as connection:
        if not await connection.fetchval("SELECT pg_promote()"):
            raise BrokenPromiseError("the standby was not promoted")
    back = await turn.until_acknowledged(20, "the standby was promoted")
    await turn.pause(turn.seconds / 2, turn.seconds)
    turn.figures["back after"] = f"{back:.1f} s"


async def disk_full(turn: Turn) -> None:
    """The disk of the database is full for a while."""
    ballast, url = turn.site.disk / "ballast", turn.site.postgres.url
    await turn.pause(0.5, 1.0)
    with ballast.open("wb") as file:
        space = os.statvfs(turn.site.disk)
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize)
    ends, gives_up = turn.ends(), time.monotonic() + PATIENCE
    while time.monotonic() < ends or (not turn.was_told("UNAVAILABLE") and time.monotonic() < gives_up):
        # The log of the database needs a new file each time.
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with connected(url) as connection:
                await connection.execute("SELECT pg_switch_wal()")
        await turn.pause(0.1, 0.3)
    refused = turn.was_told("UNAVAILABLE")
    ballast.unlink()
    await turn.site.revive_postgres()
    back = await turn.until_acknowledged(15, "there was room again")
    if not refused:
        raise BrokenPromiseError("nobody noticed that the disk was full")
    turn.figures |= {"told so": str(refused), "back after": f"{back:.1f} s"}


async def frozen_with_locks(turn: Turn) -> None:
    """A server stands still in the middle of a transaction; the other one serves every course within five seconds."""
    ends, gives_up, times, slowest = turn.ends(), time.monotonic() + PATIENCE, 0, 0.0
    while time.monotonic() < ends or (not times and time.monotonic() < gives_up):
        await turn.pause(0.05, 0.3)
        frozen = turn.chance.choice(turn.site.servers)
        other = next(server for server in turn.site.servers if server is not frozen)
        with turn.site.frozen(frozen.pid):
            if not await turn.site.in_transaction():
                continue
            times += 1
            slowest = max(slowest, await _serves_every_course(turn, other.address))
    if not times:
        raise BrokenPromiseError("no server was met in the middle of a transaction")
    turn.figures |= {"times": str(times), "slowest": f"{slowest:.1f} s"}


async def _serves_every_course(turn: Turn, address: str) -> float:
    began = time.monotonic()
    async with client_of(address) as client:
        student = turn.load.school.students[0]
        for course in turn.load.school.courses:
            try:
                # Whatever comes of it: it takes the lock on the course.
                request = pb.UnenrollStudentRequest(student_id=student, course_id=course)
                await client.stub.UnenrollStudent(request, timeout=5)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise BrokenPromiseError(f"course {course}: {error.code().name}") from error
    return time.monotonic() - began


async def slow_clients(turn: Turn) -> None:
    """Watchers that read nothing hang on every server; changes go on, and servers that are told to stop do."""
    channels = [grpc.aio.insecure_channel(address, options=_OWN_CONNECTION) for address in turn.site.addresses * 10]
    streams = [
        EnrollmentServiceStub(channel).WatchEnrollmentEvents(pb.WatchEnrollmentEventsRequest(follow=True))
        for channel in channels
    ]
    try:
        await turn.pause(turn.seconds / 2, turn.seconds)
        await turn.until_acknowledged(5, "watchers had stopped to read")
        await rolling_restart(turn)
    finally:
        for stream in streams:
            stream.cancel()
        for channel in channels:
            await channel.close()
    turn.figures["watchers"] = str(len(streams))


async def nothing(turn: Turn) -> None:
    """Nothing is done to anybody."""
    await asyncio.sleep(turn.seconds)


ROWS = (
    Row(1, "servers killed", server_killed),
    Row(2, "PostgreSQL killed", postgres_killed),
    Row(3, "sessions killed", backends_killed),
    Row(4, "PostgreSQL frozen", postgres_frozen, seconds=20),
    Row(5, "a server frozen", server_frozen),
    Row(6, "rolling restart", rolling_restart),
    Row(7, "failover to a synchronous standby", failover, seconds=15, kind=REPLICATED),
    Row(8, "primary demoted", demoted),
    Row(9, "link cut", link_cut),
    Row(10, "deadline storm", deadline_storm, deadlines=(0.001, 0.05)),
    Row(11, "hot course", hot_course, seconds=1),
    Row(12, "disk full", disk_full, seconds=15, kind=SMALL_DISK),
    Row(13, "long transactions elsewhere", long_transaction),
    Row(14, "migrations under load", migrations),
    Row(17, "stampede", stampede, seconds=1),
    Row(18, "silent connections", silent_connections, settings={"STATEMENT_TIMEOUT_MS": "3000"}),
    Row(19, "a server frozen with locks", frozen_with_locks),
    Row(24, "slow clients on every stream", slow_clients),
)


@dataclass(frozen=True)
class Control:
    """Servers with one safeguard taken out: the checker must notice.

    Attributes:
        name: which safeguard; a fault of `tests/support/broken.py`.
        statements: what is taken out of the database with it, where that would catch it.
    """

    name: str
    statements: str = ""


CONTROLS = (
    Control("unlocked", DROP_CONSTRAINTS),
    Control("unclaimed"),
    Control("promoting_the_last"),
    Control("unaware_of_others"),
)
CONTROL = Row(0, "control", nothing, seconds=15)
