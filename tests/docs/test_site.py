"""The site builds without a warning, its generated pages are up to date, and links resolve."""

import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`|^    .*$", re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """The anchor that code hosts and the site make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def find_broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of it."""
    broken = []
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(f"{page.name}: {target}: no such file")
        elif anchor and anchor not in map(slug, HEADING.findall(file.read_text(encoding="utf-8"))):
            broken.append(f"{page.name}: {target}: no such heading")
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_and_anchors_resolve(page):
    assert find_broken_links(page) == []


def test_a_planted_broken_link_is_caught(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One two\n\n[a](#one-two) [b](#three) [c](gone.md) ![d](gone.png)\n")
    assert find_broken_links(page) == [
        "page.md: #three: no such heading",
        "page.md: gone.md: no such file",
        "page.md: gone.png: no such file",
    ]


def test_generated_pages_are_up_to_date():
    pages = runpy.run_path(str(ROOT / ".ci" / "make_pages.py"))["make_pages"]()
    stale = [path.name for path, text in pages.items() if path.read_text("utf-8") != text]
    assert stale == [], "run python .ci/make_pages.py"


def test_every_page_is_in_the_navigation():
    named = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in DOCS.glob("*.md"))


@pytest.mark.skipif(
    sys.version_info < (3, 11) and importlib.util.find_spec("zensical") is None,
    reason="zensical needs Python 3.11",
)
def test_the_site_builds_without_a_warning(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "getting_started.html").is_file()
