"""What is installed is what was locked: hashes everywhere, and the bill of materials that `make sbom` writes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import PROJECT

LOCKS = sorted(path for path in PROJECT.rglob("*.lock") if ".venv" not in path.parts)


def packages(lock: Path) -> dict[tuple[str, str], set[str]]:
    """The packages of a lock, by name and version, and their hashes."""
    found = {}
    for block in re.split(r"^(?=[\w.-]+==)", lock.read_text(), flags=re.MULTILINE)[1:]:
        name, version = re.split(r"==|[ \n]", block)[:2]
        found[name, version] = set(re.findall(r"--hash=sha256:(\w{64})", block))
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(PROJECT)))
def test_every_locked_package_has_hashes(lock: Path) -> None:
    assert packages(lock)
    assert [package for package, hashes in packages(lock).items() if not hashes] == []
    assert not re.search(r"\w+://", lock.read_text())  # where it comes from is the installer's affair


def test_every_installation_checks_the_hashes() -> None:
    for name in ("Makefile", "Dockerfile", "deploy/edge/Dockerfile"):
        commands = re.findall(r"pip(?: [^\n]*?)? install (?:[^\n]*\\\n)*[^\n]*", (PROJECT / name).read_text())
        assert commands
        ours = [command for command in commands if "--editable ." in command]  # it brings no other package
        assert all("--no-deps" in command for command in ours)
        assert [command for command in commands if command not in ours and "--require-hashes" not in command] == []


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_bill_of_materials_has_every_locked_package_with_its_hashes() -> None:
    """It gets its tools from PyPI."""
    path = PROJECT / "build" / "sbom.json"
    path.unlink(missing_ok=True)
    subprocess.run(["make", "sbom"], cwd=PROJECT, check=True)
    bill = json.loads(path.read_text())
    listed = {
        (one["name"], one["version"]): {
            entry["content"] for reference in one["externalReferences"] for entry in reference["hashes"]
        }
        for one in bill["components"]
    }
    locked = packages(PROJECT / "requirements.lock")
    assert len(locked) > 20
    assert listed == locked
    assert bill["metadata"]["component"]["name"] == "enrollment-service"
