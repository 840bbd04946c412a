"""The command `call`: any method of a running server, JSON in and JSON out, for machines that have no grpcurl."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from enrollment_service.cli.target import Target, target_options
from enrollment_service.settings import reachable


@click.command()
@click.argument("method", metavar="METHOD")
@click.argument("request", metavar="[JSON]", default="{}")
@click.option(
    "--address",
    envvar="ENROLLMENT_LISTEN",
    default="127.0.0.1:50051",
    show_default=True,
    show_envvar=True,
    help="HOST:PORT.",
)
@target_options
@click.option("--timeout", default=10.0, show_default=True, help="Seconds for the call with all its retries.")
def call(method: str, request: str, address: str, timeout: float, **options: Path | None) -> None:
    """Call METHOD (such as EnrollStudent) with a request in JSON; `-` reads it from standard input.

    Methods that take a stream take JSON lines; methods that answer with a stream answer in JSON lines. A request_id is
    made where the request has none, and calls are retried as the client for Python retries them.

    Exit status 0 if it was answered; 1 if it was refused, so that nothing was changed; 2 if there is no such method or
    the JSON is not a request of it; 3 if there was no answer, or one that leaves open what happened. The error, with
    all its details, is JSON on standard error.
    """
    # What gRPC says there about connections is no JSON.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from enrollment_service.cli.json_call import run

    sys.exit(run(method, request, Target(reachable(address), **options), timeout))
