"""TLS: the server's certificate and whom it trusts, read again when the files change.

gRPC asks at each new connection; those that are open keep what they were opened with.
"""

from __future__ import annotations

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from enrollment_service.api.auth.files import Watched
from enrollment_service.settings import Settings

SETTINGS = "ENROLLMENT_TLS_CERT, ENROLLMENT_TLS_KEY"
CLIENT_CA_SETTING = "ENROLLMENT_TLS_CLIENT_CA"


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """With what the server proves itself to its clients, and where certificates count, they to it; None: no TLS.

    Raises:
        UnusableFileError: a file cannot be read, or does not hold what it should.
    """
    if not settings.tls_cert:
        return None
    pair = Watched(SETTINGS, [settings.tls_cert, settings.tls_key], _pair)
    authorities = Watched(CLIENT_CA_SETTING, [settings.tls_client_ca], _authorities) if settings.tls_client_ca else None

    def latest() -> grpc.ServerCertificateConfiguration:
        roots = authorities.latest() if authorities else None
        return grpc.ssl_server_certificate_configuration([pair.latest()], roots)

    # gRPC's Python API knows no third way: certificates are demanded of every client, or of none.
    return grpc.dynamic_ssl_server_credentials(latest(), latest, require_client_authentication=authorities is not None)


def _pair(chain: bytes, key: bytes) -> tuple[bytes, bytes]:
    """The key and its certificate, which may be followed by those that it was signed with."""
    certificate = x509.load_pem_x509_certificate(chain)
    try:
        public = load_pem_private_key(key, password=None).public_key()
    except TypeError:
        raise ValueError("the key needs a password; store it without one") from None
    kind = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if certificate.public_key().public_bytes(*kind) != public.public_bytes(*kind):
        raise ValueError("the certificate is not for this key")
    return key, chain


def _authorities(bundle: bytes) -> bytes:
    x509.load_pem_x509_certificates(bundle)
    return bundle
