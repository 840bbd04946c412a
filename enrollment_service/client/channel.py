"""How the client connects: to which addresses, and with which settings of the channel."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import grpc

# Calls go to all addresses that answer, in turn; one replica that restarts is passed over. No retry policy: see
# `retries`. gRPC's transparent retries stay on: they send only what has certainly not reached a server's code.
_SERVICE_CONFIG: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # Nor shall one come with the answer of a name server and retry beside us.
    ("grpc.service_config_disable_resolution", 1),
    # A server that was restarted is found again within a second or so; by itself gRPC waits up to two minutes. Calls
    # wait as long where the other servers go down meanwhile.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # An address that swallows everything is given up after this; by itself gRPC waits 20 seconds.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # Replicas that were replaced have new addresses.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # A peer that went silent under a long stream is noticed. The server wants at least five minutes between pings.
    ("grpc.keepalive_time_ms", 360_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
)


def opened(
    address: str, credentials: grpc.ChannelCredentials | None, options: Iterable[tuple[str, Any]]
) -> grpc.aio.Channel:
    """A channel to an address, with TLS if there are credentials; the caller's options win over ours."""
    chosen = list((dict(OPTIONS) | dict(options)).items())
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=chosen)
    return grpc.aio.secure_channel(address, credentials, options=chosen)
