"""The published wheels of the DataSystem: which has a device plugin, and for which CANN."""

from __future__ import annotations

import pytest

from yrpd.building.openyuanrong import DATASYSTEM, OpenYuanrong, client_wheels
from yrpd.errors import ImageError
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.reporting import Reporter

PROJECT = Project.here()
OLD, NEW = load_release(PROJECT.release_file).flavour("v0.10.0rc1", "npu").cann, "8.5.0"


@pytest.mark.parametrize(
    ("variant", "machine", "cann", "missing"),
    [
        ("-0.8.0", "aarch64", OLD, ""),
        ("-0.8.0", "x86_64", OLD, "no device plugin.*published wheels have one on aarch64"),
        ("-0.8.0", "aarch64", NEW, "a device plugin for CANN before 8.5"),
        ("", "aarch64", NEW, ""),
        ("", "x86_64", NEW, ""),
        ("", "aarch64", OLD, "a device plugin for CANN since 8.5"),
        ("", "x86_64", OLD, "a device plugin for CANN since 8.5"),
    ],
)
def test_a_published_wheel_goes_only_where_its_plugin_loads(
    variant: str, machine: str, cann: str, missing: str
) -> None:
    yuanrong = OpenYuanrong.of(PROJECT, variant)
    if missing:
        with pytest.raises(ImageError, match=missing):
            client_wheels(PROJECT, yuanrong, cann, Reporter(), machine)
    else:
        (wheel,) = client_wheels(PROJECT, yuanrong, cann, Reporter(), machine)
        assert wheel.name == DATASYSTEM
        assert wheel.file.endswith(f"{machine}.whl")
