"""The command `serve`, and `worker`, which is one of its processes where there are several."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from enrollment_service.cli.configuration import read_settings_to_serve
from enrollment_service.cli.endings import FAILED, end, explained
from enrollment_service.settings import Settings
from enrollment_service.telemetry import logs


@click.command()
def serve() -> None:
    """Serve until SIGTERM, in ENROLLMENT_WORKERS processes."""
    settings = read_settings_to_serve()
    if settings.workers == 1:
        _serve_here(settings)
    else:
        _supervise(settings)


@click.command(hidden=True)
def worker() -> None:
    """Serve as one of several processes; ends when the process that started it does."""
    # The process that started it has warned already.
    _serve_here(read_settings_to_serve(warn=False), ends_with_parent=True)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals wait until the event loop listens for them and lets them in: to stop while it starts is no failure."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve_here(settings: Settings, *, ends_with_parent: bool = False) -> None:
    buffer = logs.configure(settings.log_level)
    try:
        with _signals_held(), explained():
            import uvloop

            from enrollment_service.app import serve as serve_until_stopped

            uvloop.run(serve_until_stopped(settings, ends_with_parent=ends_with_parent))
    except RuntimeError as error:
        if "bind" not in str(error).lower():
            raise
        end(f"cannot serve on {settings.listen}: the address is in use or not ours", FAILED)
    finally:
        buffer.flush()


def _supervise(settings: Settings) -> None:
    from enrollment_service.cli.workers import supervise

    buffer = logs.configure(settings.log_level)
    try:
        with _signals_held():
            sys.exit(asyncio.run(supervise(settings)))
    except OSError as error:
        end(f"cannot serve on {settings.listen}: {error.strerror}", FAILED)
    finally:
        buffer.flush()
