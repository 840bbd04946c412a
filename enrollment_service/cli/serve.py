"""The command `serve`, and `worker`, which is one of its processes where there are several."""

from __future__ import annotations

import asyncio
import signal
import sys

import click

from enrollment_service.cli.configuration import read_settings_with_database
from enrollment_service.cli.endings import FAILED, end, explained
from enrollment_service.settings import Settings
from enrollment_service.telemetry import logs


@click.command()
def serve() -> None:
    """Serve until SIGTERM, in ENROLLMENT_WORKERS processes."""
    _stop_at_once_when_told()
    settings = read_settings_with_database()
    if settings.workers == 1:
        _serve_here(settings)
    else:
        _supervise(settings)


@click.command(hidden=True)
def worker() -> None:
    """Serve as one of several processes; ends when the process that started it does."""
    _stop_at_once_when_told()
    # The process that started it has warned already.
    _serve_here(read_settings_with_database(warn=False), ends_with_parent=True)


def _stop_at_once_when_told() -> None:
    """Until the event loop takes the signals over there is nothing to drain; to end then is no failure."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))


def _serve_here(settings: Settings, *, ends_with_parent: bool = False) -> None:
    import uvloop

    from enrollment_service.app import serve as serve_until_stopped

    buffer = logs.configure(settings.log_level)
    try:
        with explained():
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
        sys.exit(asyncio.run(supervise(settings)))
    except OSError as error:
        end(f"cannot serve on {settings.listen}: {error.strerror}", FAILED)
    finally:
        buffer.flush()
