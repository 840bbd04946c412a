"""Settings that a command cannot work with end it with a readable message."""

from __future__ import annotations

from pathlib import Path

import pytest

from enrollment_service.cli.main import cli
from tests.support.client import client_of
from tests.support.processes import EAGER, Processes, free_port, run_command
from tests.support.services import Service


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"LISTEN": "0.0.0.0:50051", "AUTH": "none", "DATABASE_URL": "postgresql://h/d"}, "loopback"),
        ({"DATABASE_URL": "postgresql://h/d"}, "ENROLLMENT_AUTH: say how callers prove who they are"),
        ({"LISTEN": "nonsense"}, "ENROLLMENT_LISTEN: "),
        ({"POOL_SIZE": "many"}, "ENROLLMENT_POOL_SIZE: "),
    ],
)
def test_settings_that_do_not_fit_are_explained(
    variables: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"ENROLLMENT_{name}", value)
    with pytest.raises(SystemExit) as ended:
        cli(["serve"])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "verify"])
def test_a_command_that_needs_a_database_says_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli([command])
    assert ended.value.code == 2
    assert "ENROLLMENT_DATABASE_URL" in capsys.readouterr().err


async def test_variables_that_are_no_settings_are_warned_of_at_start(processes: Processes) -> None:
    process, _ = await processes.start(LISTENN="127.0.0.1:1", SHUTDOWN_GRACE_SECONDS="1", COLOUR="blue")
    assert await process.stop() == 0
    assert process.errors.splitlines() == [
        "ENROLLMENT_COLOUR is not a setting and has no effect",
        "ENROLLMENT_LISTENN is not a setting and has no effect; did you mean ENROLLMENT_LISTEN?",
        "ENROLLMENT_SHUTDOWN_GRACE_SECONDS is not a setting and has no effect; did you mean ENROLLMENT_SHUTDOWN_GRACE?",
    ]


async def test_workers_do_not_repeat_the_warning(processes: Processes) -> None:
    process, _ = await processes.start(WORKERS="2", LISTENN="127.0.0.1:1")
    assert await process.stop() == 0
    assert process.errors.count("ENROLLMENT_LISTENN") == 1


async def test_what_only_a_developer_sets_is_no_mistake(processes: Processes) -> None:
    process, _ = await processes.start(DATA_DIR="anywhere", REFLECTION="")
    assert await process.stop() == 0
    assert process.errors == ""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_an_ipv6_address_in_brackets_is_served(processes: Processes, workers: str) -> None:
    port = free_port()
    process = processes.spawn(LISTEN=f"[::1]:{port}", WORKERS=workers)
    async with client_of(f"[::1]:{port}", EAGER) as client:
        await process.wait_serving(client)
        assert (await client.create_student()).student_id
    assert await process.stop() == 0


async def test_an_ipv6_address_without_brackets_is_refused(processes: Processes) -> None:
    process = processes.spawn(LISTEN="::1:6133")
    assert await process.ended() == 2
    assert process.errors == "ENROLLMENT_LISTEN: an IPv6 address needs brackets: [::1]:6133\n"


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "verify"])
@pytest.mark.parametrize("setting", ["DATABASE_URL", "DATABASE_PASSWORD"])
async def test_a_secrets_file_that_is_of_no_use_is_one_line(command: str, setting: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": "postgresql://u@127.0.0.1:1/db"} if setting == "DATABASE_PASSWORD" else {}
    ended = await run_command(command, **variables, **{f"{setting}_FILE": f"{tmp_path / 'secret'}"})
    assert (ended.returncode, ended.stderr) == (
        78,
        f"ENROLLMENT_{setting}_FILE: the file cannot be read (No such file or directory)\n",
    )


@pytest.mark.parametrize("command", ["serve", "migrate"])
async def test_a_secret_that_is_given_twice_is_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://u:marked-password@h/db")
    ended = await run_command(command, DATABASE_URL="postgresql://u@h/db", DATABASE_URL_FILE=f"{tmp_path / 'url'}")
    assert (ended.returncode, ended.stderr) == (
        2,
        "ENROLLMENT_DATABASE_URL and ENROLLMENT_DATABASE_URL_FILE are both set: leave one out\n",
    )
    ended = await run_command(command, DATABASE_URL="postgresql://u:p@h/db", DATABASE_PASSWORD="marked-password")
    assert (ended.returncode, ended.stderr) == (
        2,
        "the password is given twice: leave it out of the database's URL\n",
    )


async def test_who_only_calls_a_server_needs_no_secret(service: Service, tmp_path: Path) -> None:
    """And is often not allowed to read it."""
    secret = f"{tmp_path / 'nowhere'}"
    for arguments in (["health"], ["call", "ListCourses", "{}"]):
        ended = await run_command(*arguments, LISTEN=service.address, PROFILE="dev", DATABASE_URL_FILE=secret)
        assert (ended.returncode, ended.stderr) == (0, "")
