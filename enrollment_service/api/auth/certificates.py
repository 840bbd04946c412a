"""TLS: the server's certificate and whom it trusts, read again when the files change.

gRPC asks at each new connection; those that are open keep what they were opened with.
"""

from __future__ import annotations

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from enrollment_service.api.auth.files import Watched
from enrollment_service.settings import Settings

SETTINGS = "ENROLLMENT_TLS_CERT, ENROLLMENT_TLS_KEY"
CLIENT_CA_SETTING = "ENROLLMENT_TLS_CLIENT_CA"


def server_credentials(settings: Settings) -> grpc.ServerCredentials:
    """With what the server proves itself to its clients, and where certificates are demanded, they to it.

    Raises:
        UnusableFileError: a file cannot be read, or does not hold what it should.
    """
    files = _Files(settings)
    # gRPC's Python API knows no third way: certificates are demanded of every client, or of none.
    demanded = bool(settings.tls_client_ca)
    return grpc.dynamic_ssl_server_credentials(
        files.latest(),
        files.changed,  # type: ignore[arg-type] # may return None, says its documentation
        require_client_authentication=demanded,
    )


class _Files:
    """What new connections are made with."""

    def __init__(self, settings: Settings) -> None:
        self._pair = Watched(SETTINGS, [settings.tls_cert, settings.tls_key], _pair)
        self._authorities = (
            Watched(CLIENT_CA_SETTING, [settings.tls_client_ca], _authorities) if settings.tls_client_ca else None
        )
        self._given = self._contents()

    def latest(self) -> grpc.ServerCertificateConfiguration:
        """What is in them."""
        self._given = pair, authorities = self._contents()
        return grpc.ssl_server_certificate_configuration([pair], authorities)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The same, if it was not said yet: gRPC asks at every connection, and would take in all of it anew."""
        return self.latest() if self._contents() != self._given else None

    def _contents(self) -> tuple[tuple[bytes, bytes], bytes | None]:
        return self._pair.latest(), self._authorities.latest() if self._authorities else None


def credentials_for_itself(settings: Settings) -> tuple[grpc.ChannelCredentials, str]:
    """With what a server can ask itself, and the name in its certificate.

    It trusts this very certificate, and shows it as its own where certificates are demanded; so then it must be one of
    the client CA's, and good for clients, too.

    Raises:
        UnusableFileError: a file cannot be read, or does not hold what it should.
    """
    key, chain = Watched(SETTINGS, [settings.tls_cert, settings.tls_key], _pair).latest()
    name = _name_in(x509.load_pem_x509_certificate(chain))
    own = {"private_key": key, "certificate_chain": chain} if settings.tls_client_ca else {}
    return grpc.ssl_channel_credentials(chain, **own), name


def alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    """The names in a certificate; none where they are missing, or cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return x509.SubjectAlternativeName([])


def _name_in(certificate: x509.Certificate) -> str:
    names = alternative_names(certificate)
    hosts = names.get_values_for_type(x509.DNSName)
    return next(iter([*hosts, *map(str, names.get_values_for_type(x509.IPAddress))]), "localhost")


def _pair(chain: bytes, key: bytes) -> tuple[bytes, bytes]:
    """The key and its certificate, which may be followed by those that it was signed with."""
    certificate, *_ = _whole(chain)
    try:
        public = load_pem_private_key(key, password=None).public_key()
    except TypeError:
        raise ValueError("the key needs a password; store it without one") from None
    kind = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if not (isinstance(public, RSAPublicKey) or _is_on_known_curve(public)):
        raise ValueError("the key must be RSA, or EC on P-256, P-384 or P-521")
    if certificate.public_key().public_bytes(*kind) != public.public_bytes(*kind):
        raise ValueError("the certificate is not for this key")
    return key, chain


def _authorities(bundle: bytes) -> bytes:
    _whole(bundle)
    return bundle


def _whole(text: bytes) -> list[x509.Certificate]:
    """All certificates in a file, of which none is cut off: it may just be being written."""
    found = x509.load_pem_x509_certificates(text)
    if not len(found) == text.count(b"-----BEGIN ") == text.count(b"-----END CERTIFICATE-----"):
        raise ValueError("a certificate in it is not whole")
    return found


def _is_on_known_curve(key: object) -> bool:
    return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, (SECP256R1, SECP384R1, SECP521R1))
