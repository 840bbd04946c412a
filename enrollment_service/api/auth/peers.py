"""Services that prove themselves with a certificate (mTLS), and a file that says which roles they have.

The file is TOML; its tables `uri` and `dns` map names from certificates (SPIFFE ids among the first) to lists of roles:

    [uri]
    "spiffe://example.org/portal" = ["registrar"]
    [dns]
    "catalog.example.org" = ["reader"]
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cryptography import x509

from enrollment_service.api.auth.certificates import alternative_names
from enrollment_service.api.auth.files import Watched
from enrollment_service.api.auth.subjects import is_subject
from enrollment_service.domain.caller import Caller, Role
from enrollment_service.domain.errors import Unauthenticated

SETTING = "ENROLLMENT_MTLS_ROLES"
# A certificate has no claim that would say which student somebody is.
GRANTED = (Role.READER, Role.REGISTRAR)
MAX_REMEMBERED = 1_000

Names = tuple[str, str]
"""The kind of a name (`uri` or `dns`) and the name."""


class _Certificate(NamedTuple):
    """What is known of a certificate that gRPC has verified."""

    names: Sequence[Names]
    expires: float


class Peers:
    """Who is who among those with a certificate.

    Args:
        path: the file.

    Raises:
        UnusableFileError: it is not usable now.
    """

    def __init__(self, path: str) -> None:
        self._roles = Watched(SETTING, [path], roles_in)
        # By the certificate itself; the oldest first.
        self._remembered: dict[bytes, _Certificate] = {}

    def caller_of(self, auth_context: Mapping[str, Sequence[bytes]]) -> Caller:
        """Who is at the other end of a connection.

        Raises:
            Unauthenticated: there is no certificate, it has expired, or it names nobody.
        """
        pem = next(iter(auth_context.get("x509_pem_cert", ())), None)
        if pem is None:
            raise Unauthenticated("no certificate")
        certificate = self._remembered.get(pem) or self._remember(pem)
        if certificate.expires <= time.time():
            raise Unauthenticated("certificate expired")
        if not certificate.names:
            raise Unauthenticated("certificate names nobody")
        known = self._roles.latest()
        mapped = [name for name in certificate.names if name in known]
        roles = frozenset(role for name in mapped for role in known[name])
        # Whoever is in no table is known all the same, and may do nothing.
        _, subject = (mapped or certificate.names)[0]
        return Caller(subject, roles)

    def _remember(self, pem: bytes) -> _Certificate:
        # The names that gRPC tells end at a NUL.
        certificate = x509.load_pem_x509_certificate(pem)
        listed = [name for name in _names_in(certificate) if is_subject(name[1])]
        expires = certificate.not_valid_after_utc.timestamp()
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return self._remembered.setdefault(pem, _Certificate(listed, expires))


def _names_in(certificate: x509.Certificate) -> list[Names]:
    names = alternative_names(certificate)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    hosts = names.get_values_for_type(x509.DNSName)
    return [*(("uri", uri) for uri in uris), *(("dns", _normal("dns", host)) for host in hosts)]


def roles_in(text: bytes) -> dict[Names, frozenset[Role]]:
    """The roles of everybody in the file.

    Raises:
        ValueError: it is not the file that this module describes.
    """
    try:
        tables = tomllib.loads(text.decode())
    except ValueError as error:  # of the decoder and of the parser, which quotes nothing
        raise ValueError(f"is no TOML: {error}") from None
    if not set(tables) <= {"uri", "dns"} or not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError("may only have the tables [uri] and [dns]")
    return {
        (kind, _normal(kind, name)): _granted(name, listed)
        for kind, table in tables.items()
        for name, listed in table.items()
    }


def _granted(name: str, listed: object) -> frozenset[Role]:
    allowed = {str(role): role for role in GRANTED}
    if not isinstance(listed, list) or not all(isinstance(role, str) and role in allowed for role in listed):
        raise ValueError(f'"{name}" needs a list of roles; there are {" and ".join(allowed)}')
    return frozenset(allowed[role] for role in listed)


def _normal(kind: str, name: str) -> str:
    """Names of hosts mean the same in small and capital letters."""
    return name.lower() if kind == "dns" else name
