"""What the morning is played on: a private PostgreSQL in a temporary folder, and a server process on it.

Blocking, and usable after the event loop has gone: whatever happened, leaving the `with` block ends both processes
and removes the folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from dev.postgres import EmbeddedPostgres

_START_SECONDS = 30
_DRAIN_SECONDS = 20
_STEP_SECONDS = 60
_POLL = 0.02
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class OfficeError(RuntimeError):
    """A process did not do what it should; the text says which, with the end of its log."""


class Office:
    """The processes of one morning."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="enrollment-demo-"))
        self._folder.chmod(0o711)  # as root, PostgreSQL runs as another user, who must pass through
        self._postgres = EmbeddedPostgres(self._folder / "postgres", durable=True)
        self._log = self._folder / "server.log"
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0  # 0: the kernel chooses at the first start, and the next server takes the same

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # It takes a second or two, and half of it would be worse than none.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
        try:
            self.drain()
        finally:
            self._postgres.destroy()
            shutil.rmtree(self._folder)
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def address(self) -> str:
        """Where the server serves."""
        return f"127.0.0.1:{self._port}"

    def start_database(self) -> str:
        """Starts and migrates PostgreSQL; returns its version."""
        self._postgres.ensure_running()
        status, output = self._run("migrate")
        if status != 0:
            raise OfficeError(f"`migrate` ended with status {status}:\n{output}")
        return self._postgres.psql("SHOW server_version")

    def start_server(self) -> int:
        """Starts the server; returns its process id once it serves."""
        seen = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "enrollment_service", "serve"],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then drains the server
            )
        self._port = self._port_once_serving(seen)
        return self._server.pid

    def kill_server(self) -> None:
        """Ends the server as a power cut would."""
        if self._server is not None:
            self._server.send_signal(signal.SIGKILL)

    def collect_server(self) -> None:
        """Waits until a killed server has gone."""
        if self._server is not None:
            self._server.wait(_DRAIN_SECONDS)
            self._server = None

    def drain(self) -> int:
        """Ends the server with SIGTERM, as an operator would; returns its exit status. Kills it if it hangs."""
        server, self._server = self._server, None
        if server is None:
            return 0
        server.terminate()
        try:
            return server.wait(_DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            return server.wait()

    def verify(self) -> tuple[int, list[str]]:
        """Runs the service's own audit of the database; its exit status and lines."""
        status, output = self._run("verify")
        return status, output.splitlines()

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-8:]) if self._log.exists() else ""

    def _run(self, subcommand: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "enrollment_service", subcommand],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_STEP_SECONDS,
            start_new_session=True,
            check=False,
        )
        return done.returncode, done.stdout

    def _environment(self) -> dict[str, str]:
        """Ours without the settings of a service that the user may run."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ENROLLMENT_")}
        return inherited | {
            "ENROLLMENT_PROFILE": "dev",
            "ENROLLMENT_DATABASE_URL": self._postgres.url,
            "ENROLLMENT_LISTEN": self.address,
            "ENROLLMENT_SHUTDOWN_GRACE": "5",
            # To be watched from outside, if anybody wants to.
            "ENROLLMENT_METRICS_LISTEN": os.environ.get("ENROLLMENT_METRICS_LISTEN", ""),
            # One line here stands for many callers, whose answers it swallows.
            "ENROLLMENT_MAX_STREAMS": "100",
        }

    def _port_once_serving(self, seen: int) -> int:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._server is not None and self._server.poll() is None:
            with self._log.open("rb") as log:
                log.seek(seen)
                for line in log:
                    if (port := _serving_on(line)) is not None:
                        return port
            time.sleep(_POLL)
        raise OfficeError(f"The server did not start:\n{self.log_tail()}")


def _serving_on(line: bytes) -> int | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return int(entry["port"]) if isinstance(entry, dict) and entry.get("event") == "serving" else None
