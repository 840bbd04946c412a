"""Asks a running server for its health over gRPC, as a container's health check does."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def check(listen: str, timeout: float) -> int:
    """The exit status for the server on this address: 0 if it serves.

    Args:
        listen: address and port that the server was told to listen on.
        timeout: how long to wait for the answer, in seconds.
    """
    host, _, port = listen.rpartition(":")
    reachable = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    with grpc.insecure_channel(f"{reachable}:{port}") as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)  # type: ignore[attr-defined]
        except grpc.RpcError:
            return 1
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1
