"""An identity provider: keys, the set that it publishes, and tokens that it signs, good ones and bad ones."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://login.example.org"
AUDIENCE = "enrollment"
LIFETIME = 600


class SigningKey:
    """A key pair for one algorithm."""

    def __init__(self, key_id: str, algorithm: str = "ES256") -> None:
        self.key_id = key_id
        self.algorithm = algorithm
        self.private: Any = {
            "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }[algorithm]()

    def public(self, **members: Any) -> dict[str, Any]:
        """Its entry in a key set."""
        kind: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[self.algorithm]
        entry: dict[str, Any] = kind.to_jwk(self.private.public_key(), as_dict=True)
        return entry | {"kid": self.key_id, "use": "sig", "alg": self.algorithm} | members

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """A token with these claims."""
        headers = {name: value for name, value in ({"kid": self.key_id} | header).items() if value is not None}
        return jwt.encode(claims, self.private, self.algorithm, headers=headers)


def key_set(*keys: SigningKey) -> str:
    """A JSON Web Key Set."""
    return json.dumps({"keys": [key.public() for key in keys]})


def claims(*roles: str, subject: str = "somebody", **others: Any) -> dict[str, Any]:
    """The claims of a good token."""
    now = int(time.time())
    basic = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + LIFETIME, "roles": list(roles)}
    return {name: value for name, value in (basic | others).items() if value is not None}


def unsigned(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = (json.dumps(header).encode(), json.dumps(body).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


class Provider:
    """A provider with one key, which publishes its set in a file."""

    def __init__(self, folder: Path, algorithm: str = "ES256") -> None:
        self.key = SigningKey("first", algorithm)
        self.file = folder / "keys.json"
        self.publish(self.key)

    def publish(self, *keys: SigningKey) -> None:
        """Replaces the published set."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(key_set(*keys))
        fresh.replace(self.file)

    def token(self, *roles: str, **others: Any) -> str:
        """A good token; keyword arguments are claims, None leaves one out."""
        return self.key.sign(claims(*roles, **others))

    @property
    def settings(self) -> dict[str, Any]:
        """What a service needs to take its tokens."""
        return {"auth": "jwt", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks": f"{self.file}"}


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with a token."""
    return (("authorization", f"Bearer {token}"),)


def forged_with_public_key(provider: Provider) -> str:
    """Signed with HS256, and the public key as the secret."""
    secret = provider.key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = unsigned({"alg": "HS256", "kid": "first"}, claims("registrar")).rpartition(".")[0]
    signature = hmac.new(secret, head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


class KeyServer:
    """What answers at the address of a key set: a body, a status, or nothing at all."""

    def __init__(self) -> None:
        self.body = b"{}"
        self.status = 200
        self.silent = False
        # How often it answers before it fails for good; None: always.
        self.answers: int | None = None
        self.asked = 0
        self.address = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request on one connection."""
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            if self.answers is not None and self.asked > self.answers:
                self.status = 503
            if self.silent:
                await reader.read()
            head = f"HTTP/1.1 {self.status} -\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n"
            if self.status == 302:
                head += "Location: https://elsewhere.example.org/\r\n"
            writer.write(head.encode() + b"\r\n" + self.body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def key_server(certificate: Path, key: Path) -> AsyncIterator[KeyServer]:
    """An https server on this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    served = KeyServer()
    server = await asyncio.start_server(served.answer, "127.0.0.1", 0, ssl=context)
    served.address = f"https://localhost:{server.sockets[0].getsockname()[1]}/keys"
    try:
        yield served
    finally:
        server.close()
