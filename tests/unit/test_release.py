"""release.toml: what is accepted, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.release import load_release

SHIPPED = Project.here().release_file


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "release.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_shipped_file_holds_the_pin_by_content() -> None:
    release = load_release(SHIPPED)
    name, pin = release.pin()
    assert name == "v0.10.0rc1"
    assert ((pin.commit or "")[:8], pin.tree[:8], pin.sdist.sha256[:8]) == ("4604882a", "d191241c", "b3cef184")
    assert release.patched_version(name) == "0.10.0rc1+yuanrong.1"


def test_another_pin_says_what_its_images_are_made_from() -> None:
    release = load_release(SHIPPED)
    default, other = release.flavour("v0.10.0rc1", "npu"), release.flavour("v0.11.0", "npu")
    assert default == release.flavours["npu"]
    assert other.base != default.base
    assert other.base.rpartition(":")[2].startswith("v0.11.0")
    assert (other.soc_version, other.dockerfile) == (default.soc_version, default.dockerfile)
    assert release.flavour("v0.11.0", "cpu").runtime != release.flavour("v0.10.0rc1", "cpu").runtime


def test_a_known_tag_that_does_not_say_it_has_no_image() -> None:
    with pytest.raises(ConfigurationError, match=r"cpu images of v0\.10\.1rc1") as caught:
        load_release(SHIPPED).flavour("v0.10.1rc1", "cpu")
    assert caught.value.exit_code == 2


def test_each_pin_has_an_image_record_of_its_own() -> None:
    release = load_release(SHIPPED)
    assert release.image_record("cpu") == release.image_record("cpu", "v0.10.0rc1") == "image-cpu.json"
    assert release.image_record("cpu", "v0.11.0") == "image-cpu-v0.11.0.json"
    with pytest.raises(ConfigurationError, match="no pin"):
        release.image_record("npu", "v9")


def test_an_unknown_pin_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"no pin 'v9'.*v0\.10\.0rc1") as caught:
        load_release(SHIPPED).pin("v9")
    assert caught.value.exit_code == 2
    assert caught.value.next_command


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('commit = "4604', 'commit = "zzzz', "commit"),
        ("sha256 = ", "sha257 = ", "sha25"),
        ("[release]", "[release", "not valid TOML"),
        ("revision = 1", 'revision = "one"', "revision"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_release(edited(tmp_path, old, new))


def test_only_a_known_tag_may_go_without_a_commit(tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    known = load_release(SHIPPED).known
    assert known["v0.9.2rc1"].commit is None
    assert known["v0.9.2rc1"].state == "tag v0.9.2rc1"
    first = next(line for line in text.splitlines() if line.startswith("commit = "))
    path = tmp_path / "release.toml"
    path.write_text(text.replace(first + "\n", "", 1), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"pins\.v0\.10\.0rc1\.commit is missing"):
        load_release(path)


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_release(tmp_path / "release.toml")
