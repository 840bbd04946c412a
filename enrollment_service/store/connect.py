"""Opens a connection to the database: the one way for the service and for migrations.

The URL is libpq's, so that sslmode, several hosts and the like work as everywhere else. Of several hosts the first
that answers and has the wanted `target_session_attrs` is taken, and none may use up the time of the others.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlencode
from weakref import WeakKeyDictionary

import asyncpg

from enrollment_service.store.driver import DriverConnection
from enrollment_service.store.mistakes import mistakes_named

_URL = re.compile(r"([^:]*://)([^/?#]*)(.*)", re.DOTALL)

# Of several hosts each gets so long; those that were silent are asked again with twice the patience.
HOST_SECONDS = 1.0
# Nobody can slip a table of theirs under a name of ours: temporary ones come last, and no schema of a role's own first.
SEARCH_PATH = {"search_path": "public, pg_temp"}
# When the network swallows what was sent, or the other end has gone without a word, the kernel finds out by itself.
UNACKNOWLEDGED_MS = 5_000
KEEPALIVE_IDLE_SECONDS = 5
KEEPALIVE_INTERVAL_SECONDS = 2
KEEPALIVE_COUNT = 3
# A host that was silent is asked after the others for so long: otherwise every new connection would wait for it.
SHUN_SECONDS = 30.0
# It cannot be reached, hangs up, is starting or stopping, or is a standby where a primary is wanted.
_UNWILLING = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)
# When each host was silent, by the monotonic clock.
_silent_at: dict[str, float] = {}
# Gives the password to whoever connects; None where the URL has it.
Password: TypeAlias = Callable[[], str] | None


class _Way(NamedTuple):
    """How to come to one host: the URL with this host alone, and the password."""

    url: str
    password: Password


# Where each connection leads.
_ways: WeakKeyDictionary[DriverConnection, _Way] = WeakKeyDictionary()
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEPALIVE_COUNT),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
)


async def connect(
    url: str, *, password: Password = None, timeout_seconds: float, server_settings: dict[str, str]
) -> DriverConnection:
    """A connection to the first host of a URL that will have us.

    Raises:
        TimeoutError: some host did not answer in time, and no other would have us.
        OSError: no host can be reached, or none is what `target_session_attrs` asks for.
        MisconfiguredError: we were refused, and would be again.
    """
    with mistakes_named(url):
        return await _first_willing(url, password, timeout_seconds, SEARCH_PATH | server_settings)


async def _first_willing(
    url: str, password: Password, timeout_seconds: float, server_settings: dict[str, str]
) -> DriverConnection:
    hosts = sorted(one_by_one(url), key=_was_silent)
    patience = timeout_seconds if len(hosts) == 1 else HOST_SECONDS
    async with asyncio.timeout(timeout_seconds):
        while True:
            silent: list[str] = []
            unwilling: Exception | None = None
            for host in hosts:
                try:
                    connection = await asyncpg.connect(
                        host,
                        password=password,
                        timeout=patience,
                        server_settings=server_settings,
                        connection_class=DriverConnection,
                    )
                except TimeoutError:
                    silent.append(host)
                    _silent_at[host] = time.monotonic()
                except _UNWILLING as error:
                    unwilling = error
                else:
                    _ways[connection] = _Way(host, password)
                    return _probed(connection)
            if not silent and unwilling is not None:
                raise _as_lost(unwilling)
            hosts, patience = silent, patience * 2


def _was_silent(host: str) -> bool:
    """Whether a host did not answer a short while ago."""
    return time.monotonic() - _silent_at.get(host, float("-inf")) < SHUN_SECONDS


async def answers(connection: DriverConnection) -> bool:
    """Whether the server that a connection leads to answers a newcomer, be it with a refusal."""
    url, password = _ways[connection]
    try:
        newcomer = await asyncpg.connect(url, password=password, timeout=HOST_SECONDS * 2)
    except (OSError, asyncpg.PostgresConnectionError):  # a TimeoutError is one of the former
        _silent_at[url] = time.monotonic()
        return False
    except (asyncpg.PostgresError, asyncpg.TargetServerAttributeNotMatched):
        return True
    newcomer.terminate()
    return True


def _as_lost(error: Exception) -> Exception:
    """The error as one of a lost connection: after a failover there may be no primary for a while."""
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return ConnectionError(f"{error}")
    return error


def one_by_one(url: str) -> list[str]:
    """A database URL with several hosts as several URLs with one host each, otherwise alike."""
    # Not with urlsplit: it takes several hosts for a wrong one where an IPv6 address is among them.
    start, place, rest = _URL.fullmatch(url).groups()  # type: ignore[union-attr]
    login, at, hosts = place.rpartition("@")
    if hosts:
        return [f"{start}{login}{at}{host}{rest}" for host in hosts.split(",")]
    path, _, query = rest.partition("?")
    options = dict(parse_qsl(query))
    named = options.get("host", "").split(",")
    if len(named) == 1:
        return [url]
    ports = options.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(named)
    return [
        f"{start}{place}{path}?{urlencode({**options, 'host': host, 'port': port})}"
        for host, port in zip(named, ports, strict=True)
    ]


def _probed(connection: DriverConnection) -> DriverConnection:
    """The connection, with the kernel asked to find out when the other end is gone, as far as the platform can."""
    transport: asyncio.Transport = connection._transport  # type: ignore[attr-defined]
    used = transport.get_extra_info("socket")
    if used.family != socket.AF_UNIX:
        for level, name, value in _SOCKET_OPTIONS:
            if hasattr(socket, name):
                used.setsockopt(level, getattr(socket, name), value)
    return connection
