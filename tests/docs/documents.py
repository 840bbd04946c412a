"""Reads the Markdown files: sections, tables, fenced blocks, links, and the calls that are shown with their answers."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from enrollment_service.v1 import enrollment_pb2 as pb

PROJECT = Path(__file__).parents[2]
SERVICE = pb.DESCRIPTOR.services_by_name["EnrollmentService"]
Row = list[str]


def _written_here(path: Path) -> bool:
    folders = path.relative_to(PROJECT).parts[:-1]
    return not any(folder.startswith(".") or folder in ("build", "node_modules") for folder in folders)


# Every Markdown file, by its path from the project's root.
EVERYWHERE = sorted(str(path.relative_to(PROJECT)) for path in PROJECT.rglob("*.md") if _written_here(path))
# What readers read first, in the order in which the examples tell their story.
PAGES = ["README.md", "docs/api.md", *(name for name in EVERYWHERE if re.fullmatch(r"docs/(?!api\.md)[^/]+", name))]


@cache
def read(name: str) -> str:
    """The text of a file."""
    return (PROJECT / name).read_text(encoding="utf-8")


def section(name: str, title: str) -> str:
    """The text under a heading of level two."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", read(name), re.DOTALL | re.MULTILINE)
    assert found is not None, f"{name} has no section {title!r}"
    return found[1]


def blocks(language: str, text: str) -> list[str]:
    """The fenced blocks of a language; of none for an empty one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [body for name, body in fenced if name == language]


def without_blocks(text: str) -> str:
    """The prose."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def rows(text: str) -> list[Row]:
    """The rows of all tables, without their heads."""
    bodies = re.sub(r"^.*\n\|[-|]+\|$", "", text, flags=re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\|(.*)\|$", bodies, re.MULTILINE)]


def quoted(cell: str) -> set[str]:
    """The identifiers between backticks."""
    return {name for name in re.findall(r"`([^`]+)`", cell) if re.fullmatch(r"[A-Za-z]\w*", name)}


def links(name: str) -> list[tuple[str, str]]:
    """The file and the anchor of each link, relative to the file that it stands in."""
    found = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", without_blocks(read(name)))
    return [(target, anchor) for target, anchor in found]


def anchors(name: str) -> list[str]:
    """Where links may jump to."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(read(name)), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


@dataclass(frozen=True)
class Example:
    """A grpcurl call and what it is said to print."""

    page: str
    method: str
    request: str
    shown: str


def examples() -> list[Example]:
    """All calls that are shown, in the order of the story."""
    found = []
    for page in PAGES:
        for block in blocks("console", read(page)):
            command, _, shown = block.partition("\n")
            words = shlex.split(command.removeprefix("$ "))
            if page == "docs/clients.md" or words[0] == "curl":
                continue  # stories of their own, told in test_clients.py and test_rest.py
            assert words[0] == "grpcurl", f"{page} shows a console with {words[0]}, which no test runs"
            method = words[-1].removeprefix(f"{SERVICE.full_name}/")
            found.append(Example(page, method, words[words.index("-d") + 1], shown))
    return found
