"""Paging, all of it: what comes after, how many rows, where a page is cut, and the token that goes on from there.

A token is opaque to callers, bound to its list, and nothing in it is trusted further than a field of the request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from enrollment_service.domain.errors import Reason, Violation, invalid_field

# How many rows a page has where the caller does not say, and at the most.
DEFAULT_ROWS = 50
MAX_ROWS = 1_000
# A page ends early before it becomes larger than clients accept (4 MB by default).
MAX_PAGE_BYTES = 2_000_000
_CHECK_BYTES = 8

IDS = range(2**63)

Key: TypeAlias = tuple[int, ...]
Record = TypeVar("Record")
Row = TypeVar("Row")


class Page(NamedTuple):
    """Which page of a list is wanted.

    `scope` says which list: the method and its filter. `carried` is what the first page has given to this one.
    """

    scope: str
    after: Key
    limit: int
    carried: str = ""

    @property
    def rows_to_read(self) -> int:
        """One more than the page holds: its presence says that there is another page."""
        return self.limit + 1

    def cut(
        self,
        found: Sequence[Record],
        encode: Callable[[Record], Row],
        size: Callable[[Row], int],
        key: Callable[[Record], Key],
        carried: Callable[[], str] = str,
    ) -> tuple[list[Row], str]:
        """As many rows as fit in the page, and the token for the rest; an empty one if there is none.

        Args:
            found: what was read, up to `rows_to_read` records.
            encode: makes a row of the answer from a record.
            size: of a row, in bytes.
            key: where a page that begins after this record goes on.
            carried: what the token carries along.
        """
        rows: list[Row] = []
        total = 0
        for record in found:
            row = encode(record)
            total += size(row)
            if len(rows) == self.limit or (rows and total > MAX_PAGE_BYTES):
                return rows, _encode(self.scope, key(found[len(rows) - 1]), carried())
            rows.append(row)
        return rows, ""


def parse(
    found: list[Violation],
    scope: str,
    page_size: int,
    page_token: str,
    *ranges: range,
    carries: Callable[[str], bool] = operator.not_,
) -> Page:
    """The page that a request asks for; what is wrong with it is added to `found`.

    Args:
        found: the violations of the request so far.
        scope: the method and its filter.
        page_size: rows per page, 0 for the default.
        page_token: where to go on, empty for the first page.
        ranges: which numbers the parts of a key may be; without any, a key is one id.
        carries: whether a text may be what the pages of this list carry; by default they carry nothing.
    """
    if page_size < 0:
        found.append(invalid_field("page_size", "must be 0 or more"))
    decoded = _decode(scope, page_token, ranges or (IDS,)) if page_token else ((0,) * len(ranges or (IDS,)), "")
    if decoded is None or (page_token and not carries(decoded[1])):
        found.append(_invalid_token())
    after, carried = decoded or ((), "")
    return Page(scope, after, min(page_size or DEFAULT_ROWS, MAX_ROWS), carried)


def _encode(scope: str, key: Key, carried: str = "") -> str:
    """A token for the rows after `key` of the list that `scope` describes."""
    payload = ",".join(map(str, key)).encode()
    if carried:
        payload += b";" + carried.encode()
    return base64.urlsafe_b64encode(_check(scope, payload) + payload).decode().rstrip("=")


def _decode(scope: str, token: str, ranges: Iterable[range]) -> tuple[Key, str] | None:
    """The key and what is carried inside a token, or None for one that is damaged, made up, or of another list."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        numbers, _, carried = raw[_CHECK_BYTES:].partition(b";")
        key, text = tuple(map(int, numbers.split(b","))), carried.decode("ascii")
        fits = all(number in allowed for number, allowed in zip(key, ranges, strict=True))
    except (ValueError, binascii.Error):
        return None
    return (key, text) if fits and token == _encode(scope, key, text) else None


def _check(scope: str, payload: bytes) -> bytes:
    """Detects accidents and mix-ups. It is no secret: whoever forges a position sees nothing a list would not show."""
    return hashlib.blake2b(payload, digest_size=_CHECK_BYTES, key=hashlib.sha256(scope.encode()).digest()).digest()


def _invalid_token() -> Violation:
    text = "is not a token of this list; start again without one"
    return Violation(Reason.PAGE_TOKEN_INVALID, "page_token", text, {"field": "page_token"})
