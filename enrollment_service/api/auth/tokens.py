"""Access tokens: a JWT (RFC 7519) that an identity provider has signed, and what it says of its bearer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jwt
from jwt.exceptions import PyJWTError

from enrollment_service.api.auth.keys import ALGORITHMS, Keys
from enrollment_service.api.auth.subjects import is_subject
from enrollment_service.api.fields import is_external_id
from enrollment_service.domain.caller import Caller, Role, StudentKey
from enrollment_service.domain.errors import Unauthenticated

MAX_TOKEN_BYTES = 8 * 1024
# How far the clocks of the identity provider and of this machine may be apart.
CLOCK_SKEW_SECONDS = 30.0
MAX_REMEMBERED = 10_000
MAX_ID = 2**63 - 1
MAX_ID_DIGITS = len(str(MAX_ID))
# What the library raises, and what numbers and nesting without limits raise inside it.
_FAILURES = (PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
# For the log; nothing of the token.
_CAUSES: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "token expired",
    jwt.ImmatureSignatureError: "token not valid yet",
    jwt.InvalidAudienceError: "wrong audience",
    jwt.InvalidIssuerError: "wrong issuer",
    jwt.InvalidSignatureError: "wrong signature",
    jwt.InvalidAlgorithmError: "algorithm not accepted",
    jwt.MissingRequiredClaimError: "claim missing",
}
_ROLES = {str(role): role for role in Role}


class _Remembered(NamedTuple):
    """What a token said that was verified with the keys of that time; it expires in seconds since the epoch."""

    caller: Caller
    expires: float
    generation: int


class Tokens:
    """Verifies tokens, and remembers those that were good until they expire.

    Args:
        keys: what they may be signed with.
        issuer: who must have issued them.
        audience: for whom they must be.
        roles_claim: the claim that holds a list of roles.
        student_claim: the claim that says which student the bearer is.
        student_key: by what: `student_id`, `external_id` or `email`.
    """

    def __init__(
        self, keys: Keys, issuer: str, audience: str, roles_claim: str, student_claim: str, student_key: str
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._roles_claim = roles_claim
        self._student_claim = student_claim
        self._student_key = student_key
        # By their digest, so that no token lies about in memory; the oldest first.
        self._remembered: dict[bytes, _Remembered] = {}

    async def caller_of(self, token: str) -> Caller:
        """Who bears a token.

        Raises:
            Unauthenticated: it is not good.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated("token too long")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = self._remembered.get(digest)
        if found and found.expires > time.time() and found.generation == self._keys.generation:
            return found.caller
        verified = await self._verified(token)
        self._remember(digest, verified)
        return verified.caller

    async def _verified(self, token: str) -> _Remembered:
        generation = self._keys.generation
        try:
            header = jwt.get_unverified_header(token)
            key_id, algorithm = header.get("kid"), header.get("alg")
            if algorithm not in ALGORITHMS:
                raise Unauthenticated("algorithm not accepted")
            key = await self._keys.find(key_id)
            if key is None:
                raise Unauthenticated("key not known")
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=CLOCK_SKEW_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            expires = int(claims["exp"]) + CLOCK_SKEW_SECONDS
            return _Remembered(self._caller_in(claims), expires, generation)
        except _FAILURES as error:
            raise Unauthenticated(_CAUSES.get(type(error), "token malformed")) from None

    def _caller_in(self, claims: Mapping[str, Any]) -> Caller:
        subject = claims["sub"]
        if not is_subject(subject):
            raise Unauthenticated("subject not usable")
        roles, claim = _roles_in(claims.get(self._roles_claim)), claims.get(self._student_claim)
        if self._student_key == "student_id":
            return Caller(subject, roles, _student_id_in(claim))
        return Caller(subject, roles, student_key=_student_key_in(claim, self._student_key))

    def _remember(self, digest: bytes, verified: _Remembered) -> None:
        self._remembered.pop(digest, None)
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = verified


def _roles_in(claim: object) -> frozenset[Role]:
    """Those in a list that we know; other services have roles of their own there."""
    listed = claim if isinstance(claim, list) else []
    return frozenset(_ROLES[role] for role in listed if isinstance(role, str) and role in _ROLES)


def _student_key_in(claim: object, field: str) -> StudentKey | None:
    """The text in a claim, which may be a number where the student system numbers students; nothing else names one."""
    value = str(claim) if type(claim) is int else claim
    return StudentKey(field, value) if isinstance(value, str) and is_external_id(value) else None


def _student_id_in(claim: object) -> int | None:
    """The id in a claim, which is a number or decimal digits; anything else names no student."""
    if isinstance(claim, str) and claim.isascii() and claim.isdigit() and len(claim) <= MAX_ID_DIGITS:
        claim = int(claim)
    return claim if type(claim) is int and 0 < claim <= MAX_ID else None
