"""A ``git am`` patch as data: message, trailers, and per file what it declares. Pure; nothing here runs git."""

from __future__ import annotations

import email.policy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import BytesHeaderParser

_DIFF = re.compile(rb"diff --git (?:\"?a/.*?\"?) (?:\"?b/(.*?)\"?)$")
_INDEX = re.compile(rb"index [0-9a-f]{4,64}\.\.([0-9a-f]{4,64})(?: [0-7]{6})?$")
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_TRAILER = re.compile(r"^([A-Za-z][A-Za-z0-9-]*): *(.*)$")
_MAIL = re.compile(rb"^From [0-9a-f]{40} Mon Sep 17 00:00:00 2001$")
# Where git's mailinfo thinks that the diff begins, so that it drops the rest of the message.
_CUTS = re.compile(r"^(?:---(?: .*)?|diff -.*|Index: .*)$")


@dataclass(frozen=True)
class FileChange:
    """What a patch declares about one file.

    Attributes:
        path: The file in the patched tree.
        line: The line of the patch (from 1) where the declaration stands.
        new: Blob id after, all zeros for a removed one.
    """

    path: str
    line: int
    new: str


@dataclass(frozen=True)
class Message:
    """The commit message of a patch.

    Attributes:
        subject: Its first line.
        body: What follows, up to the first file's diff. Without a diffstat nothing separates the two, so a line ``---``
            is always one too many.
        body_line: The line of the patch at which the body begins, from 1.
        trailers: The ``Key: value`` lines of the last paragraph that git keeps, when it consists of them.
    """

    subject: str
    body: str
    body_line: int
    trailers: dict[str, str]


def count_mails(patch: bytes) -> int:
    """Return how many mailbox messages a file holds; a patch file holds one."""
    return sum(1 for line in patch.split(b"\n") if _MAIL.match(line))


def parse_message(patch: bytes) -> Message:
    """Return the message of a patch written by ``git format-patch``."""
    head, _, rest = patch.partition(b"\n\n")
    headers = BytesHeaderParser(policy=email.policy.default).parsebytes(head.partition(b"\n")[2] + b"\n\n")
    subject = " ".join(str(headers.get("Subject", "")).split())
    text = rest.split(b"\n")
    end = next((i for i, line in enumerate(text) if line.startswith(b"diff --git ")), len(text))
    body = b"\n".join(text[:end]).decode("utf-8", "replace")
    cuts = message_cuts(body)
    kept = "\n".join(body.split("\n")[: cuts[0][0]]) if cuts else body
    return Message(subject, body, head.count(b"\n") + 3, parse_trailers(kept))


def parse_trailers(body: str) -> dict[str, str]:
    r"""Return the trailers of a message body.

    >>> parse_trailers("Because.\n\nWhy: one\n two\nUpstream: no\n")
    {'Why': 'one two', 'Upstream': 'no'}
    """
    paragraphs = [part for part in re.split(r"\n\s*\n", body.strip()) if part.strip()]
    if not paragraphs:
        return {}
    found: dict[str, str] = {}
    key = ""
    for line in paragraphs[-1].splitlines():
        match = _TRAILER.match(line)
        if match:
            key = match.group(1)
            found[key] = match.group(2).strip()
        elif key and line[:1].isspace():
            found[key] = f"{found[key]} {line.strip()}".strip()
        else:
            return {}
    return found


def message_cuts(body: str) -> list[tuple[int, str]]:
    """Return (line from 0, text) of body lines at which ``git am`` would drop the rest of the message."""
    return [(number, line) for number, line in enumerate(body.split("\n")) if _CUTS.match(line)]


def parse_changes(patch: bytes) -> list[FileChange]:
    """Return what the patch declares, file by file. Lines inside hunks are never taken for declarations."""
    found: list[FileChange] = []
    path = ""
    for number, line in _outside_hunks(patch):
        match = _DIFF.match(line)
        if match:
            path = _unquote(match.group(1))
            continue
        match = _INDEX.match(line)
        if match and path:
            found.append(FileChange(path, number, match.group(1).decode()))
    return found


def first_difference(left: bytes, right: bytes) -> int:
    """Return the first line, from 1, at which two texts differ; 0 when they are equal."""
    if left == right:
        return 0
    one, two = left.split(b"\n"), right.split(b"\n")
    pairs = enumerate(zip(one, two, strict=False), start=1)
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(two)) + 1)


def file_name(subject: str) -> str:
    """Return the file name that belongs to a subject. It has no number: the order is the series file's business.

    >>> file_name("Register YuanRongConnector (lazily)")
    'register-yuanrongconnector-lazily.patch'
    """
    words = re.sub(r"[^a-z0-9._]+", "-", subject.lower()).strip("-._")
    return f"{words[:72].rstrip('-._') or 'patch'}.patch"


def _outside_hunks(patch: bytes) -> Iterator[tuple[int, bytes]]:
    old = new = 0
    in_diff = False
    for number, line in enumerate(patch.split(b"\n"), start=1):
        if old > 0 or new > 0:
            kind = line[:1]
            old -= kind in (b" ", b"-", b"")
            new -= kind in (b" ", b"+", b"")
            continue
        in_diff = in_diff or line.startswith(b"diff --git ")
        match = _HUNK.match(line)
        if in_diff and match:
            old, new = (int(count) if count is not None else 1 for count in match.groups())
        elif in_diff:
            yield number, line


def _unquote(path: bytes) -> str:
    """Undo git's C-style quoting of a path."""
    if b"\\" not in path:
        return path.decode("utf-8", "surrogateescape")
    raw = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m.group(1), 8)]), path)
    plain = {b"n": b"\n", b"t": b"\t", b'"': b'"', b"\\": b"\\"}
    raw = re.sub(rb'\\([nt"\\])', lambda m: plain[m.group(1)], raw)
    return raw.decode("utf-8", "surrogateescape")
