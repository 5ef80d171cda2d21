"""Choosing wheels: the lock's hashes decide first, the image's tags second."""

from __future__ import annotations

import pytest

from yrpd.errors import PinMismatchError
from yrpd.wheels.index import choose, supported_tags
from yrpd.wheels.locks import Locked

A, B, C = "a" * 64, "b" * 64, "c" * 64


def test_the_most_specific_wheel_that_fits_is_chosen() -> None:
    packages = [
        ("x-1-py3-none-any.whl", A),
        ("x-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", B),
        ("x-1-cp311-cp311-macosx_11_0_arm64.whl", C),
    ]
    assert choose(Locked("x", "1", frozenset({A, B, C})), packages, supported_tags()) == (packages[1][0], B)


def test_a_file_whose_hash_is_not_locked_is_never_chosen() -> None:
    packages = [("x-1-cp311-cp311-manylinux_2_17_x86_64.whl", B), ("x-1-py3-none-any.whl", A)]
    assert choose(Locked("x", "1", frozenset({A})), packages, supported_tags()) == (packages[1][0], A)


def test_the_machine_of_the_engine_decides_which_wheel_it_gets() -> None:
    packages = [("x-1-cp38-abi3-manylinux_2_28_x86_64.whl", A), ("x-1-cp38-abi3-manylinux_2_28_aarch64.whl", B)]
    locked = Locked("x", "1", frozenset({A, B}))
    assert choose(locked, packages, supported_tags("aarch64")) == (packages[1][0], B)


@pytest.mark.parametrize(
    "file",
    [
        "x-1.tar.gz",
        "x-1-cp312-cp312-manylinux_2_17_x86_64.whl",
        "x-1-cp311-cp311-manylinux_2_39_x86_64.whl",
        "x-1-cp311-cp311-musllinux_1_2_x86_64.whl",
    ],
)
def test_a_source_distribution_or_a_wheel_for_another_system_is_no_match(file: str) -> None:
    with pytest.raises(PinMismatchError, match="no wheel of x 1"):
        choose(Locked("x", "1", frozenset({A})), [(file, A)], supported_tags())
