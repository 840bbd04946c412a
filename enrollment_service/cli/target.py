"""How a command reaches a running server: options for TLS and for a token, the same for all commands that call one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from enrollment_service.cli.configuration import UNFIT
from enrollment_service.cli.endings import end
from enrollment_service.settings import is_loopback

if TYPE_CHECKING:
    import grpc

    from enrollment_service.client import EnrollmentClient


class Target(NamedTuple):
    """Where a server is, and with what to call it."""

    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token_file: Path | None = None

    def client(self, **options: Any) -> EnrollmentClient:
        """A client of the server; its other arguments are those of `EnrollmentClient`."""
        from enrollment_service.client import EnrollmentClient

        token = None
        if self.token_file is not None:
            self._check_token()
            token = self._token
        return EnrollmentClient(self.address, credentials=self.credentials(), token=token, **options)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For TLS; None without any of its options."""
        if not (self.ca or self.cert or self.key):
            return None
        import grpc

        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))

    def _check_token(self) -> None:
        """Ends the command if the token cannot be one, or would travel in the clear."""
        token = self._token()
        if not (token.isascii() and token.isprintable() and token and " " not in token):
            end(f"{self.token_file}: holds no access token", UNFIT)
        if self.credentials() is None and not is_loopback(self.address):
            end("a token is sent over TLS only, or to this machine: give --ca", UNFIT)

    def _token(self) -> str:
        # Each time anew: whoever renews it writes it there.
        return (_read(self.token_file) or b"").decode("utf-8-sig", "replace").strip()


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        end(f"{path}: {error.strerror}", UNFIT)


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets them as `ca`, `cert`, `key` and `token_file`."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    for name, text in (
        ("--token-file", "File with an access token."),
        ("--key", "File with the key of --cert (PEM)."),
        ("--cert", "File with a certificate of the caller (PEM)."),
        ("--ca", "File with the CAs that the server is checked against (PEM); switches TLS on."),
    ):
        command = click.option(name, type=file, help=text)(command)
    return command
