"""A certificate authority: certificates for servers and for callers, in files as an operator would have them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Certificate:
    """A certificate and its key, in two files."""

    def __init__(self, folder: Path, name: str, certificate: x509.Certificate, key: Any) -> None:
        self.cert = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"
        self.serial = certificate.serial_number
        _replace(self.cert, certificate.public_bytes(Encoding.PEM))
        _replace(self.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class Authority:
    """An authority of its own, with its certificate in a file."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(f"test authority {name}")
        certificate = self._signed(self._name, self._key, [], x509.BasicConstraints(ca=True, path_length=None))
        self.pem = certificate.public_bytes(Encoding.PEM)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.pem)

    def issue(
        self,
        name: str,
        *,
        dns: Sequence[str] = (),
        uri: Sequence[str] = (),
        ip: Sequence[str] = (),
        lasts: timedelta = timedelta(days=1),
    ) -> Certificate:
        """A certificate with these names, in files called `name`, which are replaced if they are there."""
        names: list[x509.GeneralName] = [x509.DNSName(one) for one in dns]
        names += [x509.UniformResourceIdentifier(one) for one in uri]
        names += [x509.IPAddress(ip_address(one)) for one in ip]
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[x509.ExtensionType] = [x509.SubjectAlternativeName(names)] if names else []
        extensions.append(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]))
        basic = x509.BasicConstraints(ca=False, path_length=None)
        return Certificate(self._folder, name, self._signed(_named(name), key, extensions, basic, lasts), key)

    def server(self, name: str = "server") -> Certificate:
        """A certificate for a server on this machine."""
        return self.issue(name, dns=["localhost"])

    def credentials(self, caller: Certificate | None = None) -> grpc.ChannelCredentials:
        """For a channel to a server with a certificate of this authority."""
        if caller is None:
            return grpc.ssl_channel_credentials(self.pem)
        return grpc.ssl_channel_credentials(self.pem, caller.key.read_bytes(), caller.cert.read_bytes())

    def _signed(
        self,
        subject: x509.Name,
        key: Any,
        extensions: Sequence[x509.ExtensionType],
        basic: x509.BasicConstraints,
        lasts: timedelta = timedelta(days=1),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + lasts)
            .add_extension(basic, critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(data)
    fresh.replace(path)
