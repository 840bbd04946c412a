"""`make sbom`: the bill of materials has what the lock has."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.support.processes import PROJECT


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
    blocks = re.split(r"^(?=[\w.-]+==)", (PROJECT / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    locked = {
        (re.split(r"==| ", block)[0], re.split(r"==| ", block)[1]): set(re.findall(r"sha256:(\w{64})", block))
        for block in blocks
    }
    assert len(locked) > 20
    assert all(locked.values())
    assert listed == locked
    assert bill["metadata"]["component"]["name"] == "enrollment-service"
