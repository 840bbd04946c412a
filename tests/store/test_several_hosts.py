"""A URL with several hosts: silent ones cost little time, and a server that was the primary is left behind."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from enrollment_service.store.connect import UNACKNOWLEDGED_MS, connect, one_by_one
from enrollment_service.store.watch import DOUBT_SECONDS, LOOK_SECONDS
from tests.support.client import Client
from tests.support.databases import Connection, joined
from tests.support.locks import held, until_waiting
from tests.support.processes import Processes, run_command
from tests.support.proxy import Proxy, proxied
from tests.support.refusals import refused
from tests.support.services import service_on


def moved(url: str, port: int) -> str:
    """The same URL on another port of this machine."""
    login = urlsplit(url).netloc.rpartition("@")[0]
    return urlunsplit(urlsplit(url)._replace(netloc=f"{login}@127.0.0.1:{port}"))


@pytest.fixture
def frozen_port() -> Iterator[int]:
    """A port as that of a frozen server: the kernel accepts connections, and nobody ever answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


async def test_a_frozen_first_host_costs_about_a_second(processes: Processes, app_url: str, frozen_port: int) -> None:
    started = time.monotonic()
    process, client = await processes.start(DATABASE_URL=joined(moved(app_url, frozen_port), app_url))
    await use_every_path(client)
    assert time.monotonic() - started < 10
    assert process.errors == ""


@pytest.mark.parametrize(
    "fail",
    [
        pytest.param(Proxy.freeze, marks=pytest.mark.long, id="freezes"),
        # As a proxy does whose server is gone.
        pytest.param(Proxy.refuse, id="hangs up"),
    ],
)
async def test_a_first_host_that_fails_is_left_within_ten_seconds(app_url: str, fail: Callable[[Proxy], None]) -> None:
    """Long before its statements would have timed out: whether it answers at all can be asked."""
    async with proxied(app_url) as (proxy, first), service_on(joined(first, app_url)) as service:
        await use_every_path(service.client)
        fail(proxy)
        async with asyncio.timeout(10):
            await use_every_path(service.client)


@pytest.mark.long
async def test_a_server_that_still_answers_newcomers_is_not_left(database_url: str) -> None:
    async with service_on(joined(database_url, database_url)) as service:
        (student_id,), (course_id,) = await service.client.students(1), await service.client.courses(1)
        async with held(database_url, course_id) as observer:
            enrolling = asyncio.create_task(service.client.enroll(student_id, course_id))
            await until_waiting(observer)
            waiter = await observer.fetchval("SELECT pid FROM pg_locks WHERE NOT granted")
            # Through the doubt and the answer to it; that nothing is cut cannot be waited for.
            await asyncio.sleep(DOUBT_SECONDS + 2 * LOOK_SECONDS)
            # Whether it waits at this moment says nothing: it waits in turns.
            assert await observer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", waiter) == 1
        assert len(await enrolling) == 1


async def test_migrate_takes_several_hosts(database_url: str, frozen_port: int) -> None:
    url = joined(moved(database_url, frozen_port), database_url)
    done = await run_command("migrate", DATABASE_URL=url)
    assert (done.returncode, done.stderr) == (0, "")


async def test_if_no_host_answers_the_whole_wait_is_the_connect_timeout(database_url: str, frozen_port: int) -> None:
    frozen = moved(database_url, frozen_port)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await connect(joined(frozen, frozen), timeout_seconds=1.5, server_settings={})
    assert 1.4 < time.monotonic() - started < 4


async def test_if_all_hosts_refuse_nobody_waits(database_url: str) -> None:
    async with proxied(database_url) as (_, url):
        pass
    with pytest.raises(ConnectionRefusedError):
        await connect(joined(url, url), timeout_seconds=10, server_settings={})


async def use_every_path(client: Client) -> None:
    """Each of the connections that a service holds, and the pool."""
    student, course = await client.create_student(), await client.create_course()
    await client.enroll(student.student_id, course.course_id)
    assert await client.courses_of(student.student_id) == [course.course_id]
    assert await client.roster(course.course_id) == [student.student_id]


@asynccontextmanager
async def demoted(connection: Connection) -> AsyncIterator[None]:
    """The server may only be read for as long as the block lasts, by sessions that are there already, too."""
    shown = "SHOW default_transaction_read_only"
    try:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        while await connection.fetchval(shown) != "on":  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        yield
    finally:
        await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await connection.execute("SELECT pg_reload_conf()")
        while await connection.fetchval(shown) != "off":  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


async def test_once_a_write_has_met_a_demoted_server_reads_leave_it_too(
    database_url: str, connection: Connection
) -> None:
    async with service_on(joined(database_url, database_url)) as service:
        await use_every_path(service.client)
        async with demoted(connection):
            assert (await service.client.call("GetStudent", student_id=1)).student.student_id == 1
            with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
                await service.client.enroll(1, 1)
            # It shows the past, and no other host is one to write to.
            for method, fields in (("GetStudent", {"student_id": 1}), ("ListStudents", {})):
                with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
                    await service.client.call(method, **fields)
        await use_every_path(service.client)


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        ("postgresql://u:p@h:1/db?a=b", ["postgresql://u:p@h:1/db?a=b"]),
        ("postgresql://u:p@h,[::1]:2/db", ["postgresql://u:p@h/db", "postgresql://u:p@[::1]:2/db"]),
        ("postgresql:///db?host=h1", ["postgresql:///db?host=h1"]),
        ("postgresql:///db?host=h1,h2", ["postgresql:///db?host=h1&port=", "postgresql:///db?host=h2&port="]),
        ("postgresql:///d?host=a,b&port=1", ["postgresql:///d?host=a&port=1", "postgresql:///d?host=b&port=1"]),
        ("postgresql:///d?host=a,b&port=1,2", ["postgresql:///d?host=a&port=1", "postgresql:///d?host=b&port=2"]),
    ],
)
def test_hosts_are_asked_one_by_one(url: str, urls: list[str]) -> None:
    assert one_by_one(url) == urls


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="not on this platform")
async def test_the_kernel_gives_up_what_is_not_acknowledged(database_url: str) -> None:
    connection = await connect(database_url, timeout_seconds=5, server_settings={})
    try:
        used = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNACKNOWLEDGED_MS
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    finally:
        await connection.close()
