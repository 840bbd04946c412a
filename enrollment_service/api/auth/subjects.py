"""What a caller may be called, whether a token or a certificate says so."""

from __future__ import annotations

import unicodedata

MAX_SUBJECT_LENGTH = 255
# Control characters, those that change the direction of text, halves of pairs, what nobody has assigned, and separators
# of lines.
_UNPRINTABLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")


def is_subject(value: object) -> bool:
    """Whether this can name a caller in logs and events: 1 to 255 characters, none of which controls anything."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_SUBJECT_LENGTH
        and not value.isspace()
        and not any(unicodedata.category(letter) in _UNPRINTABLE for letter in value)
    )
