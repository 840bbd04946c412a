"""Reads CSV files as RFC 4180 has them, in UTF-8, row by row.

What is no such file is an error that says where. A reader that makes the best of it loses rows without a word: a quote
that nobody closes swallows all that follows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import TextIO

# Of a line, in characters: nobody's row is longer, and a line without an end would fill the memory.
MAX_LINE = 1_000_000


class UnreadableFileError(Exception):
    """The file is not a CSV file with the columns that are needed; the text says why."""


class Table:
    """The rows of a CSV file, with their lines, and the columns that its first line names."""

    def __init__(self, file: TextIO) -> None:
        """Reads the first line.

        Raises:
            UnreadableFileError: it cannot be read.
        """
        self._reader = csv.DictReader(_lines(file), strict=True)
        try:
            self.columns = [name.strip() for name in self._reader.fieldnames or ()]
        except (UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(error, 0) from error
        self._reader.fieldnames = self.columns

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, str | None]]]:
        """The line that each row ends on, and its values by column, None for those that it is too short for.

        Raises:
            UnreadableFileError: from here on it is no CSV file.
        """
        line = self._reader.line_num
        try:
            for values in self._reader:
                line = self._reader.line_num
                yield line, values
        except (UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(error, line) from error


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise csv.Error("a line is too long")
        yield line


def _unreadable(error: Exception, line: int) -> UnreadableFileError:
    why = "other bytes" if isinstance(error, UnicodeDecodeError) else error
    return UnreadableFileError(f"not a CSV file in UTF-8 after line {line} ({why})")
