"""Makes certificates, a signing key and a token for `docker compose --profile production`, anew at each start.

For trying out: in production they come from those who issue them, and no private key of an authority lies beside them.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.algorithms import ECAlgorithm

# The user of the service's image.
OWNER = 10001
LIFETIME = timedelta(days=30)
ISSUER = "login.example.org"
AUDIENCE = "enrollment"
CERTIFICATES: dict[str, list[x509.GeneralName]] = {
    "server": [
        x509.DNSName("production"),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ],
    "portal": [x509.UniformResourceIdentifier("spiffe://example.org/portal")],
    "catalog": [x509.UniformResourceIdentifier("spiffe://example.org/catalog")],
}


def write(folder: Path, name: str, data: bytes) -> None:
    """Replaces a file in one step; only the service's user may read it."""
    fresh = folder / f".{name}"
    fresh.unlink(missing_ok=True)
    # In one step: without its capabilities, not even root may open a file to write that may only be read.
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
        file.write(data)
    if os.geteuid() == 0:
        os.chown(fresh, OWNER, OWNER)
    fresh.replace(folder / name)


def named(name: str) -> x509.Name:
    """A subject with this common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.CertificateBuilder:
    """What all certificates have in common."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def make_certificates(folder: Path) -> None:
    """An authority, of which only the certificate is kept, and a certificate for each of our programs."""
    authority = ec.generate_private_key(ec.SECP256R1())
    root = certificate("authority", authority, "authority", authority, ca=True).sign(authority, hashes.SHA256())
    write(folder, "ca.pem", root.public_bytes(Encoding.PEM))
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    for name, names in CERTIFICATES.items():
        key = ec.generate_private_key(ec.SECP256R1())
        builder = certificate(name, key, "authority", authority, ca=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.add_extension(usage, critical=False).sign(authority, hashes.SHA256())
        write(folder, f"{name}.pem", signed.public_bytes(Encoding.PEM))
        write(folder, f"{name}.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def make_token(folder: Path) -> None:
    """A key set, and a token of a reader. A new key has a new id, so that a server that runs looks for it at once."""
    key_id = secrets.token_hex(8)
    key = ec.generate_private_key(ec.SECP256R1())
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": key_id, "use": "sig", "alg": "ES256"}
    write(folder, "keys.json", json.dumps({"keys": [public]}).encode())
    expires = int(time.time() + LIFETIME.total_seconds())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "catalog", "exp": expires, "roles": ["reader"]}
    write(folder, "catalog.token", jwt.encode(claims, key, "ES256", headers={"kid": key_id}).encode())


if __name__ == "__main__":
    target = Path(sys.argv[1])
    make_certificates(target)
    make_token(target)
