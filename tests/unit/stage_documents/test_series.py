"""Series file and lock."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.documents.series import (
    Base,
    Lock,
    LockedPatch,
    LockedPin,
    Point,
    Series,
    load_lock,
    load_series,
    parse_series,
    require_locked,
)
from yrpd.errors import ConfigurationError, PinMismatchError
from yrpd.patching.apply import changes
from yrpd.release import Pin, Sdist

ID = st.text("0123456789abcdef", min_size=40, max_size=40)
SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
PATCHES = st.lists(
    st.builds(LockedPatch, file=st.from_regex(r"[a-z]{1,8}\.patch", fullmatch=True), sha256=SHA, tree=ID),
    max_size=4,
    unique_by=lambda entry: entry.file,
)
LOCKS = st.builds(
    Lock,
    pin=st.builds(LockedPin, name=st.from_regex(r"v[0-9.]{1,5}", fullmatch=True), commit=ID, tree=ID),
    base=st.builds(Base, commit=ID),
    patches=PATCHES.map(tuple),
    end=st.builds(Point, commit=ID, tree=ID),
)
PIN = Pin(
    repository="r", tag="v1", commit="a" * 40, tree="b" * 40, version="1", vllm="1",
    sdist=Sdist(project="p", file="p-1.tar.gz", sha256="c" * 64, generated=()),
)  # fmt: skip


def _lock(contents: dict[str, bytes], pin: LockedPin | None = None) -> Lock:
    entries = tuple(
        LockedPatch(file=name, sha256=hashlib.sha256(content).hexdigest(), tree="d" * 40)
        for name, content in contents.items()
    )
    pin = pin or LockedPin(name="v1", commit=PIN.commit, tree=PIN.tree)
    return Lock(pin=pin, base=Base(commit="e" * 40), patches=entries, end=Point(commit="f" * 40, tree="d" * 40))


def _folder(path: Path, contents: dict[str, bytes]) -> Series:
    for name, content in contents.items():
        (path / name).write_bytes(content)
    (path / "series").write_text("".join(f"{name}\n" for name in contents))
    return load_series(path)


def test_comments_and_blank_lines_are_no_patches() -> None:
    assert parse_series("# why\n\na.patch\n# between\n  b.patch  \n") == (("a.patch", "b.patch"), ("# why",))


def test_a_series_file_keeps_its_leading_comments(tmp_path: Path) -> None:
    assert Series(tmp_path, ("a.patch",), ("# why",)).render() == "# why\na.patch\n"


@pytest.mark.parametrize("line", ["../a.patch", "sub/a.patch", "a.txt", "/etc/a.patch"])
def test_a_name_that_is_no_patch_of_the_folder_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "series").write_text(f"{line}\n")
    with pytest.raises(ConfigurationError, match="wrong"):
        load_series(tmp_path)


def test_a_name_listed_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "series").write_text("a.patch\na.patch\n")
    with pytest.raises(ConfigurationError, match="each once"):
        load_series(tmp_path)


@given(LOCKS)
def test_a_lock_comes_back_from_its_text_and_writes_the_same_bytes(lock: Lock) -> None:
    import tomllib

    again = Lock.model_validate(tomllib.loads(lock.render()))
    assert again == lock
    assert again.render() == lock.render()
    assert again.digest == lock.digest


@given(LOCKS, LOCKS)
def test_the_digest_is_the_content_and_every_difference_has_a_reason(one: Lock, other: Lock) -> None:
    assert (one.digest == other.digest) == (one == other)
    assert bool(changes(one, other)) == (one != other)


def test_the_header_explains_every_table() -> None:
    header = "".join(line for line in _lock({}).render().splitlines() if line.startswith("#"))
    assert all(table in header for table in ("[pin]", "[base]", "[[patch]]", "[end]"))


@pytest.mark.parametrize("text", ["", "format = 2", "not toml [", "format = 1\n[pin]\nname = 1"])
def test_a_malformed_lock_is_a_configuration_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"lock\.toml"):
        load_lock(tmp_path)


def test_what_the_lock_names_passes(tmp_path: Path) -> None:
    contents = {"a.patch": b"a", "b.patch": b"b"}
    require_locked(_folder(tmp_path, contents), _lock(contents), "v1", PIN)


@given(position=st.integers(0, 9), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("series")
    content = bytearray(b"0123456789")
    lock = _lock({"a.patch": bytes(content)})
    content[position] ^= 1 << bit
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(PinMismatchError, match=f"expected sha256 {lock.patches[0].sha256}, found {found}"):
        require_locked(_folder(folder, {"a.patch": bytes(content)}), lock, "v1", PIN)


def test_another_order_is_a_mismatch(tmp_path: Path) -> None:
    series = _folder(tmp_path, {"b.patch": b"b", "a.patch": b"a"})
    with pytest.raises(PinMismatchError, match=r"expected a\.patch, b\.patch; found b\.patch, a\.patch"):
        require_locked(series, _lock({"a.patch": b"a", "b.patch": b"b"}), "v1", PIN)


@pytest.mark.parametrize("field", ["name", "commit", "tree"])
def test_the_lock_of_another_pin_is_a_mismatch(tmp_path: Path, field: str) -> None:
    values: dict[str, Any] = {"name": "v1", "commit": PIN.commit, "tree": PIN.tree, field: "9" * 40}
    with pytest.raises(PinMismatchError, match=f"{field} expected {'9' * 40}"):
        require_locked(_folder(tmp_path, {}), _lock({}, LockedPin(**values)), "v1", PIN)


def test_a_listed_patch_that_is_not_there_is_named(tmp_path: Path) -> None:
    series = _folder(tmp_path, {"a.patch": b"a"})
    (tmp_path / "a.patch").unlink()
    with pytest.raises(ConfigurationError, match=r"lists a\.patch"):
        require_locked(series, _lock({"a.patch": b"a"}), "v1", PIN)


def test_each_kind_of_change_has_its_reason() -> None:
    before = _lock({"a.patch": b"a", "b.patch": b"b", "c.patch": b"c"})
    after = _lock({"b.patch": b"B", "a.patch": b"a", "d.patch": b"d"})
    assert [reason.partition(":")[0] for reason in changes(before, after)] == [
        "PATCH_ADDED",
        "PATCH_REMOVED",
        "PATCH_CHANGED",
        "ORDER_CHANGED",
    ]
    moved = after.model_copy(update={"pin": LockedPin(name="v2", commit="1" * 40, tree="2" * 40)})
    assert changes(after, moved) == ["PIN_CHANGED: the pin changed from v1 at tree bbbbbbbbbbbb"]
    other = after.model_copy(update={"end": Point(commit="3" * 40, tree="4" * 40)})
    assert changes(after, other)[0].startswith("RESULT_CHANGED")
