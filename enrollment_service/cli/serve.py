"""The command `serve`, and `worker`, which is one of its processes where there are several."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from enrollment_service.cli.configuration import read_settings_to_serve
from enrollment_service.cli.endings import FAILED, UNUSABLE, end, explained
from enrollment_service.settings import Settings
from enrollment_service.telemetry import logs
from enrollment_service.telemetry.tracing import NotInstalledError, exporting, require_installed

if TYPE_CHECKING:
    from enrollment_service.telemetry.shared import SharedMetrics

# Far more than the connections of all callers; where the system's limit for a process is lower, it is that.
MAX_OPEN_FILES = 65_536


@click.command()
def serve() -> None:
    """Serve until SIGTERM, in ENROLLMENT_WORKERS processes."""
    settings = read_settings_to_serve()
    if settings.traces_endpoint:
        _require_tracing()
    if settings.workers == 1:
        _serve_here(settings)
    else:
        _supervise(settings)


@click.command(hidden=True)
@click.option("--metrics", type=int, help="The number to share metrics by.")
def worker(metrics: int | None) -> None:
    """Serve as one of several processes; ends when the process that started it does."""
    if metrics is not None:
        from enrollment_service.telemetry.shared import write_as

        write_as(metrics)
    # The process that started it has warned already.
    _serve_here(read_settings_to_serve(warn=False), ends_with_parent=True)


def _require_tracing() -> None:
    try:
        require_installed()
    except NotInstalledError as error:
        end(str(error), UNUSABLE)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals wait until the event loop listens for them and lets them in: to stop while it starts is no failure."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_process() -> None:
    """Room for as many connections as the system allows, and silence from gRPC, whose lines nobody bounds."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if most == resource.RLIM_INFINITY else min(most, MAX_OPEN_FILES)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    # It writes one for each failed handshake, and waits until it is read.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _serve_here(settings: Settings, *, ends_with_parent: bool = False) -> None:
    _prepare_process()
    buffer = logs.configure(settings.log_level)
    shown = nullcontext() if ends_with_parent else _metrics_shown(settings)
    traced = exporting(settings.traces_endpoint) if settings.traces_endpoint else nullcontext()
    try:
        with _signals_held(), shown, traced, explained():
            import uvloop

            from enrollment_service.app import serve as serve_until_stopped

            uvloop.run(serve_until_stopped(settings, ends_with_parent=ends_with_parent))
    except RuntimeError as error:
        if "bind" not in str(error).lower():
            raise
        end(f"cannot serve on {settings.listen}: the address is in use or not ours", FAILED)
    finally:
        buffer.flush()


@contextmanager
def _metrics_shown(settings: Settings) -> Iterator[None]:
    """The metrics of this process are served while the block runs, where that is wanted."""
    if not settings.metrics_listen:
        yield
        return
    from enrollment_service.telemetry.exposition import serving
    from enrollment_service.telemetry.metrics import REGISTRY

    with _metrics_address(), serving(settings.metrics_listen, REGISTRY):
        yield


@contextmanager
def _workers_metrics_shown(settings: Settings) -> Iterator[SharedMetrics | None]:
    """The same of workers that are started inside the block; yields what they share."""
    if not settings.metrics_listen:
        yield None
        return
    from enrollment_service.telemetry.exposition import serving
    from enrollment_service.telemetry.shared import shared_metrics

    with _metrics_address(), shared_metrics() as shared, serving(settings.metrics_listen, shared.registry):
        yield shared


@contextmanager
def _metrics_address() -> Iterator[None]:
    """Where nobody can listen on the address for metrics, the command ends."""
    from enrollment_service.telemetry.exposition import AddressError

    try:
        yield
    except AddressError as error:
        end(str(error), FAILED)


def _supervise(settings: Settings) -> None:
    from enrollment_service.cli.workers import supervise

    buffer = logs.configure(settings.log_level)
    try:
        with _signals_held(), _workers_metrics_shown(settings) as shared:
            sys.exit(asyncio.run(supervise(settings, shared)))
    except OSError as error:
        end(f"cannot serve on {settings.listen}: {error.strerror}", FAILED)
    finally:
        buffer.flush()
