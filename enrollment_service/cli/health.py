"""The command `health`: asks a running server over gRPC whether it serves, as a container's health check does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from enrollment_service.cli.configuration import read_settings
from enrollment_service.cli.endings import UNUSABLE, end

if TYPE_CHECKING:
    import grpc

    from enrollment_service.settings import Settings


@click.command()
@click.option("--service", default="", help="The service to ask for; `ready` says whether the database can be written.")
@click.option("--timeout", default=3.0, show_default=True, help="Seconds to wait for the answer.")
def health(service: str, timeout: float) -> None:
    """Ask the server on ENROLLMENT_LISTEN whether it serves; exit status 0 if so.

    Where the settings name a certificate for the server, it is asked over TLS, and the command shows the same one.
    """
    settings = read_settings()
    sys.exit(check(settings.address, timeout, service, _secured(settings)))


class Secured(NamedTuple):
    """How to ask a server that serves TLS."""

    credentials: grpc.ChannelCredentials
    name: str


def _secured(settings: Settings) -> Secured | None:
    if not settings.tls_cert:
        return None
    from enrollment_service.api.auth.certificates import credentials_for_itself
    from enrollment_service.api.auth.files import UnusableFileError

    try:
        return Secured(*credentials_for_itself(settings))
    except UnusableFileError as error:
        end(str(error), UNUSABLE)


def check(address: str, timeout: float, service: str = "", secured: Secured | None = None) -> int:
    """The exit status for the server on this address: 0 if it serves.

    Args:
        address: host and port of the server.
        timeout: how long to wait for the answer, in seconds.
        service: the name to ask for; empty: the server as a whole.
        secured: how to ask over TLS; None: without.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    channel_to = (
        grpc.insecure_channel(address)
        if secured is None
        else grpc.secure_channel(address, secured.credentials, [("grpc.ssl_target_name_override", secured.name)])
    )
    with channel_to as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)  # type: ignore[attr-defined]
        except grpc.RpcError:
            return 1
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1
