"""Choosing wheels: the lock's hashes decide first, the image's tags second."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from yrpd.errors import PinMismatchError
from yrpd.wheels.locks import Locked
from yrpd.wheels.package_index import PackageIndex, open_index
from yrpd.wheels.wheelhouse import Target, choose


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    """A folder of files as the only place to look."""
    with open_index({"no-index": "1", "find-links": str(tmp_path)}) as index:
        yield index


def _put(folder: Path, *files: str) -> list[str]:
    """Write files, each with bytes of its own, and return their hashes."""
    for file in files:
        (folder / file).write_bytes(file.encode())
    return [hashlib.sha256(file.encode()).hexdigest() for file in files]


def test_the_most_specific_wheel_that_fits_is_chosen(index: PackageIndex, tmp_path: Path) -> None:
    best = "x-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
    hashes = _put(tmp_path, "x-1-py3-none-any.whl", best, "x-1-cp311-cp311-macosx_11_0_arm64.whl")
    assert choose(index, Locked("x", "1", frozenset(hashes)), Target()).filename == best


def test_a_file_whose_hash_is_not_locked_is_never_chosen(index: PackageIndex, tmp_path: Path) -> None:
    _, locked = _put(tmp_path, "x-1-cp311-cp311-manylinux_2_17_x86_64.whl", "x-1-py3-none-any.whl")
    assert choose(index, Locked("x", "1", frozenset({locked})), Target()).filename == "x-1-py3-none-any.whl"


def test_the_machine_of_the_engine_decides_which_wheel_it_gets(index: PackageIndex, tmp_path: Path) -> None:
    files = [f"x-1-cp38-abi3-manylinux_2_28_{machine}.whl" for machine in ("x86_64", "aarch64")]
    locked = Locked("x", "1", frozenset(_put(tmp_path, *files)))
    assert choose(index, locked, Target("x86_64")).filename == files[0]
    assert choose(index, locked, Target("aarch64")).filename == files[1]


@pytest.mark.parametrize("name", ["manylinux2014", "manylinux2010", "manylinux1", "linux", "manylinux_2_36"])
def test_every_name_of_a_platform_that_is_old_enough_fits(name: str, index: PackageIndex, tmp_path: Path) -> None:
    (locked,) = _put(tmp_path, f"x-1-cp311-cp311-{name}_x86_64.whl")
    assert choose(index, Locked("x", "1", frozenset({locked})), Target())


@pytest.mark.parametrize(
    "file",
    [
        "x-1.tar.gz",
        "x-1-cp312-cp312-manylinux_2_17_x86_64.whl",
        "x-1-cp311-cp311-manylinux_2_39_x86_64.whl",
        "x-1-cp311-cp311-musllinux_1_2_x86_64.whl",
        "x-2-py3-none-any.whl",
    ],
)
def test_a_source_distribution_or_a_wheel_for_another_system_is_no_match(
    file: str, index: PackageIndex, tmp_path: Path
) -> None:
    locked = Locked("x", "1", frozenset(_put(tmp_path, file)))
    with pytest.raises(PinMismatchError, match="no wheel of x 1"):
        choose(index, locked, Target())
