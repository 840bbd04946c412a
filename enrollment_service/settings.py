"""Every setting and its default, read once from the environment (`ENROLLMENT_...`).

A secret may come from a file instead: beside a field `x` stands `x_file`, and nothing more is needed for another one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "ENROLLMENT_"

Profile = Literal["production", "dev"]


class SecretFileError(Exception):
    """A secret's file is of no use. The text names the setting, but no secret, nor what was taken for a path."""


class Settings(BaseSettings):
    """The settings of one process. Times are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=True, env_ignore_empty=True)

    profile: Profile = Field("production", description="`dev` switches reflection on and authentication off.")
    listen: str = Field("127.0.0.1:50051", description="Address and port to serve on.")
    database_url: str = Field("", repr=False, description="`postgresql://user:password@host:port/database`.")
    database_url_file: Path | None = Field(None, repr=False, description="A file that holds the URL instead.")
    database_password: str = Field("", repr=False, description="The password, as it is; then the URL has none.")
    database_password_file: Path | None = Field(
        None, repr=False, description="A file that holds the password instead; read anew for each connection."
    )
    auth: str = Field("", description="`jwt`, `mtls`, `jwt,mtls` or `none`; unset: `none` in `dev`, else refused.")
    jwt_issuer: str = Field("", description="The `iss` of access tokens.")
    jwt_audience: str = Field("", description="What the `aud` of access tokens must contain.")
    jwt_jwks: str = Field("", description="Keys of the issuer: a JSON Web Key Set, as a path or an https URL.")
    jwt_roles_claim: str = Field("roles", min_length=1, description="Claim with the list of a caller's roles.")
    jwt_student_claim: str = Field("student_id", min_length=1, description="Claim that says which student a caller is.")
    jwt_student_key: Literal["student_id", "external_id", "email"] = Field(
        "student_id", description="What of a student that claim holds: `student_id`, `external_id` or `email`."
    )
    jwt_refresh_interval: float = Field(300.0, ge=1, description="How often the keys are read again.")
    jwt_refresh_cool_down: float = Field(10.0, ge=0.1, description="Least time from one reading to the next.")
    tls: Literal["", "proxy"] = Field("", description="`proxy`: a proxy in front of this server ends TLS.")
    tls_cert: str = Field("", description="File with the certificate of this server, and its chain (PEM).")
    tls_key: str = Field("", description="File with its private key (PEM).")
    tls_client_ca: str = Field("", description="File with the CAs of clients (PEM); all need a certificate then.")
    mtls_roles: str = Field("", description="File that says which roles the names in certificates have (TOML).")
    reflection: bool | None = Field(None, description="Server reflection; unset: on in `dev` only.")
    workers: int = Field(1, ge=1, le=64, description="Server processes that share the port.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    metrics_listen: str = Field("", description="Address and port to serve metrics on, at `/metrics`; unset: off.")
    traces_endpoint: str = Field("", description="URL, with the port, that gets spans (OTLP over gRPC); unset: off.")
    shutdown_grace: float = Field(20.0, ge=0, description="How long calls under way may take after SIGTERM.")
    shutdown_delay: float = Field(0.5, ge=0, description="Wait between reporting NOT_SERVING and refusing calls.")
    default_deadline: float = Field(30.0, gt=0, description="Deadline of calls that set none.")
    stream_idle_timeout: float = Field(300.0, gt=0, description="How long a stream may wait for the next request.")
    max_streams: int = Field(32, ge=8, le=10_000, description="Calls at a time on one connection; more wait there.")
    max_open_streams: int = Field(2_000, ge=1, description="Streams open in a process before OVERLOADED.")
    max_connection_age: float | None = Field(
        None, ge=1, le=1e7, description="Clients connect anew after about so long."
    )
    max_caller_calls: int | None = Field(None, ge=1, description="Calls of one caller at a time, per process.")
    max_caller_streams: int | None = Field(None, ge=1, description="Streams of one caller at a time, per process.")
    max_caller_rate: float | None = Field(
        None, ge=0.01, le=1e6, description="Calls a second of one caller, per process."
    )
    max_caller_burst: int | None = Field(None, ge=1, description="Calls at once; unset: those of one second.")
    max_waiting: int = Field(10_000, ge=1, description="Calls that may wait for the database before OVERLOADED.")
    max_waiting_lists: int = Field(100, ge=0, description="Lists that may wait for others before OVERLOADED.")
    max_batch: int = Field(256, ge=1, le=10_000, description="Commands in one transaction at the most.")
    max_message_bytes: int = Field(4 * 1024 * 1024, ge=1024, le=1 << 30, description="Largest request in bytes.")
    max_metadata_bytes: int = Field(16 * 1024, ge=1024, le=1 << 20, description="Largest metadata of a call in bytes.")
    lock_timeout_ms: int = Field(5_000, ge=1, description="How long a change waits for rows locked by others, in ms.")
    statement_timeout_ms: int = Field(20_000, ge=1, description="PostgreSQL statement_timeout, in ms.")
    connect_timeout: float = Field(5.0, gt=0, description="Time to wait for a database connection.")
    pool_size: int = Field(16, ge=12, description="Database connections per process at the most.")
    watch_heartbeat: float = Field(15.0, gt=0, description="How often a watcher hears of the feed if nothing happens.")
    max_watcher_events: int = Field(
        20_000, ge=1, description="Events that may wait for one watcher before it is ended as too slow."
    )
    request_retention_hours: int = Field(72, ge=1, le=100_000, description="How long answers are kept, in hours.")
    event_retention_days: int | None = Field(
        None, ge=1, le=36_500, description="How long events are kept, in days; unset: for ever."
    )
    purge_interval: float = Field(60.0, gt=0, description="How often what has expired is deleted.")

    @model_validator(mode="before")
    @classmethod
    def _secrets_come_from_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        read = {}
        for name in cls.secrets():
            if file := values.get(f"{name}_file"):
                if values.get(name):
                    raise ValueError(f"{_variable(name)} and {_variable(name)}_FILE are both set: leave one out")
                read[name] = read_secret(file, f"{_variable(name)}_FILE")
        return values | read

    @field_validator("listen")
    @classmethod
    def _address_has_port(cls, value: str) -> str:
        host, separator, port = value.rpartition(":")
        numeric = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536
        if not (separator and host and numeric):
            raise ValueError("write HOST:PORT, for example 127.0.0.1:50051")
        if ":" in host or host.startswith("["):
            _check_brackets(host, port)
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _metrics_address_has_port(cls, value: str) -> str:
        return cls._address_has_port(value) if value else value

    @field_validator("traces_endpoint")
    @classmethod
    def _endpoint_is_a_url(cls, value: str) -> str:
        scheme, separator, address = value.partition("://")
        if value and not (separator and scheme in ("http", "https")):
            raise ValueError("write http://HOST:PORT, or https://HOST:PORT for TLS")
        if value:
            cls._address_has_port(address)
        return value

    @field_validator("database_url")
    @classmethod
    def _url_is_postgresql(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if not value:
            return value
        if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
            raise ValueError("write postgresql://user:password@host:port/database")
        return f"postgresql://{rest}"

    @model_validator(mode="after")
    def _password_is_given_once(self) -> Settings:
        if self.database_password and _has_password(self.database_url):
            raise ValueError("the password is given twice: leave it out of the database's URL")
        return self

    @field_validator("auth")
    @classmethod
    def _auth_is_known(cls, value: str) -> str:
        kinds = sorted(part.strip() for part in value.split(",")) if value else []
        if kinds not in ([], ["none"], ["jwt"], ["mtls"], ["jwt", "mtls"]):
            raise ValueError("write jwt, mtls, jwt,mtls or none")
        return ",".join(kinds)

    @field_validator("jwt_jwks")
    @classmethod
    def _keys_come_safely(cls, value: str) -> str:
        if "://" in value and not (value.startswith("https://") and _names_a_host(value)):
            raise ValueError("write a path or an https URL")
        return value

    @property
    def auth_kinds(self) -> frozenset[str]:
        """How callers may prove who they are; nobody has to where there is no way."""
        return frozenset(self.auth.split(",")) - {"", "none"}

    def problems_of_serving(self) -> Iterator[str]:
        """Why a server must not be started with these settings. Other commands need less of them."""
        yield from self._missing()
        if bool(self.tls_cert) != bool(self.tls_key):
            yield "ENROLLMENT_TLS_CERT and ENROLLMENT_TLS_KEY go together"
        if self.tls_client_ca and not self.tls_cert:
            yield "ENROLLMENT_TLS_CLIENT_CA needs ENROLLMENT_TLS_CERT and ENROLLMENT_TLS_KEY"
        if self.tls == "proxy" and "mtls" in self.auth_kinds:
            yield "ENROLLMENT_AUTH: behind a proxy that ends TLS there are no certificates; use jwt"
        if self.tls == "proxy" and self.tls_cert:
            yield "ENROLLMENT_TLS: a proxy that ends TLS needs no certificate here; unset it, or ENROLLMENT_TLS_CERT"
        if not self.listens_on_loopback:
            yield from self._exposed()

    def _missing(self) -> Iterator[str]:
        if self.profile == "production" and not self.auth:
            yield (
                "ENROLLMENT_AUTH: say how callers prove who they are: jwt, mtls or jwt,mtls; none only on a loopback "
                "address; or set ENROLLMENT_PROFILE=dev on a private network"
            )
        needed = {
            "jwt": ("jwt_issuer", "jwt_audience", "jwt_jwks"),
            "mtls": ("tls_cert", "tls_key", "tls_client_ca", "mtls_roles"),
        }
        for kind in sorted(self.auth_kinds):
            for name in needed[kind]:
                if not getattr(self, name).strip():
                    yield f"{PREFIX}{name.upper()}: needed for ENROLLMENT_AUTH={self.auth}"

    def _exposed(self) -> Iterator[str]:
        """What must not be on a network."""
        if self.profile == "production" and self.auth == "none":
            yield "ENROLLMENT_AUTH: none is allowed on a loopback address only; set ENROLLMENT_LISTEN to 127.0.0.1:PORT"
        if "jwt" in self.auth_kinds and not self.tls_cert and self.tls != "proxy":
            yield (
                "ENROLLMENT_TLS_CERT: tokens must not travel in the clear; set it and ENROLLMENT_TLS_KEY, "
                "or ENROLLMENT_TLS=proxy where a proxy in front ends TLS"
            )

    @classmethod
    def variables(cls) -> set[str]:
        """The names of the environment variables that are settings."""
        return {_variable(name) for name in cls.model_fields}

    @classmethod
    def secrets(cls) -> list[str]:
        """The names of the settings that may come from a file."""
        return [name for name in cls.model_fields if f"{name}_file" in cls.model_fields]

    @property
    def password(self) -> Callable[[], str] | None:
        """Gives the database's password to a new connection, as it is then; None where the URL is all there is.

        It raises SecretFileError where the file cannot be read any more.
        """
        if self.database_password_file is not None:
            return partial(read_secret, self.database_password_file, _variable("database_password_file"))
        return (lambda: self.database_password) if self.database_password else None

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        return is_loopback(self.listen)

    @property
    def address(self) -> str:
        """Where a client on this machine reaches the server."""
        return reachable(self.listen)

    @property
    def reflection_on(self) -> bool:
        """Whether server reflection answers."""
        return self.profile == "dev" if self.reflection is None else self.reflection


def reachable(address: str) -> str:
    """Where a server that listens on an address is reached from this machine."""
    host, separator, port = address.rpartition(":")
    local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - nothing is bound here
    return f"{local}{separator}{port}"


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_secret(file: str | Path, setting: str) -> str:
    """The secret in a file, without the line break at its end.

    Args:
        file: where it is.
        setting: what names the file, for the error.

    Raises:
        SecretFileError: the file cannot be read, is no text, or holds nothing.
    """
    try:
        secret = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        # No path: somebody may have put the secret itself there.
        raise SecretFileError(f"{setting}: the file cannot be read ({error.strerror})") from None
    except ValueError:
        raise SecretFileError(f"{setting}: the file is not text in UTF-8") from None
    if not secret:
        raise SecretFileError(f"{setting}: the file is empty")
    return secret


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _names_a_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname) and not any(letter.isspace() for letter in url)
    except ValueError:
        return False


def _has_password(url: str) -> bool:
    # Not with urlsplit, which takes offence at some URLs; what is wrong with those is said when they are used.
    place, _, query = url.partition("://")[2].partition("?")
    return ":" in place.partition("/")[0].rpartition("@")[0] or "password" in parse_qs(query)


def _check_brackets(host: str, port: str) -> None:
    """Without them nobody could tell where an IPv6 address ends and the port begins."""
    try:
        ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError("write HOST:PORT; an IPv6 address is in brackets, for example [::1]:50051") from None
    if not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"an IPv6 address needs brackets: [{host.strip('[]')}]:{port}")
