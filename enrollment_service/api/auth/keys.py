"""The keys that access tokens are signed with: a JSON Web Key Set (RFC 7517) from a file or an https address.

They are fetched in the background. One that is not known is looked for at once, but not more often than the cool-down
allows; whoever sends tokens with invented key ids makes us ask no oftener than that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK

from enrollment_service.api.auth.files import UnusableFileError

log = structlog.get_logger()

ALGORITHMS = ("RS256", "ES256", "EdDSA")
SETTING = "ENROLLMENT_JWT_JWKS"
MAX_BYTES = 1 << 20
MAX_KEYS = 100
MIN_RSA_BITS = 2048
FETCH_SECONDS = 5.0

KeySet = dict[str, PyJWK]
"""Keys by their id; at most one has none, and then its id is empty."""


class KeysUnavailableError(Exception):
    """The key set could not be fetched, or holds no key that can be used; it may another time."""


class Keys:
    """The keys that are known.

    Args:
        read: fetches the key set as bytes; raises OSError where it cannot.
        interval: how often it is fetched again, in seconds.
        cool_down: the least time from one attempt to the next, in seconds.
    """

    def __init__(self, read: Callable[[], Awaitable[bytes]], interval: float, cool_down: float) -> None:
        self._read = read
        self._interval = interval
        self._cool_down = cool_down
        self._keys: KeySet = {}
        self._fetching: asyncio.Task[None] | None = None
        self._allowed_from = 0.0
        self._refreshing: asyncio.Task[None] | None = None
        # Rises whenever a key has gone or was replaced: what was verified before is not to be trusted any more.
        self.generation = 0

    async def start(self) -> None:
        """Fetches them for the first time, if that can be done, and keeps them fresh from now on."""
        await self._fetch_once()
        self._refreshing = asyncio.create_task(self._refresh_for_ever())

    async def stop(self) -> None:
        """Fetches no more."""
        tasks = [task for task in (self._refreshing, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def find(self, key_id: str | None) -> PyJWK | None:
        """The key with this id; a token that names none means the only key there is.

        Waits for one fetch, unless the last attempt was too recent.
        """
        found = self._known(key_id)
        if found is None and (self._fetching is not None or asyncio.get_running_loop().time() >= self._allowed_from):
            await self._fetch_once()
            found = self._known(key_id)
        return found

    def _known(self, key_id: str | None) -> PyJWK | None:
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    async def _fetch_once(self) -> None:
        """Fetches them together with whoever asks meanwhile; where that fails, those that are known stay."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_or_tell())
            self._fetching.add_done_callback(self._fetched)
        # A caller that goes away does not take the fetch from the others.
        await asyncio.shield(self._fetching)

    def _fetched(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch_or_tell(self) -> None:
        try:
            await self._fetch()
        except KeysUnavailableError as error:
            log.warning("keys not fetched, keeping those that are known", problem=str(error))

    async def _fetch(self) -> None:
        try:
            keys = key_set_of(await self._read())
        except Exception as error:  # whatever an issuer sends, what is known stays
            raise KeysUnavailableError(problem_of(error)) from error
        finally:
            self._allowed_from = asyncio.get_running_loop().time() + self._cool_down
        if any(not _same(keys.get(key_id), key) for key_id, key in self._keys.items()):
            self.generation += 1
        self._keys = keys

    async def _refresh_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._fetch_once()


def _same(one: PyJWK | None, other: PyJWK) -> bool:
    return one is not None and one.algorithm_name == other.algorithm_name and bool(one.key == other.key)


def key_set_of(data: bytes) -> KeySet:
    """The keys of a set that can be used: public, for signatures, and of the algorithms we take.

    Raises:
        ValueError: it is no key set, or there is none.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"holds more than {MAX_BYTES} bytes")
    try:
        listed = orjson.loads(data)["keys"]
        entries = [entry for entry in listed if isinstance(entry, dict)][:MAX_KEYS]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ValueError("is no JSON Web Key Set") from None
    keys: KeySet = {}
    for entry in entries:
        key_id = entry.get("kid", "")
        if isinstance(key_id, str) and (key := _usable(entry)) is not None:
            keys.setdefault(key_id, key)
    if not keys:
        raise ValueError(f"holds no public key for {', '.join(ALGORITHMS)}")
    return keys


def _usable(entry: dict[str, Any]) -> PyJWK | None:
    if entry.get("use", "sig") != "sig" or "d" in entry or entry.get("kty") == "oct":
        return None
    try:
        key = PyJWK(entry)
    except Exception:  # noqa: BLE001 - the library raises all sorts of things over odd entries
        return None
    weak = isinstance(key.key, RSAPublicKey) and key.key.key_size < MIN_RSA_BITS
    return key if key.algorithm_name in ALGORITHMS and not weak else None


def problem_of(error: Exception) -> str:
    """What to tell an operator: no text of a peer."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        error = error.reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (getattr(error, "strerror", None) or str(error)) if isinstance(error, ValueError | OSError) else "failed"


def reader_of(source: str) -> Callable[[], Awaitable[bytes]]:
    """Reads a key set from a path or an https address; raises OSError where it cannot."""
    if source.startswith("https://"):
        return lambda: _fetched_from(source)
    return lambda: asyncio.to_thread(Path(source).read_bytes)


async def _fetched_from(address: str) -> bytes:
    """In a thread that nobody waits for longer than the time it may take, not even at the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    def settle(body: bytes, error: Exception | None) -> None:
        if not answer.done():
            answer.set_result(body) if error is None else answer.set_exception(error)

    def run() -> None:
        body, failure = b"", None
        try:
            body = _get(address)
        except Exception as error:  # noqa: BLE001 - raised again where it was asked for
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, body, failure)

    threading.Thread(target=run, name="keys", daemon=True).start()
    async with asyncio.timeout(FETCH_SECONDS):
        return await answer


def _get(address: str) -> bytes:
    """Blocks. Proxies and CAs are those of the environment."""
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=ssl.create_default_context()), _NoRedirects
    )
    try:
        response = opener.open(address, timeout=FETCH_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()  # it is the answer, too
        raise
    with contextlib.closing(response):
        return b"".join(_within_time(response))


def _within_time(response: Any) -> Iterator[bytes]:
    """What comes, piece by piece, as long as it may take and until it is too much."""
    ends, size = time.monotonic() + FETCH_SECONDS, 0
    while size <= MAX_BYTES and (piece := response.read1(MAX_BYTES)):
        if time.monotonic() > ends:
            raise TimeoutError
        size += len(piece)
        yield piece


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An address that was written down in the settings does not send us elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


async def check_source(source: str) -> None:
    """Whether keys can be had from a source now.

    Raises:
        UnusableFileError: it is a file that is of no use.
        KeysUnavailableError: it is an address, and they cannot be fetched yet.
    """
    try:
        key_set_of(await reader_of(source)())
    except Exception as error:
        if source.startswith("https://"):
            raise KeysUnavailableError(problem_of(error)) from error
        raise UnusableFileError(f"{SETTING}: {problem_of(error)}") from error
