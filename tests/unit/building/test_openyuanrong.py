"""openYuanrong's wheel: which objects stay, and what of the engineer's is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from yrpd.building.openyuanrong import DATASYSTEM, OpenYuanrong, check_plugin, openyuanrong_wheels
from yrpd.building.openyuanrong_wheel import NAME
from yrpd.building.prepared import with_build_tag
from yrpd.errors import ConfigurationError, ImageError
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.reporting import Reporter
from yrpd.wheels.locks import Lock
from yrpd.wheels.wheelfile import executables, pure_metadata, write_wheel
from yrpd.wheels.wheelhouse import Wheel

TAG = "cp311-cp311-manylinux_2_34_x86_64"


def _wheel(folder: Path, name: str, tag: str = TAG) -> Path:
    path = folder / f"{name}-1.0-{tag}.whl"
    write_wheel(path, pure_metadata(name, "1.0", "x", tag))
    return path


def test_a_given_wheel_changes_what_the_environment_is_made_from(tmp_path: Path) -> None:
    project = Project.here()
    locked = OpenYuanrong.of(project)
    given = OpenYuanrong.of(project, openyuanrong=str(_wheel(tmp_path, NAME)))
    assert locked.digest == OpenYuanrong.of(project).digest
    assert given.digest != locked.digest
    assert given.given[NAME].version == "1.0"
    worker = OpenYuanrong.of(project, datasystem=str(_wheel(tmp_path, "openyuanrong_datasystem")))
    assert worker.digest not in (locked.digest, given.digest)


@pytest.mark.parametrize("name", ["other", "openyuanrong_datasystem"])
def test_a_wheel_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"not of {NAME}"):
        OpenYuanrong.of(Project.here(), openyuanrong=str(_wheel(tmp_path, name)))


@pytest.mark.parametrize("name", ["no-wheel.txt", f"{NAME}-1.0-{TAG}.whl"])
def test_a_file_that_is_no_wheel_or_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no wheel"):
        OpenYuanrong.of(Project.here(), openyuanrong=str(tmp_path / name))


def test_a_wheel_for_another_python_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    wheel = str(_wheel(tmp_path, NAME, "cp39-cp39-manylinux_2_34_x86_64"))
    empty = Lock("openyuanrong", (), "0" * 64)
    nothing = OpenYuanrong(empty, empty, OpenYuanrong.of(Project.here(), openyuanrong=wheel).given)
    with pytest.raises(ConfigurationError, match="does not fit"):
        openyuanrong_wheels(Project(tmp_path), nothing, Reporter())


def test_a_prepared_wheel_says_in_its_name_that_it_is_not_the_published_one() -> None:
    assert with_build_tag(f"x-1.0-{TAG}.whl", "1yrpd") == f"x-1.0-1yrpd-{TAG}.whl"
    assert with_build_tag(f"x-1.0-7-{TAG}.whl", "1yrpd") == f"x-1.0-1yrpd-{TAG}.whl"


def test_programs_of_a_wheel_stay_programs(tmp_path: Path) -> None:
    files = {"yr/etcd": b"x", "yr/a.py": b"", **pure_metadata("x", "1", "x", TAG)}
    write_wheel(tmp_path / "x.whl", files, executable=frozenset({"yr/etcd"}))
    assert executables(tmp_path / "x.whl") == {"yr/etcd"}


PLUGIN = "yr/datasystem/lib/libacl_plugin.so"
BEFORE, SINCE = b"\0ra_init\0", b"\0RaInit\0"


def _client(folder: Path, plugin: bytes | None) -> Wheel:
    path = folder / f"openyuanrong_datasystem-1.0-{TAG}.whl"
    write_wheel(path, pure_metadata("openyuanrong_datasystem", "1.0", "x", TAG) | ({PLUGIN: plugin} if plugin else {}))
    return Wheel(DATASYSTEM, "1.0", "0" * 64, path)


@pytest.mark.parametrize(
    ("plugin", "cann"),
    [(BEFORE, "8.2.RC1"), (BEFORE, "8.3.RC2"), (SINCE, "8.5.0"), (SINCE, "8.5.RC1"), (SINCE, "9.0.0")],
)
def test_a_plugin_for_the_bases_cann_is_taken(tmp_path: Path, plugin: bytes, cann: str) -> None:
    check_plugin(_client(tmp_path, plugin), cann, "x86_64")


@pytest.mark.parametrize(
    ("plugin", "cann", "said"),
    [
        (SINCE, "8.2.RC1", "has a device plugin for CANN since 8.5, the base has CANN 8.2.RC1"),
        (BEFORE, "8.5.0", "has a device plugin for CANN before 8.5"),
        (
            None,
            "8.2.RC1",
            "has no device plugin, the base has .*: no block would travel; published wheels have one on aarch64",
        ),
        (None, "8.5.0", "has no device plugin, the base has CANN 8.5.0: no block would travel."),
    ],
)
def test_an_image_whose_blocks_would_not_travel_is_not_made(
    tmp_path: Path, plugin: bytes | None, cann: str, said: str
) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        check_plugin(_client(tmp_path, plugin), cann, "x86_64")
    assert "--datasystem FILE" in caught.value.next_command


@pytest.mark.parametrize(("pin", "variant"), [("v0.10.0rc1", "-0.8.0"), ("v0.11.0", "-0.8.0")])
def test_the_lock_follows_the_cann_of_the_pins_base(pin: str, variant: str) -> None:
    release = load_release(Project.here().release_file)
    assert release.datasystem_variant(pin, "npu") == variant
    assert release.datasystem_variant(pin, "cpu") == ""
    table = release.flavours["npu"].model_copy(update={"cann": "8.5.0"})
    newer = release.model_copy(update={"flavours": {**release.flavours, "npu": table}})
    assert newer.datasystem_variant("v0.10.0rc1", "npu") == ""
    yuanrong = OpenYuanrong.of(Project.here(), variant)
    for lock in (yuanrong.client, yuanrong.lock):
        (version,) = {entry.version for entry in lock.entries if entry.name == DATASYSTEM}
        assert version == release.openyuanrong.datasystem_before_cann_8_5
