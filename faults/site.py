"""What is broken: a PostgreSQL, servers on it, a link between them, and a watcher; and what is there in the end."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import random
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import psutil
from google.protobuf.timestamp_pb2 import Timestamp

from dev.postgres import EmbeddedPostgres
from enrollment_service.v1 import enrollment_pb2 as pb
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from faults.checker import Change, Evidence, Held
from faults.load import School
from faults.record import Operation
from tests.support.client import Client, client_of
from tests.support.databases import connected, destroyed, joined, migrate, temporary_folder
from tests.support.processes import EAGER, SERVE, ServerProcess, lasting_port
from tests.support.proxy import Proxy, proxied
from tests.support.standby import copy

PATIENCE = 60.0  # seconds that something may take to come about
_WATCHERS_PATIENCE = 20.0
_DISK_MB = 200
_SILENCE = 20.0  # of a stream; heartbeats come more often
_WAITLIST = 6
_NONE: Mapping[str, str] = {}
_EVENTS = """
    SELECT course_id, sequence, kind, coalesce(student_id, 0), previous_state, state, waitlist_position, enrolled_count,
        waitlisted_count, capacity, (extract(epoch FROM event_time) * 1000000)::bigint, coalesce(request_id::text, '')
    FROM enrollment_events ORDER BY 1, 2
"""
_BUSY = """
    SELECT state, wait_event, left(query, 60), now() - state_change FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND datname = current_database()
        -- One whose client has gone without a word waits for it until the network notices, but holds nothing.
        AND (backend_xid IS NOT NULL OR (state <> 'idle' AND wait_event IS DISTINCT FROM 'ClientRead'))
