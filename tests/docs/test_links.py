"""Every link in every Markdown file arrives, and none of them leaves the repository."""

from __future__ import annotations

import re

import pytest

from tests.docs.documents import EVERYWHERE, PAGES, PROJECT, anchors, links, read

# What an operator would fill in.
EXAMPLES = ("https://login.example.org", "https://login.example.org/.well-known/jwks.json")


def test_all_pages_are_found() -> None:
    others = {"CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md"}
    assert {*others, *PAGES} <= set(EVERYWHERE)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_links_stay_in_the_repository(name: str) -> None:
    folder = (PROJECT / name).parent
    targets = {target: (folder / target).resolve() for target, _ in links(name) if target}
    assert set(re.findall(r"https?://[\w./-]+", read(name))) <= set(EXAMPLES)
    assert set(re.findall(r"\w+://", read(name))) <= {"postgresql://", "dns://", "spiffe://", "https://"}
    assert [link for link, path in targets.items() if not (path.exists() and path.is_relative_to(PROJECT))] == []


@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_jump_arrives(name: str) -> None:
    folder = (PROJECT / name).parent
    lost = []
    for target, anchor in links(name):
        if anchor:
            page = (folder / target).resolve().relative_to(PROJECT) if target else name
            if anchor not in anchors(str(page)):
                lost.append(f"{target}#{anchor}")
    assert lost == []


@pytest.mark.parametrize("name", PAGES)
def test_no_page_has_two_headings_of_one_name(name: str) -> None:
    assert sorted(set(anchors(name))) == sorted(anchors(name))


def test_the_readme_links_every_page() -> None:
    linked = {target for target, _ in links("README.md")}
    assert {*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"} - {"README.md"} <= linked
