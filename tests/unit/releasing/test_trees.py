"""Git's ids without git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.git.repository import blob_id
from yrpd.releasing.trees import EXECUTABLE, LINK, REGULAR, TreeFile, parse_listing, tree_id

PART = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\n"), min_size=1, max_size=8)
FILE = st.builds(TreeFile, st.sampled_from((REGULAR, EXECUTABLE, LINK)), st.binary(max_size=20).map(blob_id))


def test_the_empty_file_and_the_empty_tree_have_their_known_ids() -> None:
    assert blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert tree_id({}) == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


@given(st.dictionaries(st.lists(PART, min_size=1, max_size=3).map("/".join), FILE, max_size=8))
def test_a_listing_is_read_as_git_writes_it(files: dict[str, TreeFile]) -> None:
    lines = {path: one for path, one in files.items() if len(f"x{path}x".splitlines()) == 1}
    listing = "".join(f"{one.mode} blob {one.blob}\t{path}\n" for path, one in lines.items())
    assert parse_listing(listing) == lines


def test_git_gives_the_same_tree_id(tmp_path: Path) -> None:
    # A file and a folder whose names sort differently with and without the slash that git thinks of.
    for name in ("a.txt", "a/b", "a/c/d", "a-b", "ä ö.py", "run.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "link").symlink_to("a.txt")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    git("add", "-A")
    tree = git("write-tree").strip()
    listing = git("ls-tree", "-r", "-z", tree).replace("\0", "\n")
    assert tree_id(parse_listing(listing)) == tree


def test_a_line_that_is_no_file_is_refused() -> None:
    with pytest.raises(ValueError, match="not an entry"):
        parse_listing("040000 tree e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\tfolder\n")
