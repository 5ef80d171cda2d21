"""Random trees and commits: export, then apply, then export is the identity."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yrpd.git.mail import file_name, message_cuts, parse_changes, parse_message
from yrpd.git.repository import Repository, Signature

FULL = bool(os.environ.get("YRPD_TEST_FULL"))
NAMES = st.sampled_from(
    ["a.txt", "b.py", "dir/c.txt", "dir/ü.txt", 'dir/with "quotes"', "dir/tab\there", "bin.dat", "x y"]
)
LINES = st.sampled_from(
    [
        "",
        "x",
        "  y  ",
        "tab\t",
        "+plus",
        "-minus",
        "@@ -1,2 +3,4 @@",
        "diff --git a/x b/x",
        "--- a",
        "ä",
        "\r",
        "From me",
    ]
)
TEXT = st.builds(
    lambda lines, end: ("\n".join(lines) + end).encode(), st.lists(LINES, max_size=12), st.sampled_from(["", "\n"])
)
CONTENT = st.one_of(TEXT, st.binary(max_size=40))
FILES = st.dictionaries(NAMES, st.tuples(CONTENT, st.booleans()), max_size=5)
WORDS = st.lists(
    st.sampled_from(
        ["Add", "[Tag]", "[PATCH 1/2]", "ünï", "several words that make it long enough to be folded", "Re:", "a:b"]
    ),
    min_size=1,
    max_size=4,
)
BODY = st.lists(
    st.sampled_from(["text", "  indented", "", "ä", "Key: value", "# hash", "> quote", "-- ", "@@"]), max_size=6
)


def _write(folder: Path, files: dict[str, tuple[bytes, bool]]) -> None:
    for name, (content, executable) in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755 if executable else 0o644)


def _message(words: list[str], body: list[str]) -> str:
    """Return a message in the form that ``git commit`` gives it: no trailing blanks, no double blank lines."""
    text = "\n".join(line.rstrip() for line in [" ".join(words), "", *body])
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _tree(repository: Repository, files: dict[str, tuple[bytes, bool]]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), files)
        return repository.write_tree(Path(folder))


def _changed_paths(repository: Repository, commit: str) -> set[str]:
    text = repository.run("diff-tree", "-r", "-z", "--no-commit-id", "--name-only", commit)
    return {os.fsdecode(path) for path in text.split(b"\0") if path}


@settings(
    max_examples=300 if FULL else 25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(FILES, min_size=2, max_size=4), st.lists(st.tuples(WORDS, BODY), min_size=3, max_size=3))
def test_what_was_exported_comes_back_with_the_same_bytes(
    trees: list[dict[str, tuple[bytes, bool]]], messages: list[tuple[list[str], list[str]]]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        author = Signature("Ä Author", "a@x.invalid", "2026-01-05T00:00:00+0100")
        one = Repository.init(folder / "one")
        ids = [_tree(one, files) for files in trees]
        base = tip = one.commit_tree(ids[0], "base\n", author)
        count = 0
        for before, tree, (words, body) in zip(ids, ids[1:], messages, strict=False):
            if tree != before:
                tip = one.commit_tree(tree, _message(words, body), author, [tip])
                count += 1
        patches = one.format_patch(base, tip)
        assert len(patches) == count
        two = Repository.init(folder / "two")
        two.fetch(str(folder / "one"), f"{base}:refs/heads/base")
        two.checkout("series", "refs/heads/base")
        paths = []
        for number, patch in enumerate(patches):
            paths.append(folder / f"{number:04}.patch")
            paths[-1].write_bytes(patch)
        two.am(paths)
        assert two.format_patch(base) == patches
        assert [c.tree for c in two.commits(base, "HEAD")] == [c.tree for c in one.commits(base, tip)]
        for patch, commit in zip(patches, two.commits(base, "HEAD"), strict=True):
            assert {change.path for change in parse_changes(patch)} <= _changed_paths(two, commit.id)
            assert parse_message(patch).subject == commit.subject
            assert not message_cuts(parse_message(patch).body)
            assert file_name(commit.subject).endswith(".patch")
