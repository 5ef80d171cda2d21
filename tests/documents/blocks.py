"""Finds the commands in a Markdown file: fenced shell blocks with their markers, and inline code that is a command."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
SHELLS = ("bash", "sh", "shell", "console")
_MARKER = re.compile(r"<!--\s*run:\s*(?P<how>[^>]*?)\s*-->\s*\Z")
_INLINE = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:time )?(?:\.venv/bin/)?"
    r"(?:invoke |yrpd |bash (?:scripts|\.ci)/|(?:\.venv/bin/)?python3? (?:scripts/|\S*deploy\.pyz))"
)


@dataclass(frozen=True)
class Block:
    """Commands of a document.

    Attributes:
        file: The document, as seen from the project's folder.
        line: Where they begin, from 1.
        text: The commands.
        how: The words of the marker before them; empty without one.
        inline: Whether they are code in a sentence or a table, where names stand for values.
    """

    file: str
    line: int
    text: str
    how: tuple[str, ...] = ()
    inline: bool = False

    @property
    def where(self) -> str:
        """The place, as editors jump to it."""
        return f"{self.file}:{self.line}"


def documents() -> list[Path]:
    """Return the documents whose commands have to be right."""
    named = [ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md")]
    return [*named, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(file: str, text: str) -> Iterator[Block]:
    """Yield a document's blocks and inline commands, in its order.

    Args:
        file: Its name.
        text: Its Markdown.
    """
    before = ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "fence":
            language = token.info.split()[0] if token.info else ""
            marker = _MARKER.search(before)
            if language in SHELLS:
                content = _typed(token.content) if language == "console" else token.content
                yield Block(file, _line(token) + 1, content, tuple(marker["how"].split()) if marker else ())
            elif any(_INLINE.match(line.removeprefix("$ ")) for line in token.content.splitlines()):
                yield Block(file, _line(token) + 1, token.content, ("a-block-of-commands-names-its-language",))
            elif marker:
                yield Block(file, _line(token) + 1, "", ("marker-of-no-commands",))
        elif token.type == "inline":
            yield from _inline(file, token)
        if token.nesting >= 0:
            before = token.content if token.type == "html_block" else ""


def commands(text: str) -> list[str]:
    """Return a block's command lines; one that goes on in the next line, by a backslash or an open quote, is one."""
    found: list[str] = []
    pending = ""
    for line in text.splitlines():
        pending = f"{pending}\n{line}" if pending else line
        if pending.rstrip().endswith("\\") or _open_quote(pending):
            continue
        if pending.strip() and not pending.lstrip().startswith("#"):
            found.append(pending)
        pending = ""
    return [*found, pending] if pending.strip() else found


def _typed(content: str) -> str:
    """Return what is typed in a session: the lines after a prompt."""
    return "".join(line[2:] + "\n" for line in content.splitlines() if line.startswith(("$ ", "# ", "> ")))


def _open_quote(text: str) -> bool:
    bare = re.sub(r"(?m)(?:^|\s)#.*$", "", text)
    return any(len(re.findall(rf"(?<!\\){quote}", bare)) % 2 for quote in ("'", '"'))


def _inline(file: str, token: Token) -> Iterator[Block]:
    line = _line(token)
    for child in token.children or ():
        if child.type == "softbreak":
            line += 1
        elif child.type == "code_inline" and _INLINE.match(child.content):
            yield Block(file, line + 1, child.content, inline=True)


def _line(token: Token) -> int:
    return token.map[0] if token.map else 0


def all_blocks(files: Sequence[Path]) -> list[Block]:
    """Return the blocks of several documents."""
    return [
        block for path in files for block in blocks(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]


def rows_outside_tables(text: str) -> list[int]:
    """Return the lines of paragraphs that look like a table's row: a blank line before one ends the table."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [
        _line(token) + 1
        for before, token in itertools.pairwise(tokens)
        if before.type == "paragraph_open" and token.content.startswith("|") and token.content.endswith("|")
    ]
