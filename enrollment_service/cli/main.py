"""The command line: `python -m enrollment_service --help` lists the commands. Each has a module of its own here.

These import what a command works with only when it runs: `health` must not wait for SQLAlchemy.
"""

from __future__ import annotations

import os

import click

from enrollment_service.cli.call import call
from enrollment_service.cli.descriptors import descriptors
from enrollment_service.cli.health import health
from enrollment_service.cli.importer import import_
from enrollment_service.cli.migrate import migrate
from enrollment_service.cli.new_epoch import new_epoch
from enrollment_service.cli.roles import roles
from enrollment_service.cli.serve import serve, worker
from enrollment_service.cli.verify import verify

# Nothing here forks while gRPC runs; its handlers for that would only cost time and print warnings.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@click.group()
def cli() -> None:
    """Enrollment Service: students, courses, and who sits in which course."""


for _command in (serve, worker, migrate, roles, new_epoch, health, verify, call, import_, descriptors):
    cli.add_command(_command)
