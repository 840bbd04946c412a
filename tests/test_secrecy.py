"""A password through the whole life of a server: replaced without a restart, and never where somebody could read it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.support.client import Client
from tests.support.databases import Connection, migrate
from tests.support.mistakes import role_on
from tests.support.processes import Processes, ServerProcess, free_port, run_command
from tests.support.proxy import proxied
from tests.support.refusals import refused

pytestmark = pytest.mark.long


class Secret:
    """A password of a role that serves, in a file, and the role's URL without it."""

    def __init__(self, role: str, url: str, file: Path, connection: Connection) -> None:
        self.role, self.url, self.file = role, url, file
        self._connection = connection
        self.all: list[str] = []

    async def change(self, *, in_file: bool = True) -> None:
        """Gives the role another password; lets the file lag behind if it is told to."""
        self.all.append(f"marked {secrets.token_urlsafe(12)}")
        await self._connection.execute(f"ALTER ROLE {self.role} PASSWORD '{self.all[-1]}'")
        if in_file:
            self.write()

    def write(self) -> None:
        """Writes the file as Kubernetes does: another file takes its place, so nobody ever reads half of one."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{self.all[-1]}\n")
        fresh.replace(self.file)

    async def disconnect(self) -> None:
        """Ends all connections of the role."""
        await self._connection.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1", self.role
        )

    def check_unseen(self, text: str) -> None:
        """No password that there was is in a text, as it is or encoded for a URL."""
        assert text
        for password in self.all:
            assert password not in text
            assert password.split()[1] not in text


@pytest.fixture
async def secret(database_url: str, connection: Connection, tmp_path: Path) -> AsyncIterator[Secret]:
    async with role_on(database_url, connection) as (role, url):
        await asyncio.to_thread(migrate, database_url, role)
        scheme, _, rest = url.partition("://")
        host = rest.rpartition("@")[2]
        made = Secret(role, f"{scheme}://{role}@{host}", tmp_path / "password", connection)
        await made.change()
        yield made


async def use(client: Client) -> None:
    """A change, a read and a list: each has connections of its own."""
    student = (await client.create_student()).student_id
    course = (await client.create_course()).course_id
    await client.enroll(student, course)
    assert await client.courses_of(student) == [course]
    await client.call("ListStudents")


async def test_a_password_is_replaced_without_a_restart_or_a_failed_call(processes: Processes, secret: Secret) -> None:
    process, client = await processes.start(DATABASE_URL=secret.url, DATABASE_PASSWORD_FILE=f"{secret.file}")
    for _ in range(3):
        await use(client)
        await secret.change()
        await use(client)  # connections that are open stay
        await secret.disconnect()
    await use(client)
    assert await process.stop() == 0
    assert [line for line in process.log if line["event"] == "database unavailable"] == []


async def test_an_old_password_is_unavailable_until_the_file_has_the_new_one(
    processes: Processes, secret: Secret
) -> None:
    """The control of the test above, and what is seen of a rotation in the wrong order."""
    process, client = await processes.start(DATABASE_URL=secret.url, DATABASE_PASSWORD_FILE=f"{secret.file}")
    await use(client)
    await secret.change(in_file=False)
    await secret.disconnect()
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
        await client.create_student()
    secret.file.unlink()
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
        await client.create_student()
    secret.write()
    await use(client)
    assert await process.stop() == 0
    causes = [line for line in process.log if line["event"] == "database unavailable"]
    assert {(line["level"], line["fault"], line.get("sqlstate")) for line in causes} >= {
        ("error", "MISCONFIGURED", "28P01"),
        ("error", "MISCONFIGURED", None),
    }


def seen_by_others(process: ServerProcess) -> str:
    """What other users and tools of the machine can see of a process and its workers: arguments and environment."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return "\n".join(
        f"{' '.join(one.cmdline())} {' '.join(f'{name}={value}' for name, value in one.environ().items())}"
        for one in family
    )


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_no_password_is_ever_in_what_a_server_prints_or_shows(
    processes: Processes, secret: Secret, connection: Connection, workers: str
) -> None:
    """Through its start, a wrong password, a failover, a rotation and the drain."""
    async with proxied(secret.url) as (proxy, url):
        chosen = {
            "DATABASE_URL": url,
            "DATABASE_PASSWORD_FILE": f"{secret.file}",
            "LOG_LEVEL": "debug",
            "WORKERS": workers,
        }
        proxy.refuse()
        process = processes.spawn(port=0, **chosen)
        client = await processes.client(process)
        proxy.refusing = False
        await process.wait_serving(client)
        shown = seen_by_others(process)
        await use(client)
        await secret.change(in_file=False)
        await secret.disconnect()
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE") as refusal:
            await client.create_student()
        secret.check_unseen(refusal.message)
        secret.write()
        await use(client)
        await fail_over(client, secret, connection)
        proxy.cut_before = b"COMMIT"
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
            await client.create_student()
        shown += seen_by_others(process)
        assert await process.stop() == 0
    assert f"{secret.file}" in shown  # it has looked at the right processes
    secret.check_unseen(shown)
    secret.check_unseen(process.log_file.read_text())
    assert process.errors == ""


async def fail_over(client: Client, secret: Secret, connection: Connection) -> None:
    """The server may only be read, as after a failover, and then written again."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await secret.disconnect()
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
        await client.create_student()
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await secret.disconnect()
    await use(client)


@pytest.mark.parametrize(
    ("command", "way"),
    [
        *(("serve", way) for way in ("URL", "URL_FILE", "PASSWORD", "PASSWORD_FILE")),
        *((command, "PASSWORD_FILE") for command in ("migrate", "verify")),
    ],
)
async def test_no_command_prints_a_password_that_is_wrong(
    secret: Secret, tmp_path: Path, command: str, way: str
) -> None:
    await secret.change(in_file=False)
    secret.all.append("marked-wrong one")
    with_password = secret.url.replace("@", ":marked-wrong%20one@")
    (tmp_path / "url").write_text(with_password)
    (tmp_path / "password").write_text("marked-wrong one")
    variables = {
        "URL": {"DATABASE_URL": with_password},
        "URL_FILE": {"DATABASE_URL_FILE": f"{tmp_path / 'url'}"},
        "PASSWORD": {"DATABASE_URL": secret.url, "DATABASE_PASSWORD": "marked-wrong one"},
        "PASSWORD_FILE": {"DATABASE_URL": secret.url, "DATABASE_PASSWORD_FILE": f"{tmp_path / 'password'}"},
    }[way]
    settings = {"AUTH": "none", "LISTEN": f"127.0.0.1:{free_port()}", "LOG_LEVEL": "debug"}
    ended = await run_command(command, **settings, **variables)
    assert ended.returncode == 78
    assert "SQLSTATE 28P01" in ended.stderr
    secret.check_unseen(ended.stdout + ended.stderr)
    assert "marked-wrong" not in ended.stdout + ended.stderr