"""
_PASTS = 12


class BrokenPromiseError(Exception):
    """What must be so at some moment of a row was not."""


class CannotPlayError(Exception):
    """This machine has not what a row takes."""


class Kind(enum.Enum):
    """What lies under the servers: one PostgreSQL, one that a standby follows synchronously, or one on a small disk."""

    ALONE = enum.auto()
    REPLICATED = enum.auto()
    SMALL_DISK = enum.auto()


ALONE, REPLICATED, SMALL_DISK = Kind


class Site:
    """A PostgreSQL of its own and servers on it, each on a port that it comes back to."""

    def __init__(self, postgres: EmbeddedPostgres, folder: Path, link: Proxy, url: str) -> None:
        self.postgres = postgres
        self.standby = postgres
        self.disk = folder
        self.link = link
        self.servers: list[ServerProcess] = []
        self._folder = folder
        self._url = url
        self._python: Sequence[str] = SERVE
        self._settings: Mapping[str, str] = {}
        self._ended: list[ServerProcess] = []

    @property
    def addresses(self) -> list[str]:
        """Where the servers can be reached, whether or not they can at this moment."""
        return [server.address for server in self.servers]

    async def start(self, count: int, python: Sequence[str] = SERVE, settings: Mapping[str, str] = _NONE) -> None:
        """Starts so many servers with these settings, and returns once they serve."""
        self._python, self._settings = python, settings
        self.servers = [self._spawn(lasting_port()) for _ in range(count)]
        await self.until_serving()

    def _spawn(self, port: int) -> ServerProcess:
        return ServerProcess(
            self._url, self._folder, self._python, port, **{"SHUTDOWN_DELAY": "0.5"} | dict(self._settings)
        )

    def restart(self, server: ServerProcess) -> ServerProcess:
        """Starts a server anew where one has ended."""
        self._ended.append(server)
        started = self.servers[self.servers.index(server)] = self._spawn(server.port)
        return started

    async def until_serving(self) -> None:
        """Returns once all servers serve."""
        for server in self.servers:
            async with client_of(server.address, EAGER) as client:
                await server.wait_serving(client)

    async def until_quiet(self) -> None:
        """Returns once nothing is under way in the database. Raises BrokenPromiseError where that never comes."""
        quiet, ends = 0, time.monotonic() + PATIENCE
        async with connected(self.postgres.url) as connection:
            while quiet < 5:
                busy = await connection.fetch(_BUSY)
                if busy and time.monotonic() > ends:
                    raise BrokenPromiseError(f"sessions are left behind: {[tuple(one) for one in busy]}")
                quiet = 0 if busy else quiet + 1
                await asyncio.sleep(0.05)

    async def in_transaction(self) -> bool:
        """Whether a session holds something and nothing comes of it, as when its server stands still."""
        holding = (
            "SELECT array_agg(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
            "AND backend_xid IS NOT NULL AND datname = current_database()"
        )
        async with connected(self.postgres.url) as connection:
            before = await connection.fetchval(holding) or []
            await asyncio.sleep(0.2)
            return bool({*before} & {*(await connection.fetchval(holding) or [])})

    @contextmanager
    def frozen(self, *pids: int) -> Iterator[None]:
        """These processes stand still inside the block."""
        stopped = []
        try:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    stopped.append(pid)
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def revive_postgres(self) -> None:
        """Starts PostgreSQL where it has ended. Its port may be another one; the link leads to it."""
        await asyncio.to_thread(self.postgres.ensure_running)
        self.link.lead_to(self.postgres.url)

    def postgres_pids(self) -> list[int]:
        """The postmaster and all its processes."""
        postmaster = self.postgres.postmaster_pid()
        assert postmaster is not None  # noqa: S101 - for the type checker
        return [postmaster, *(child.pid for child in psutil.Process(postmaster).children(recursive=True))]

    async def close(self) -> None:
        """Ends the servers."""
        await asyncio.gather(*(server.stop() for server in [*self._ended, *self.servers]))


@asynccontextmanager
async def site(kind: Kind = ALONE) -> AsyncIterator[Site]:
    """A migrated database without servers; the link lies between the two."""
    with (
        temporary_folder() as folder,
        _disk(folder / "disk", _DISK_MB if kind is SMALL_DISK else None) as disk,
        destroyed(EmbeddedPostgres(disk / "postgres")) as postgres,
        destroyed(EmbeddedPostgres(folder / "standby")) as standby,
    ):
        migrate(postgres.ensure_running())
        async with proxied(postgres.url) as (link, url):
            if kind is REPLICATED:
                await _follow(postgres, standby)
            served = joined(url, standby.url) if kind is REPLICATED else url
            made = Site(postgres, folder, link, served)
            made.standby, made.disk = standby, disk
            try:
                yield made
            finally:
                await made.close()


async def _follow(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """Lets a standby follow synchronously: nothing is acknowledged that it does not have."""
    copy(primary, standby)
    await asyncio.to_thread(standby.ensure_running)
    async with connected(primary.url) as connection:
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await connection.execute("SELECT pg_reload_conf()")


@contextmanager
def _disk(folder: Path, megabytes: int | None) -> Iterator[Path]:
    """A folder; where it is to be small, a file system of its own, which not everybody may make."""
    folder.mkdir(mode=0o711)
    if megabytes is None:
        yield folder
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=711", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotPlayError(f"no small disk: {getattr(error, 'stderr', None) or error}") from error
    try:
        yield folder
    finally:
        unmount = ["umount", "--lazy", str(folder)]
        subprocess.run(unmount, check=True, capture_output=True)


async def populate(site: Site, students: int, courses: int, capacity: int = 4) -> School:
    """Creates students and courses over the wire."""
    async with client_of(site.addresses[0]) as client:
        return School(
            await client.students(students),
            await client.courses(courses, capacity=capacity, waitlist_capacity=_WAITLIST),
            capacity,
        )


class Watcher:
    """Watches all events, from the beginning, and goes on at another server when a stream breaks."""

    def __init__(self, addresses: Sequence[str], seed: int) -> None:
        self._addresses = addresses
        self._chance = random.Random(seed)  # noqa: S311 - to be reproducible
        self._token = ""
        self.seen: list[tuple[int, int]] = []
        self.beginnings = 1

    async def run(self) -> None:
        """For ever; to be cancelled."""
        while True:
            address = self._chance.choice(self._addresses)
            async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                try:
                    await self._read(EnrollmentServiceStub(channel))
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                        # Another history: a consumer has to begin anew, and is told so.
                        self._token = ""
                        self.beginnings += 1
            await asyncio.sleep(0.05)

    async def _read(self, stub: EnrollmentServiceStub) -> None:
        request = pb.WatchEnrollmentEventsRequest(follow=True, resume_token=self._token)
        stream: Any = stub.WatchEnrollmentEvents(request)
        while True:
            # A server that stands still says nothing, not even that it is there.
            try:
                message = await asyncio.wait_for(stream.read(), _SILENCE)
            except TimeoutError:
                return
            if message is grpc.aio.EOF:
                return
            self.seen += [(event.course_id, event.sequence) for event in message.events]
            self._token = message.resume_token

    async def until_seen(self, changes: Sequence[Change]) -> None:
        """Returns once everything was sent, or after a while."""
        wanted = {(change.course_id, change.sequence) for change in changes}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCHERS_PATIENCE):
                while not wanted <= set(self.seen):  # noqa: ASYNC110 - it comes from another process
                    await asyncio.sleep(0.1)


async def evidence(site: Site, operations: Sequence[Operation], watcher: Watcher | None, seed: int) -> Evidence:
    """What there is in the end, once nothing is under way."""
    async with connected(site.postgres.url) as connection:
        changes = [Change(*row) for row in await connection.fetch(_EVENTS)]
        rows: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for course_id, *row in await connection.fetch(
            "SELECT course_id, student_id, state, sequence FROM student_courses"
        ):
            rows[course_id].append(tuple(row))
        kept = await connection.fetch(
            "SELECT course_id, enrolled_count, waitlisted_count, waitlist_capacity FROM course_seats"
        )
    if watcher is not None:
        await watcher.until_seen(changes)
    return Evidence(
        operations=operations,
        changes=changes,
        rows=rows,
        counts={course_id: (enrolled, waiting) for course_id, enrolled, waiting, _ in kept},
        waitlist_capacities={course_id: most for course_id, _, _, most in kept},
        followed=None if watcher is None else watcher.seen,
        pasts=await _pasts(site, changes, seed),
    )


async def _pasts(site: Site, changes: Sequence[Change], seed: int) -> list[tuple[int, int, list[Held]]]:
    """Some rosters as of times at which something happened."""
    chosen = random.Random(seed).sample(list(changes), min(_PASTS, len(changes)))  # noqa: S311 - to be reproducible
    pasts = []
    async with client_of(site.addresses[0], EAGER) as client:
        for change in chosen:
            moment = datetime.fromtimestamp(change.time // 1_000_000, UTC).replace(microsecond=change.time % 1_000_000)
            as_of = Timestamp()
            as_of.FromDatetime(moment)
            answer = await _asked(client, course_id=change.course_id, page_size=1000, as_of=as_of)
            held = [(one.student_id, one.state, one.waitlist_position) for one in answer.enrollments]
            pasts.append((change.course_id, change.time, held))
    return pasts


async def _asked(client: Client, **fields: Any) -> Any:
    """A roster, asked for until it is told; whoever serves may still be on the way back."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await client.call("ListCourseStudents", **fields)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.1)


async def terminate_backends(site: Site) -> int:
    """Ends all sessions of the servers at once; how many there were."""
    async with connected(site.postgres.url) as connection:
        ended: int = await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return ended


async def until_writable(url: str) -> None:
    """Returns once the database takes changes."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                async with connected(url) as connection:
                    if await connection.fetchval("SHOW default_transaction_read_only") == "off":
                        return
            await asyncio.sleep(0.05)
