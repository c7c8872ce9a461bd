"""The pages that users read: their blocks of code, their links, and their commands run as they stand there."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.chain import ROOT, run

PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
LANGUAGES = {"", "console", "python", "yaml", "json", "text"}  # a block without a language is a drawing


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the heading that it stands under, its language, and its lines."""

    page: str
    heading: str
    language: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def page_text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str | None = None, heading: str | None = None) -> list[Block]:
    """The fenced blocks of a page in order, of one language or under one heading where these are given."""
    found = list(_blocks(page))
    return [one for one in found if language in (None, one.language) and heading in (None, one.heading)]


def _blocks(page: str) -> Iterator[Block]:
    heading, language, lines = "", None, []
    for line in page_text(page).splitlines():
        if line.startswith("```") and language is None:
            language, lines = line.removeprefix("```"), []
        elif line == "```":
            yield Block(page, heading, language or "", tuple(lines))
            language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
    assert language is None, f"{page}: the last block is not closed"


def section(page: str, heading: str) -> str:
    """The text under a heading of the second level, up to the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page_text(page), re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no section {heading!r}"
    return found[1]


def anchors(page: str) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page_text(page), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    """The targets of all links of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", page_text(page))


def typed(folder: Path, line: str) -> str:
    """Run a command of a page in `folder`, with the clone's own code and git with a name to commit under; its stdout.

    Raises AssertionError with all that it printed where it fails.
    """
    words = shlex.split(line)
    if words[0] == "git":
        command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", *words[1:]]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    elif words[0] == "python" and words[1] != "-m":
        command = [sys.executable, *words[1:]]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    else:
        done = run(folder, *(words[2:] if words[:2] == ["python", "-m"] else words))
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout
