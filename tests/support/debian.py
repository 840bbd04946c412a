"""Programs that Debian packages: those of this machine, else unpacked from the package, into the environment only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "debian"


def program(name: str, package: str) -> str:
    """The path of a program; the test is skipped where it is neither installed nor to be had."""
    found = shutil.which(name)
    if found is None and not (FOLDER / package).exists():
        _unpack(package)
    unpacked = [path for folder in ("bin", "sbin") if (path := FOLDER / package / "usr" / folder / name).exists()]
    if found is None and not unpacked:
        pytest.skip(f"{name} is not installed, and Debian's package {package} cannot be had")
    return found or f"{unpacked[0]}"


def _unpack(package: str) -> None:
    """Downloads a package and unpacks it beside the others, whole or not at all."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        if not _downloaded(package, folder):
            subprocess.run(["apt-get", "update"], capture_output=True, timeout=120)
            if not _downloaded(package, folder):
                return
        (archive,) = Path(folder).glob("*.deb")
        content = Path(folder) / "content"
        subprocess.run(["dpkg-deb", "--extract", archive, content], check=True, timeout=60)
        try:
            os.rename(content, FOLDER / package)
        except OSError:  # another process was quicker
            if not (FOLDER / package).exists():
                raise


def _downloaded(package: str, folder: str) -> bool:
    command = ["apt-get", "download", package]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=300).returncode == 0
