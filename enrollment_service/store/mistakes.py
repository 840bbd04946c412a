"""Which failures to connect are an operator's mistake: they stay until somebody changes something.

Everything else may pass: a server that is starting, has no connection free or cannot be reached, a name that DNS does
not know at the moment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg

from enrollment_service.settings import SecretFileError
from enrollment_service.store.faults import MisconfiguredError, explanation_of

SETTING = "ENROLLMENT_DATABASE_URL"
# By SQLSTATE or its class, what to look at.
_HINTS = {
    "28": f"check the user in {SETTING}, the password, and pg_hba.conf",
    "3D": f"create the database, or correct its name in {SETTING}",
    "42501": "grant the role what it lacks",
    # Whatever libpq does not know is handed to the server as a parameter of the session.
    "22023": f"check the parameters in {SETTING}",
    "42704": f"check the parameters in {SETTING}",
    "55P02": f"check the parameters in {SETTING}",
}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


@contextmanager
def mistakes_named(url: str) -> Iterator[None]:
    """Connecting goes inside the block.

    Raises:
        MisconfiguredError: it failed, and would fail again.
    """
    try:
        _check_ports(url)
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if hint := _HINTS.get(state) or _HINTS.get(state[:2]):
            raise MisconfiguredError(f"{explanation_of(error)}; {hint}", state) from error
        raise
    except SecretFileError as error:
        raise MisconfiguredError(str(error)) from error
    except asyncpg.ClientConfigurationError as error:
        raise MisconfiguredError(f"{SETTING}: {_first_line(error)}") from error
    except OSError as error:
        if unreadable := _unreadable_files(url):
            raise MisconfiguredError(f"{SETTING}: cannot read the file of {' and '.join(unreadable)}") from error
        raise
    except (ValueError, OverflowError) as error:
        # Its text may quote a part of a password that was not encoded.
        raise MisconfiguredError(
            f"{SETTING} is not a valid URL; is the host well-formed, and does the password encode `/`, `@`, `:` as "
            "%2F, %40, %3A?"
        ) from error


def _check_ports(url: str) -> None:
    """The event loop would take 70000 for another port."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    ports = [host.rpartition("]")[2].partition(":")[2] for host in hosts]
    for port in [*ports, *parse_qs(parts.query).get("port", [""])[-1].split(",")]:
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise MisconfiguredError(
                f"{SETTING}: the port must be a number from 1 to 65535; does the password encode `/` as %2F?"
            )


def _unreadable_files(url: str) -> list[str]:
    named = parse_qs(urlsplit(url).query)
    return [f"`{name}`" for name in _FILES if name in named and not os.access(named[name][-1], os.R_OK)]


def _first_line(error: Exception) -> str:
    return str(error.args[0]).splitlines()[0]
