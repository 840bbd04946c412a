"""Page tokens: where a list goes on. Opaque to callers, bound to their query, told from damaged ones."""

from __future__ import annotations

import base64
import binascii
import hashlib

from enrollment_service.domain.errors import EnrollmentError, Reason

_CHECK_BYTES = 8


def encode(scope: str, *key: int) -> str:
    """A token for the rows after `key` of the list that `scope` describes."""
    payload = ",".join(map(str, key)).encode()
    return base64.urlsafe_b64encode(_check(scope, payload) + payload).decode().rstrip("=")


def decode(scope: str, token: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """The key inside a token; `default` for no token.

    Raises:
        EnrollmentError: PAGE_TOKEN_INVALID, for a token that is damaged or of another query.
    """
    if not token:
        return default
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        check, payload = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        key = tuple(map(int, payload.split(b",")))
    except (ValueError, binascii.Error):
        raise _invalid() from None
    if check != _check(scope, payload) or len(key) != len(default):
        raise _invalid()
    return key


def _check(scope: str, payload: bytes) -> bytes:
    """Detects accidents and mix-ups. It is no secret: a forged position shows nothing that a list would not."""
    return hashlib.blake2b(payload, digest_size=_CHECK_BYTES, key=hashlib.sha256(scope.encode()).digest()).digest()


def _invalid() -> EnrollmentError:
    return EnrollmentError.one(
        Reason.PAGE_TOKEN_INVALID,
        "page_token",
        "is not a token of this list; start again without one",
        field="page_token",
    )
