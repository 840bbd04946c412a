"""The command `health`: asks a running server over gRPC whether it serves, as a container's health check does."""

from __future__ import annotations

import sys

import click

from enrollment_service.cli.configuration import read_settings


@click.command()
@click.option("--service", default="", help="The service to ask for; `ready` says whether the database can be written.")
@click.option("--timeout", default=3.0, show_default=True, help="Seconds to wait for the answer.")
def health(service: str, timeout: float) -> None:
    """Ask the server on ENROLLMENT_LISTEN whether it serves; exit status 0 if so."""
    sys.exit(check(read_settings().address, timeout, service))


def check(address: str, timeout: float, service: str = "") -> int:
    """The exit status for the server on this address: 0 if it serves.

    Args:
        address: host and port of the server.
        timeout: how long to wait for the answer, in seconds.
        service: the name to ask for; empty: the server as a whole.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)  # type: ignore[attr-defined]
        except grpc.RpcError:
            return 1
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1
