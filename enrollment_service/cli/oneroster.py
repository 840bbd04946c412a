"""Reads a OneRoster export in CSV, version 1.1 or 1.2: who are its students, its classes, and who is in which.

A folder or a ZIP file with `manifest.csv`, which says of each file whether it is bulk (everything there is) or delta
(what has changed). Of users only students count: in 1.1 `users.csv` names the role, in 1.2 `roles.csv` does. What of a
row cannot be used is reported with the reason. Nothing is sent from here; what becomes of it: roster.py.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TextIO

from enrollment_service.api.fields import is_external_id
from enrollment_service.cli.tables import Table, UnreadableFileError

VERSIONS = ("1.1", "1.2")
BULK, DELTA, ABSENT = "bulk", "delta", "absent"
STUDENT = "student"
_COLUMNS = {
    "manifest": ("propertyName", "value"),
    "users": ("sourcedId", "givenName", "familyName", "email"),
    "roles": ("userSourcedId", "role"),
    "classes": ("sourcedId", "title", "classCode"),
    "enrollments": ("classSourcedId", "userSourcedId", "role"),
}
# What files have in some versions, or need not have.
_OTHERS = ("sourcedId", "status", "dateLastModified", "role")
_CODE_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_. ")
MAX_CODE = 40

# What an archive may come to: damaged, encrypted, or packed in a way that is not known here.
_UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)

Values = Mapping[str, str]


class UnusableExportError(Exception):
    """What there is is no OneRoster export that can be read; the text says why."""


class Refused(NamedTuple):
    """A row that does not come in: its file and line, the sourcedIds in it, and why."""

    file: str
    line: int
    sourced_id: str
    reason: str


class RosterStudent(NamedTuple):
    """A student of the export."""

    line: int
    sourced_id: str
    full_name: str
    email: str


class RosterClass(NamedTuple):
    """A class of the export, with the code that the school has for it."""

    line: int
    sourced_id: str
    title: str
    class_code: str


Pair = tuple[str, str]
"""The sourcedIds of a student and of a class."""


@dataclass
class Export:
    """What an export says.

    Attributes:
        version: of OneRoster.
        modes: of each file, whether it is bulk, delta or absent.
        students: by sourcedId.
        classes: likewise.
        enrolled: who is in which class, with the line that says so.
        withdrawn: whom a delta takes out of which class, likewise.
        left_alone: how many users and classes the export gives up; people and courses are never removed.
        refused: the rows that do not come in.
    """

    version: str
    modes: Mapping[str, str]
    students: dict[str, RosterStudent] = field(default_factory=dict)
    classes: dict[str, RosterClass] = field(default_factory=dict)
    enrolled: dict[Pair, int] = field(default_factory=dict)
    withdrawn: dict[Pair, int] = field(default_factory=dict)
    left_alone: Counter[str] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether who is not enrolled in it is in no class of it."""
        return self.modes["enrollments"] == BULK


class _Folder:
    """The files of an export in a folder or in a ZIP file, wherever in it they lie together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip = None if path.is_dir() else _opened(path)
        names = [name for name in self._zip.namelist() if _is_manifest(name)] if self._zip else []
        self._prefix = min(names, key=len).removesuffix("manifest.csv") if names else ""

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, without its ending."""
        if self._zip is None:
            return (self._path / f"{name}.csv").is_file()
        return f"{self._prefix}{name}.csv" in self._zip.namelist()

    def open(self, name: str) -> TextIO:
        """The file of this name, without its ending."""
        if self._zip is None:
            return (self._path / f"{name}.csv").open(newline="", encoding="utf-8-sig")
        opened = self._zip.open(f"{self._prefix}{name}.csv")
        return io.TextIOWrapper(opened, encoding="utf-8-sig", newline="")


def _is_manifest(name: str) -> bool:
    return PurePosixPath(name).name == "manifest.csv"


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile):
        raise UnusableExportError("is neither a folder nor a ZIP file") from None


def read_export(path: Path, known: Collection[str] = ()) -> Export:
    """An export, read.

    Args:
        path: the folder or the ZIP file.
        known: the external ids of students who are known already; a delta need not say again that they are students.

    Raises:
        UnusableExportError: it cannot be read.
    """
    folder = _Folder(path)
    if not folder.has("manifest"):
        raise UnusableExportError("has no manifest.csv")
    properties = {values["propertyName"]: values["value"] for _, values in _rows(folder, "manifest")}
    version = properties.get("oneroster.version", "")
    if version not in VERSIONS:
        raise UnusableExportError(f"manifest.csv: oneroster.version must be {' or '.join(VERSIONS)}")
    export = Export(version, {name: _mode(folder, properties, name) for name in _COLUMNS if name != "manifest"})
    if version == "1.2" and export.modes["users"] == BULK and export.modes["roles"] == ABSENT:
        raise UnusableExportError("manifest.csv: file.roles is absent, and only roles.csv says who is a student")
    _read_students(folder, export, known)
    _read_classes(folder, export)
    _read_enrollments(folder, export)
    return export


def _mode(folder: _Folder, properties: Values, name: str) -> str:
    mode = properties.get(f"file.{name}", ABSENT).lower() or ABSENT
    if mode not in (BULK, DELTA, ABSENT):
        raise UnusableExportError(f"manifest.csv: file.{name} must be bulk, delta or absent")
    if mode != ABSENT and not folder.has(name):
        raise UnusableExportError(f"has no {name}.csv, which manifest.csv names")
    return mode


