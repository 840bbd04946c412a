"""What a wheel installs runs by itself: without a checkout and a developer's tools, on the locked runtime packages."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrollment_service.store.database import SCHEMA_REVISION
from tests.support.databases import PostgresServer
from tests.support.processes import PROJECT, STARTUP, environment, free_port

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

ALEMBIC_INI = "[alembic]\nscript_location = enrollment_service:migrations\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", f"{folder}"]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


class Installed:
    """An environment with the wheel in it, used from a folder that is far from the checkout."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", symlinks=True)
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"

    def install(self, *what: str) -> None:
        """With uv, which is quick; with pip where only that has been told of an index that can be reached."""
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", f"--python={self.python}", *what]
        pip = [sys.executable, "-m", "pip", f"--python={self.python}", "--no-input", "install", "--quiet", *what]
        if subprocess.run(uv, cwd=PROJECT, capture_output=True).returncode != 0:
            subprocess.run(pip, cwd=PROJECT, check=True)

    async def run(self, *python: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs Python to its end; isolated (-I), so that no variable and no folder leads back to the checkout."""

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [self.python, "-I", *python],
                cwd=self.folder,
                env=environment(**variables),
                capture_output=True,
                text=True,
                timeout=60,
            )

        return await asyncio.to_thread(run)

    async def command(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of the service to its end."""
        return await self.run("-m", "enrollment_service", *arguments, **variables)

    @contextlib.contextmanager
    def serving(self, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """A server that has just been started; it is gone after the block."""
        with (self.folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [self.python, "-I", "-m", "enrollment_service", "serve"],
                cwd=self.folder,
                env=environment(**variables),
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel with what requirements.lock names, and nothing else."""
    made = Installed(tmp_path_factory.mktemp("installed"))
    made.install("--require-hashes", "-r", "requirements.lock")
    made.install("--no-deps", f"{wheel}")
    return made


def test_the_wheel_holds_the_package_and_its_migrations_only(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"enrollment_service"}
    migrations = {name.rpartition("/")[2] for name in names if name.startswith("enrollment_service/migrations/")}
    revisions = {path.name for path in (PROJECT / "migrations" / "versions").glob("*.py")}
    assert migrations == {"env.py", "script.py.mako", *revisions}


def test_the_runtime_lock_is_all_that_it_needs(installed: Installed) -> None:
    check = [sys.executable, "-m", "pip", f"--python={installed.python}", "check"]
    checked = subprocess.run(check, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


async def test_it_migrates_serves_and_verifies_a_new_database(
    installed: Installed, postgres_server: PostgresServer
) -> None:
    async with postgres_server.database() as url:
        variables = {"AUTH": "none", "DATABASE_URL": url, "LISTEN": f"127.0.0.1:{free_port()}"}
        migrated = await installed.command("migrate", **variables)
        assert migrated.returncode == 0, migrated.stderr

        with installed.serving(**variables) as server:
            async with asyncio.timeout(STARTUP):
                while (await installed.command("health", **variables)).returncode != 0:
                    assert server.poll() is None, (installed.folder / "server.log").read_text()
            verified = await installed.command("verify", **variables)
            assert verified.returncode == 0, verified.stdout + verified.stderr
            server.terminate()
            assert await asyncio.to_thread(server.wait, STARTUP) == 0


async def test_traces_need_their_extra_and_it_says_so(installed: Installed) -> None:
    variables = {
        "AUTH": "none",
        "DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "TRACES_ENDPOINT": "http://127.0.0.1:4317",
    }
    for workers in ("1", "2"):
        refused = await installed.command("serve", **variables, WORKERS=workers)
        assert refused.returncode == 78
        assert refused.stderr.count("\n") == 1
        assert "ENROLLMENT_TRACES_ENDPOINT" in refused.stderr
        assert "enrollment-service[tracing]" in refused.stderr


async def test_alembic_itself_works_on_it(installed: Installed, postgres_server: PostgresServer) -> None:
    """There is no embedded database to fall back to, and it says so."""
    (installed.folder / "alembic.ini").write_text(ALEMBIC_INI)
    refused = await installed.run("-m", "alembic", "upgrade", "head")
    assert refused.returncode != 0
    assert "Set ENROLLMENT_DATABASE_URL" in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr
    async with postgres_server.database() as url:
        migrated = await installed.run("-m", "alembic", "upgrade", "head", DATABASE_URL=url)
        assert migrated.returncode == 0, migrated.stderr
        current = await installed.run("-m", "alembic", "current", DATABASE_URL=url)
        assert current.stdout.split()[0] == SCHEMA_REVISION
