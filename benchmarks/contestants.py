"""The servers that are measured, each started for its turn only, so that idle ones cost nobody a core."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil

PROJECT = Path(__file__).resolve().parent.parent
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 30.0
_SETTLE = 0.5
_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse(status=SERVING)


class ContestantError(RuntimeError):
    """A contestant could not be started or gave answers that cannot be counted; its figures are left out."""


@dataclass(frozen=True)
class Contestant:
    """How to start a server: a Python module, or a program, with its arguments and its environment.

    {address} is filled in.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    reports_health: bool = False
    python: bool = True


ECHO = Contestant("echo", ("benchmarks.peers.echo", "{address}"))
FASTAPI = Contestant("fastapi", ("benchmarks.peers.fastapi_peer", "{address}"))
ASYNCPG = Contestant("asyncpg", ("benchmarks.peers.asyncpg_peer", "{address}"))
BARE = Contestant("bare", ("benchmarks.peers.asyncpg_peer", "{address}", "--bare"))
# As it is run: with its log, and with metrics.
_SERVE, _METRICS = ("enrollment_service", "serve"), {"ENROLLMENT_METRICS_LISTEN": "127.0.0.1:0"}
SERVICE = Contestant("service", _SERVE, {"ENROLLMENT_WORKERS": "1", **_METRICS}, reports_health=True)
SERVICE_2_WORKERS = Contestant(
    "service_2_workers", _SERVE, {"ENROLLMENT_WORKERS": "2", **_METRICS}, reports_health=True
)


def go_peers(program: Path) -> tuple[Contestant, Contestant]:
    """One transaction a call, and in batches."""
    single = (str(program), "{address}")
    return (
        Contestant("go", single, python=False),
        Contestant("go_batching", (*single, "--batching"), python=False),
    )


@dataclass(frozen=True)
class Running:
    """A contestant that answers."""

    address: str
    process: subprocess.Popen[bytes]
    startup_s: float

    def memory_mb(self) -> float:
        """Resident memory of all its processes, at rest, in MB (10^6 bytes)."""
        time.sleep(_SETTLE)
        return float(sum(process.memory_info().rss for process in self._processes())) / 1e6

    def require_workers(self, wanted: int) -> None:
        """Wait until so many processes listen: the first worker answers before the others are there.

        Connections are dealt out when they are opened, so a late worker would get none.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while (found := sum(self._listens(process) for process in self._processes())) < wanted:
            if time.monotonic() > deadline:
                raise ContestantError(f"{found} of {wanted} workers listen")
            time.sleep(0.05)

    def _listens(self, process: psutil.Process) -> bool:
        port = int(self.address.rpartition(":")[2])
        sockets = process.net_connections(kind="tcp")
        return any(socket.status == psutil.CONN_LISTEN and socket.laddr.port == port for socket in sockets)

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@contextlib.contextmanager
def running(contestant: Contestant, database_url: str, logs: Path) -> Iterator[Running]:
    """Start a contestant on a free loopback port, wait until it answers, and end it afterwards."""
    address = f"127.0.0.1:{free_port()}"
    arguments = [argument.format(address=address) for argument in contestant.arguments]
    command = [sys.executable, "-m", *arguments] if contestant.python else arguments
    environment = {
        **os.environ,
        "ENROLLMENT_PROFILE": "dev",
        "ENROLLMENT_DATABASE_URL": database_url,
        "ENROLLMENT_LISTEN": address,
        **contestant.environment,
    }
    log = logs / f"{contestant.name}.log"
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_until_it_answers(contestant, process, address, log)
            yield Running(address, process, time.perf_counter() - began)
        finally:
            _stop(process)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(contestant: Contestant, process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    answers = _is_serving if contestant.reports_health else _accepts
    while not answers(address):
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise ContestantError(f"ended at once: {lines[-1] if lines else 'no output'} (more in {log})")
        if time.monotonic() > deadline:
            raise ContestantError(f"did not answer within {_START_TIMEOUT:.0f} s (see {log})")
        time.sleep(0.005)


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _is_serving(address: str) -> bool:
    if not _accepts(address):
        return False
    with grpc.insecure_channel(address) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            return check(b"", timeout=1) == _SERVING
        except grpc.RpcError:
            return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