def _rows(folder: _Folder, name: str, export: Export | None = None) -> Iterator[tuple[int, Values]]:
    """The rows of a file with their lines; those that are too short are refused."""
    try:
        with folder.open(name) as file:
            table = Table(file)
            missing = [column for column in _COLUMNS[name] if column not in table.columns]
            if missing:
                raise UnusableExportError(f"{name}.csv: has no column {missing[0]}")
            wanted = {*_COLUMNS[name], *_OTHERS}.intersection(table.columns)
            for line, values in table:
                texts = {column: (values[column] or "").strip() for column in wanted}
                if export is not None and any(values[column] is None for column in wanted):
                    refused = Refused(f"{name}.csv", line, texts.get("sourcedId", ""), "has too few columns")
                    export.refused.append(refused)
                else:
                    yield line, texts
    except UnreadableFileError as error:
        raise UnusableExportError(f"{name}.csv: {error}") from error
    except _UNREADABLE as error:
        raise UnusableExportError(f"{name}.csv: cannot be read ({type(error).__name__})") from error


def _latest(folder: _Folder, export: Export, name: str) -> list[tuple[int, Values]]:
    """The rows of a file, of each sourcedId the one that was modified last; none of an absent file."""
    if export.modes[name] == ABSENT:
        return []
    latest: dict[str, tuple[int, Values]] = {}
    for line, values in _rows(folder, name, export):
        key = values.get("sourcedId") or f"\n{line}"
        before = latest.get(key)
        if before is None or _modified(values) >= _modified(before[1]):
            latest[key] = line, values
    return list(latest.values())


def _modified(values: Values) -> str:
    """Dates are ISO 8601 in UTC, as the standard asks for: they are in order as they are written."""
    return values.get("dateLastModified", "")


def _is_gone(values: Values) -> bool:
    return values.get("status", "").lower() == "tobedeleted"


def _read_students(folder: _Folder, export: Export, known: Collection[str]) -> None:
    in_roles = {
        values["userSourcedId"]
        for _, values in _latest(folder, export, "roles")
        if values["role"].lower() == STUDENT and not _is_gone(values)
    }
    for line, values in _latest(folder, export, "users"):
        sourced_id, email = values["sourcedId"], values["email"]
        if export.version == "1.1":
            is_student = values.get("role", "").lower() == STUDENT
        else:
            is_student = sourced_id in in_roles or (export.modes["users"] == DELTA and sourced_id in known)
        if not is_student:
            continue
        if _is_gone(values):
            export.left_alone["students"] += 1
        elif not sourced_id:
            export.refused.append(Refused("users.csv", line, "", "has no sourcedId"))
        elif not email:
            export.refused.append(Refused("users.csv", line, sourced_id, "has no e-mail address"))
        else:
            name = f"{values['givenName']} {values['familyName']}".strip()
            export.students[sourced_id] = RosterStudent(line, sourced_id, name, email)


def _read_classes(folder: _Folder, export: Export) -> None:
    for line, values in _latest(folder, export, "classes"):
        sourced_id = values["sourcedId"]
        if _is_gone(values):
            export.left_alone["courses"] += 1
        elif not sourced_id:
            export.refused.append(Refused("classes.csv", line, "", "has no sourcedId"))
        else:
            export.classes[sourced_id] = RosterClass(line, sourced_id, values["title"], values["classCode"])


def _read_enrollments(folder: _Folder, export: Export) -> None:
    if export.modes["enrollments"] == ABSENT:
        return
    # There may be millions, so each is kept as little as can be: of a pair the row that was modified last.
    latest: dict[Pair, str] = {}
    for line, values in _rows(folder, "enrollments", export):
        if values["role"].lower() != STUDENT:
            continue
        pair = sys.intern(values["userSourcedId"]), sys.intern(values["classSourcedId"])
        if not all(pair):
            export.refused.append(Refused("enrollments.csv", line, " ".join(pair).strip(), "names no user or no class"))
        elif not all(map(is_external_id, pair)):
            # Of students and classes a row is refused; of enrollments the server would refuse all that come with it.
            export.refused.append(Refused("enrollments.csv", line, " ".join(pair), "INVALID_FIELD"))
        elif latest.get(pair, "") <= _modified(values):
            latest[pair] = sys.intern(_modified(values))
            (export.enrolled if _is_gone(values) else export.withdrawn).pop(pair, None)
            (export.withdrawn if _is_gone(values) else export.enrolled)[pair] = line


def codes_of(export: Export, taken: Mapping[str, str]) -> dict[str, str]:
    """A code for each class, by sourcedId: the school's own where it is a valid one and unique, else a short hash.

    Args:
        export: with the classes.
        taken: the codes of the courses that are there, by external id; empty for a course that has none.
    """
    wanted = Counter(code_key(one.class_code) for one in export.classes.values())
    owners = {code_key(code): external_id for external_id, code in taken.items()}
    codes = {}
    for one in export.classes.values():
        key, hashed = code_key(one.class_code), short_hash(one.sourced_id)
        is_own = wanted[key] == 1 and owners.get(key, one.sourced_id) == one.sourced_id
        # A delta does not show who else has the code: what was hashed stays so until a bulk export says it is unique.
        stays = export.modes["classes"] == DELTA and taken.get(one.sourced_id) == hashed
        codes[one.sourced_id] = one.class_code if is_valid_code(one.class_code) and is_own and not stays else hashed
    return codes


def code_key(code: str) -> str:
    """What tells two codes apart."""
    return " ".join(code.lower().split())


def is_valid_code(code: str) -> bool:
    """Whether a course may have this code."""
    return len(code) <= MAX_CODE and not code.isspace() and bool(code) and _CODE_CHARACTERS.issuperset(code)


def short_hash(sourced_id: str) -> str:
    """A code for a class, always the same for the same sourcedId."""
    return f"C-{hashlib.sha256(sourced_id.encode()).hexdigest()[:12]}"
