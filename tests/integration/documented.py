"""What the documentation holds: pages, their snippets and their commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
FENCE = re.compile(r"(?P<mark><!-- run this -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    document: Path
    language: str
    code: str
    to_run: bool
    """Marked: it makes what its page's commands need."""

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}: {self.code.splitlines()[0][:50]}"

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each command; two spaces open the remark that stands beside one in its help."""
        for line in self.code.replace("\\\n", " ").splitlines():
            for command in line.split(" && "):
                if words := shlex.split(re.split(r"\s{2,}", command.strip())[0], comments=True):
                    yield words


def snippets_of(document: Path) -> list[Snippet]:
    return [
        Snippet(document, found["language"], found["code"], bool(found["mark"]))
        for found in FENCE.finditer(document.read_text(encoding="utf-8"))
    ]


def snippets(language: str) -> list[Snippet]:
    return [snippet for document in DOCUMENTS for snippet in snippets_of(document) if snippet.language == language]


def commands_of(document: Path) -> list[list[str]]:
    """Return a page's commands as they stand in it, one after the other."""
    shell = [snippet for snippet in snippets_of(document) if snippet.language in ("sh", "text")]
    return [words for snippet in shell for words in snippet.commands()]


def told_to_compress(words: list[str]) -> list[str] | None:
    """Return what a command tells `compress`, less where its output goes; None where it is another's."""
    if words[0].rpartition("/")[2] != "compress":
        return None
    told = words[1:]
    return told[: next((at for at, word in enumerate(told) if word in (">", ">>")), len(told))]
