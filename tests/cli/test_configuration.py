"""Settings that a command cannot work with end it with a readable message."""

from __future__ import annotations

import pytest

from enrollment_service.cli.main import cli


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"LISTEN": "0.0.0.0:50051"}, "loopback"),
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
