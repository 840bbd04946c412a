"""The embedded PostgreSQL: it starts, keeps its data through a kill -9, and may be asked for twice at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from dev.postgres import EmbeddedPostgres, scratch_database
from dev.programs import EmbeddedPostgresError

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres")  # durable: data must be there after a kill
    yield server
    server.destroy()


def sql(server: EmbeddedPostgres, statement: str) -> str:
    return server.psql(statement, "enrollment")


def kill_postmaster(server: EmbeddedPostgres) -> int:
    pid = server.postmaster_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while server.postmaster_pid() is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.postmaster_pid() is None
    return pid


def test_it_starts_knows_letters_and_keeps_data_across_stop_and_start(postgres: EmbeddedPostgres) -> None:
    postgres.ensure_running()
    assert sql(postgres, "SELECT lower('ÉLÈVE')") == "élève"
    sql(postgres, "CREATE TABLE kept AS SELECT 7 AS value")
    port = sql(postgres, "SHOW port")

    postgres.stop()
    assert postgres.postmaster_pid() is None
    postgres.ensure_running()

    assert sql(postgres, "SELECT value FROM kept") == "7"
    assert sql(postgres, "SHOW port") == port


def test_it_survives_a_kill_of_the_postmaster(postgres: EmbeddedPostgres) -> None:
    postgres.ensure_running()
    sql(postgres, "CREATE TABLE kept AS SELECT 7 AS value")

    kill_postmaster(postgres)
    postgres.ensure_running()

    assert sql(postgres, "SELECT value FROM kept") == "7"


def test_a_stale_pid_file_that_names_a_living_stranger_is_no_obstacle(postgres: EmbeddedPostgres) -> None:
    postgres.ensure_running()
    killed = kill_postmaster(postgres)
    (pid_file,) = postgres.home.rglob("postmaster.pid")
    # The same user as the server's: a stranger of another user PostgreSQL recognises by itself.
    owner = pid_file.stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "60"], user=owner) as stranger:
        try:
            pid_file.write_text(pid_file.read_text().replace(f"{killed}", f"{stranger.pid}", 1))
            postgres.ensure_running()
            assert postgres.postmaster_pid() not in {None, stranger.pid}
        finally:
            stranger.kill()


def test_another_port_is_chosen_when_the_port_is_taken(postgres: EmbeddedPostgres) -> None:
    postgres.ensure_running()
    port = int(sql(postgres, "SHOW port"))
    postgres.stop()
    with socket.create_server(("127.0.0.1", port)):
        postgres.ensure_running()
        assert sql(postgres, "SHOW port") != f"{port}"


def test_two_at_once_share_one_server_and_the_last_to_leave_stops_it(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    code = (
        "import sys, pathlib; from dev.postgres import EmbeddedPostgres\n"
        "with EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False) as server:\n"
        "    print(server.url, server.postmaster_pid(), flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, f"{tmp_path / 'postgres'}"]
    processes = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) for _ in range(2)]
    greetings = [process.stdout.readline() for process in processes if process.stdout is not None]
    assert greetings[0] == greetings[1] == f"{postgres.url} {postgres.postmaster_pid()}\n"

    processes[0].communicate("leave\n", timeout=60)
    assert sql(postgres, "SELECT 1") == "1"
    processes[1].communicate("leave\n", timeout=60)
    assert postgres.postmaster_pid() is None


def test_nobody_enters_without_the_password_and_the_log_keeps_statements_out(postgres: EmbeddedPostgres) -> None:
    postgres.ensure_running()
    wrong = f"postgresql://enrollment:wrong@{postgres.url.split('@')[1]}"
    command = [f"{postgres.psql_path}", "--no-psqlrc", "-tAc", "SELECT 1", wrong]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "password authentication failed" in refused.stderr

    with pytest.raises(EmbeddedPostgresError):
        sql(postgres, "SELECT 1/0 AS marked_person")
    assert "marked_person" not in postgres.log_file.read_text()


def test_a_scratch_database_is_empty_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENROLLMENT_DATA_DIR", f"{tmp_path / 'postgres'}")
    server = EmbeddedPostgres(tmp_path / "scratch", durable=False)
    try:
        with scratch_database() as url:
            name = url.rpartition("/")[2]
            assert server.psql("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace", name) == "0"
            server.ensure_running()
        assert server.psql(f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == "0"
    finally:
        server.destroy()


@pytest.mark.long
def test_a_broken_cluster_that_may_be_lost_begins_anew(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    try:
        server.ensure_running()
        server.stop()
        (control_file,) = server.home.rglob("pg_control")
        control_file.write_bytes(b"")
        server.ensure_running()
        assert sql(server, "SELECT 1") == "1"
    finally:
        server.destroy()
