"""Resume tokens and other histories of the database: a dump that was restored, a standby before and after promotion."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from google.protobuf.timestamp_pb2 import Timestamp

from dev.programs import Programs
from tests.support.client import PATIENCE, Client
from tests.support.databases import Connection, PostgresServer, connected
from tests.support.processes import free_port
from tests.support.refusals import refused
from tests.support.services import service_on
from tests.support.watching import events_of, history, key_of

EXPIRED = ("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED")


def on_port(url: str, port: int) -> str:
    """The same database of another server."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}"))


def restore(programs: Programs, dump: str, url: str) -> None:
    """Fills an empty database."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(dump)
        file.flush()
        Path(file.name).chmod(0o644)
        options = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1")
        programs.run("psql", *options, f"--dbname={url}", f"--file={file.name}")


def home_of_a_server(programs: Programs) -> Path:
    """A folder in which PostgreSQL's user may make a cluster."""
    home = Path(tempfile.mkdtemp(prefix="enrollment-standby-"))
    home.chmod(0o711)
    (home / "server").mkdir()
    programs.give(home / "server")
    return home


async def tokens_of(client: Client, course: int) -> dict[str, tuple[dict[str, int], str]]:
    """Tokens from wherever there are some, with what they were given out for."""
    listed = await client.call("ListCourseStudents", course_id=course)
    return {
        "of all": ({}, (await history(client))[-1].resume_token),
        "of a course": ({"course_id": course}, (await history(client, course_id=course))[-1].resume_token),
        "of a list": ({"course_id": course}, listed.resume_token),
    }


async def test_a_restored_dump_takes_no_tokens_of_the_original(
    client: Client, database_url: str, postgres_server: PostgresServer
) -> None:
    (course, other), (student,) = await client.courses(2), await client.students(1)
    await client.enroll(student, course, other)
    tokens = await tokens_of(client, course)
    everything = [key_of(event) for event in await events_of(client)]
    assert all([await events_of(client, resume_token=token, **asked) == [] for asked, token in tokens.values()])
    programs = Programs()
    dump = await asyncio.to_thread(programs.run, "pg_dump", f"--dbname={database_url}", "--no-comments")
    async with postgres_server.database() as url:
        await asyncio.to_thread(restore, programs, dump, url)
        async with service_on(postgres_server.app_url(url)) as service:
            for asked, token in tokens.values():
                with refused(*EXPIRED, metadata={"field": "resume_token"}):
                    await history(service.client, resume_token=token, **asked)
            # It was restored where the numbers of its transactions are of the past: it can be followed from here on.
            assert [key_of(event) for event in await events_of(service.client)] == everything
            anew = await tokens_of(service.client, course)
            await service.client.unenroll(student, course)
            for asked, token in anew.values():
                assert len(await events_of(service.client, resume_token=token, **asked)) == 1


@asynccontextmanager
async def standby_of(primary: str) -> AsyncIterator[str]:
    """The URL of the same database on an asynchronous standby, which has caught up and is gone after the block."""
    programs = Programs()
    home, port = home_of_a_server(programs), free_port()
    cluster = home / "server" / "cluster"
    # It must have room for as many connections as its primary.
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200"
    started = False
    try:
        backup = ("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
        await asyncio.to_thread(programs.run, "pg_basebackup", f"--dbname={primary}", f"--pgdata={cluster}", *backup)
        start = ("start", "--wait", f"--pgdata={cluster}", f"--options={settings}", f"--log={cluster}/server.log")
        await asyncio.to_thread(programs.run, "pg_ctl", *start)
        started = True
        yield on_port(primary, port)
    finally:
        if started:
            await asyncio.to_thread(programs.run, "pg_ctl", "stop", "--mode=immediate", f"--pgdata={cluster}")
        shutil.rmtree(home)


async def until_replayed(primary: Connection, standby: Connection) -> None:
    """Returns once the standby has all that the primary has written."""
    position = await primary.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    async with asyncio.timeout(PATIENCE):
        while not await standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_promoted_standby_takes_no_tokens_of_its_primary(
    client: Client, database_url: str, connection: Connection, postgres_server: PostgresServer
) -> None:
    (course,), students = await client.courses(1), await client.students(2)
    async with standby_of(database_url) as url, connected(url) as there:
        await client.enroll(students[0], course)
        await until_replayed(connection, there)
        early = await tokens_of(client, course)
        async with service_on(postgres_server.app_url(url)) as service:
            # What a standby sees is not what its primary does: it gives out no tokens, and nobody can follow it.
            assert (await service.client.call("ListCourseStudents", course_id=course)).resume_token == ""
            with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
                await history(service.client)
            # Nor does it know what is settled.
            moment = Timestamp()
            moment.GetCurrentTime()
            with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
                await service.client.call("ListCourseStudents", course_id=course, as_of=moment)
        await there.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await there.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(PATIENCE):
            while await there.fetchval("SELECT count(*) FROM pg_stat_wal_receiver"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await client.enroll(students[1], course)
        late = await tokens_of(client, course)
        assert await there.fetchval("SELECT pg_promote()")
        async with service_on(postgres_server.app_url(url)) as service:
            assert [event.sequence for event in await events_of(service.client)] == [1, 2]
            # What happens now may well be done by transactions whose numbers the tokens know as over.
            await service.client.unenroll(students[0], course)
            for tokens in (early, late):
                for asked, token in tokens.values():
                    with refused(*EXPIRED):
                        await history(service.client, resume_token=token, **asked)
            anew = await tokens_of(service.client, course)
            await service.client.enroll(students[1], course)
            for asked, token in anew.values():
                assert [one.sequence for one in await events_of(service.client, resume_token=token, **asked)] == [4]
