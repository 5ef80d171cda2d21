"""No setting of the user's changes a byte of a patch or the id of a commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.integration.patching.conftest import Tiny, git, put
from yrpd.git.repository import Repository, Signature

AUTHOR = Signature("Añ Author", "a@x.invalid", "2026-01-05T00:00:00+0100")
# Each alone changes exported bytes (the first thirteen) or commit ids (the next two) of an unprotected git.
KNOWN = {
    "diff.noprefix": "true",
    "diff.context": "7",
    "diff.orderFile": "{home}/order",
    "core.attributesFile": "{home}/attributes",
    "format.attach": "xx",
    "format.coverLetter": "true",
    "format.signOff": "true",
    "format.suffix": ".txt",
    "format.filenameMaxLength": "10",
    "format.thread": "true",
    "format.to": "somebody@x.invalid",
    "format.headers": "X-Header: yes",
    "i18n.logOutputEncoding": "ISO-8859-1",
    "core.hooksPath": "{home}/hooks",
    "i18n.commitEncoding": "ISO-8859-1",
}
OTHERS = {
    "apply.whitespace": "fix",
    "am.threeWay": "true",
    "commit.gpgSign": "true",
    "core.autocrlf": "true",
    "core.excludesFile": "{home}/order",
    "diff.algorithm": "patience",
    "diff.interHunkContext": "20",
    "diff.mnemonicPrefix": "true",
    "diff.renames": "copies",
    "diff.external": "false",
    "format.from": "me@x.invalid",
    "format.numbered": "true",
    "format.signature": "mine",
    "format.subjectPrefix": "MINE",
    "format.outputDirectory": "{home}/out",
    "format.useAutoBase": "true",
    "format.notes": "true",
    "log.showSignature": "true",
    "mailinfo.scissors": "true",
    "user.name": "Somebody Else",
    "core.quotePath": "false",
    "init.templateDir": "{home}/template",
    "init.defaultObjectFormat": "sha256",
    "status.showUntrackedFiles": "no",
    "transfer.fsckObjects": "true",
}
SETTINGS = KNOWN | OTHERS
HOSTILE_VARIABLES = {
    "GIT_DIR": "/nonexistent",
    "GIT_WORK_TREE": "/nonexistent",
    "GIT_INDEX_FILE": "/nonexistent/index",
    "GIT_OBJECT_DIRECTORY": "/nonexistent/objects",
    "GIT_AUTHOR_NAME": "Somebody Else",
    "GIT_AUTHOR_DATE": "2001-01-01T00:00:00+0000",
    "GIT_COMMITTER_NAME": "Somebody Else",
    "GIT_COMMITTER_DATE": "2001-01-01T00:00:00+0000",
    "GIT_EXTERNAL_DIFF": "false",
    "GIT_DIFF_OPTS": "-u9",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "diff.noprefix",
    "GIT_CONFIG_VALUE_0": "true",
    "GIT_CONFIG_PARAMETERS": "'diff.context'='9'",
    "GIT_DEFAULT_HASH": "sha256",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NAMESPACE": "other",
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "tr_TR.UTF-8",
    "TZ": "Asia/Kathmandu",
}


def _results(folder: Path) -> tuple[list[bytes], str]:
    """Make two commits, format them, apply them to another repository; return the bytes and the id there."""
    repository = Repository.init(folder / "one")
    lines = {f"{name}.py": "".join(f"def f{n}():\n    return {n}\n\n" for n in range(30)) for name in ("a", "b")}
    put(folder / "one", lines)
    base = repository.commit_tree(repository.write_tree(folder / "one"), "base\n", AUTHOR)
    put(folder / "one", {"a.py": lines["a.py"].replace("return 15", "return 'ä'"), "crlf.txt": "x\r\ny  \r\n"})
    put(folder / "one", {"b.py": lines["b.py"].replace("return 20\n", "return 20  \n"), "bin": "\0\1\2"})
    message = "[Tag] Sübject\n\nBody ä.\n-- >8 --\nmore\n\nWhy: x\n"
    commit = repository.commit_tree(repository.write_tree(folder / "one"), message, AUTHOR, [base])
    patches = repository.format_patch(base, commit)
    two = Repository.init(folder / "two")
    two.fetch(str(folder / "one"), f"{base}:refs/heads/base")
    two.checkout("series", "refs/heads/base")
    (folder / "p.patch").write_bytes(patches[0])
    two.am([folder / "p.patch"])
    assert two.tree_of("HEAD") == repository.tree_of(commit)
    assert two.format_patch(base) == patches
    assert two.status() == []
    return patches, two.rev_parse("HEAD")


def _make_home(home: Path) -> None:
    put(home, {"order": "crlf.txt\nb.py\na.py\n", "attributes": "*.py -diff\n*.txt binary\n"})
    put(home, {".config/git/attributes": "*.py -diff\n", ".config/git/ignore": "*.py\n"})
    for hook in ("applypatch-msg", "pre-applypatch", "post-applypatch", "commit-msg", "pre-commit", "post-checkout"):
        for place in ("hooks", "template/hooks"):
            put(home, {f"{place}/{hook}": '#!/bin/sh\n[ -f "$1" ] && echo "Change-Id: I0" >> "$1"\nexit 0\n'})
            (home / place / hook).chmod(0o755)


def _use(monkeypatch: pytest.MonkeyPatch, home: Path, settings: dict[str, str]) -> None:
    _make_home(home)
    for key, value in settings.items():
        git(home, "config", "--file", str(home / ".gitconfig"), key, value.format(home=home))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(home / ".gitconfig"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], str]:
    return _results(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("key", [*KNOWN, "all others"])
def test_a_setting_of_the_user_changes_nothing(
    key: str, plain: tuple[list[bytes], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, tmp_path / "home", {key: KNOWN[key]} if key in KNOWN else OTHERS)
    assert _results(tmp_path) == plain


def test_the_callers_variables_change_nothing(
    plain: tuple[list[bytes], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HOSTILE_VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert _results(tmp_path) == plain


def test_a_setting_in_the_repository_itself_changes_nothing(plain: tuple[list[bytes], str], tmp_path: Path) -> None:
    _make_home(tmp_path / "home")
    base = _results(tmp_path)
    folder = tmp_path / "two"
    skipped = ("format.attach", "init.", "core.autocrlf")
    for key, value in SETTINGS.items():
        if not key.startswith(skipped):
            git(folder, "config", key, value.format(home=tmp_path / "home"))
    repository = Repository(folder)
    assert repository.format_patch("refs/heads/base", "series") == base[0] == plain[0]
    subprocess.run(["git", "-C", str(folder), "update-ref", "refs/heads/series", "refs/heads/base"], check=True)
    repository.checkout("series", "refs/heads/base")
    repository.am([tmp_path / "p.patch"])
    assert repository.rev_parse("HEAD") == plain[1]


def test_the_commands_give_the_same_under_all_of_it_at_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    files, before = tiny.files(), tiny.run("patch")
    lock = (tiny.patches / "lock.toml").read_bytes()
    (tiny.patches / "lock.toml").unlink()
    subprocess.run(["rm", "-r", str(tiny.project.build)], check=True)
    _use(monkeypatch, tiny.project.root.parent / "home", SETTINGS)
    for name, value in HOSTILE_VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert tiny.run("export")["changed"] == ["lock.toml"]
    assert (tiny.patches / "lock.toml").read_bytes() == lock
    assert tiny.files() == files
    after = tiny.run("patch")
    assert (after["commit"], after["tree"]) == (before["commit"], before["tree"])
    assert tiny.run("patch")["state"] == "unchanged"
    assert tiny.run("check")["passed"]
