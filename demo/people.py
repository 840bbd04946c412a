"""The courses and the students of the morning. Made up, and the same every time."""

from __future__ import annotations

from dataclasses import dataclass

# fmt: off
_FIRST = (
    "Ada", "Ben", "Cleo", "Dev", "Elif", "Finn", "Gita", "Hugo", "Ines", "Jonas", "Kofi", "Lena", "Mona", "Nils",
    "Olga", "Pia", "Quinn", "Rosa", "Sami", "Tara", "Uma", "Vera", "Wei", "Yara", "Zoe", "Amir", "Bela", "Carl",
    "Dora", "Emil",
)
_LAST = (
    "Adler", "Berg", "Costa", "Dahl", "Evans", "Fuchs", "Greco", "Haas", "Ito", "Jansen", "Kaya", "Lopez", "Meyer",
    "Novak", "Okafor", "Petit", "Rossi", "Silva", "Tanaka", "Urban", "Vogel", "Weber", "Young",
)
# fmt: on

POPULAR = "CS-101"
FREE = "CER-210"
BUSY = "JAZ-120"
CLOSED = "FEN-001"
LATIN = "LAT-101"
PHOTO = "PHO-150"
TALKS = "TLK-100"
STARS = "AST-100"


@dataclass(frozen=True, slots=True)
class Plan:
    """A course to create, and how many quiet early birds take a seat in it."""

    code: str
    title: str
    capacity: int | None
    waitlist: int
    early_birds: int = 0


PLANS = (
    Plan(POPULAR, "Algorithms", 30, 40),
    Plan(STARS, "Astronomy", 60, 60),
    Plan(FREE, "Ceramics", 24, 6, early_birds=14),
    Plan(BUSY, "Jazz ensemble", 18, 6, early_birds=18),
    Plan(LATIN, "Latin", 25, 0, early_birds=19),
    Plan(PHOTO, "Photography", 20, 6, early_birds=12),
    Plan(CLOSED, "Fencing", 16, 0, early_birds=9),
    Plan(TALKS, "Open lectures", None, 0),
)

STAMPEDE = 300  # students who want into the popular course at the same moment
EARLY_BIRDS = sum(plan.early_birds for plan in PLANS)
STUDENTS = STAMPEDE + EARLY_BIRDS


@dataclass(frozen=True, slots=True)
class Student:
    """A student as created: the id is the service's."""

    student_id: int
    name: str


def full_name(number: int) -> str:
    """The name of student `number`; the first 690 differ."""
    return f"{_FIRST[number % len(_FIRST)]} {_LAST[number % len(_LAST)]}"


def email(number: int) -> str:
    """The address of student `number`."""
    return f"{full_name(number).lower().replace(' ', '.')}.{number}@example.org"
