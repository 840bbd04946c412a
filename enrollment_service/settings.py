"""Every setting and its default, read once from the environment (`ENROLLMENT_...`)."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "ENROLLMENT_"

Profile = Literal["production", "dev"]


class Settings(BaseSettings):
    """The settings of one process. Times are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=True, env_ignore_empty=True)

    profile: Profile = Field("production", description="`dev` switches reflection on and authentication off.")
    listen: str = Field("127.0.0.1:50051", description="Address and port to serve on.")
    database_url: str = Field("", repr=False, description="`postgresql://user:password@host:port/database`.")
    reflection: bool | None = Field(None, description="Server reflection; unset: on in `dev` only.")
    workers: int = Field(1, ge=1, le=64, description="Server processes that share the port.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    shutdown_grace: float = Field(20.0, ge=0, description="How long calls under way may take after SIGTERM.")
    shutdown_delay: float = Field(0.5, ge=0, description="Wait between reporting NOT_SERVING and refusing calls.")
    default_deadline: float = Field(30.0, gt=0, description="Deadline of calls that set none.")
    stream_idle_timeout: float = Field(300.0, gt=0, description="How long a stream may wait for the next request.")
    max_streams: int = Field(32, ge=8, le=10_000, description="Calls at a time on one connection; more wait there.")
    max_waiting: int = Field(10_000, ge=1, description="Calls that may wait for the database before OVERLOADED.")
    max_waiting_lists: int = Field(100, ge=0, description="Lists that may wait for others before OVERLOADED.")
    max_batch: int = Field(256, ge=1, le=10_000, description="Commands in one transaction at the most.")
    max_message_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="Largest request in bytes.")
    lock_timeout_ms: int = Field(5_000, ge=1, description="How long a change waits for rows locked by others, in ms.")
    statement_timeout_ms: int = Field(20_000, ge=1, description="PostgreSQL statement_timeout, in ms.")
    connect_timeout: float = Field(5.0, gt=0, description="Time to wait for a database connection.")
    pool_size: int = Field(16, ge=9, description="Database connections per process at the most.")
    request_retention_hours: int = Field(72, ge=1, description="How long answers are kept for retries, in hours.")
    purge_interval: float = Field(60.0, gt=0, description="How often expired request ids are deleted.")

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
    def _production_stays_private(self) -> Settings:
        if self.profile == "production" and not self.listens_on_loopback:
            raise ValueError(
                "the production profile serves only on a loopback address until authentication is configured; "
                "set ENROLLMENT_LISTEN to 127.0.0.1:PORT, or ENROLLMENT_PROFILE=dev on a private network"
            )
        return self

    @classmethod
    def variables(cls) -> set[str]:
        """The names of the environment variables that are settings."""
        return {f"{PREFIX}{name.upper()}" for name in cls.model_fields}

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        host = self.listen.rpartition(":")[0].strip("[]")
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def address(self) -> str:
        """Where a client on this machine reaches the server."""
        host, _, port = self.listen.rpartition(":")
        local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        return f"{local}:{port}"

    @property
    def reflection_on(self) -> bool:
        """Whether server reflection answers."""
        return self.profile == "dev" if self.reflection is None else self.reflection


def _check_brackets(host: str, port: str) -> None:
    """Without them nobody could tell where an IPv6 address ends and the port begins."""
    try:
        ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError("write HOST:PORT; an IPv6 address is in brackets, for example [::1]:50051") from None
    if not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"an IPv6 address needs brackets: [{host.strip('[]')}]:{port}")
