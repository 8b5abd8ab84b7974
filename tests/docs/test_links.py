"""Links of README and documentation: files and headings are there, addresses well-formed."""

import functools
import re
import unicodedata
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^[ \t]*```.*?^[ \t]*```$|`[^`\n]+`", re.M | re.S)
LINK = re.compile(r"\]\(([^)]*)\)|<(https?://[^>]*)>")
INCLUDED = re.compile(r'^--8<-- "(.*)"$', re.M)


@functools.cache
def text(page):
    """What the page shows, without code."""
    whole = INCLUDED.sub(lambda found: (ROOT / found[1]).read_text(), page.read_text())
    return CODE.sub("", whole)


def targets(page):
    return ["".join(found) for found in LINK.findall(text(page))]


def is_external(target):
    return bool(urlsplit(target).scheme)


@functools.cache
def anchors(page):
    """Of headings, as GitHub and MkDocs make them, and of the objects that mkdocstrings puts in."""
    whole = INCLUDED.sub(lambda found: (ROOT / found[1]).read_text(), page.read_text())
    return {
        *map(slug, re.findall(r"^#+ (.*)$", whole, re.M)),
        *re.findall(r"^::: ([\w.]+)$", whole, re.M),
    }


def slug(heading):
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def broken(page, root=ROOT):
    for target in filter(lambda target: not is_external(target), targets(page)):
        name, _, anchor = target.partition("#")
        aim = (page.parent / name).resolve() if name else page
        if not aim.is_relative_to(root) or not aim.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(aim):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page):
    assert list(broken(page)) == []


def test_there_are_links_to_check():
    assert len(targets(ROOT / "README.md")) > 10


def test_addresses_are_well_formed():
    addresses = {target for page in PAGES for target in targets(page) if is_external(target)}
    assert len(addresses) > 10
    for address in addresses:
        assert re.fullmatch(r"https://[\w-]+(\.[\w-]+)+(/[\w./~%#?=&+-]*[\w/])?", address), address
    # One place is written one way: not in two cases, not with and without a slash at its end.
    assert len({address.lower().rstrip("/") for address in addresses}) == len(addresses)


def test_what_a_broken_link_looks_like(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `code` heading: x\n[a](#a-code-heading-x) [b](#b) [c](c.md) `[d](d.md)`\n")
    assert list(broken(page, tmp_path)) == ["#b: no such heading", "c.md: no such file"]
