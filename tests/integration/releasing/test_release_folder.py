"""The release folder of an image on a real engine: complete, checkable by other tools, and free of secrets."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from yrpd.documents import release_folder as folders
from yrpd.documents.image_record import read_record
from yrpd.documents.manifest import read_manifest
from yrpd.documents.release_folder import (
    CHECKSUMS,
    MANIFEST,
    NOTES,
    PROVENANCE,
    SBOM,
    SIGNATURE,
    STANDALONE,
    TARBALL,
    TREE,
    ReleaseFolder,
)
from yrpd.errors import ImageError, PinMismatchError
from yrpd.releasing import saving
from yrpd.releasing.making import provide_release
from yrpd.releasing.provenance import validate_provenance
from yrpd.releasing.sbom import validate_sbom
from yrpd.releasing.trees import parse_listing, tree_id

from .conftest import Released, quiet

SECRET = "hunter2-in-no-release"


def _again(released: Released) -> ReleaseFolder:
    record = read_record(released.project, "cpu", "v1")
    assert record is not None
    return provide_release(released.project, released.patched, record, released.client, quiet())


def test_its_checksums_are_those_that_sha256sum_computes(released: Released) -> None:
    command = ["sha256sum", "--strict", "--check", "SHA256SUMS"]
    done = subprocess.run(command, cwd=released.folder.path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    there = {path.relative_to(released.folder.path).as_posix() for path in released.folder.path.rglob("*.*")}
    assert there == set(folders.parse_checksums(released.folder.read("SHA256SUMS").decode())) - {"patches/series"}


def test_the_manifest_is_what_the_engine_says_of_the_image(released: Released) -> None:
    manifest, image = released.manifest, released.client.images.get(released.manifest.image)
    assert (manifest.id, list(manifest.diff_ids)) == (image.id, image.attrs["RootFS"]["Layers"])
    assert manifest.config.labels == image.labels
    assert [one.file for one in manifest.patches] == ["add-the-connector.patch", "hook-it-in.patch"]


def test_the_sbom_is_valid_and_has_every_patch_as_pedigree(released: Released) -> None:
    text = released.folder.read(SBOM).decode()
    assert validate_sbom(text) == ""
    (patched,) = [one for one in json.loads(text)["components"] if one.get("pedigree")]
    assert patched["name"] == "vllm-ascend"
    diffs = {one["diff"]["url"]: one["diff"]["text"]["content"] for one in patched["pedigree"]["patches"]}
    for one in released.manifest.patches:
        assert diffs[f"patches/{one.file}"] == released.folder.read(f"patches/{one.file}").decode()
    order = [row["value"].split()[0] for row in patched["properties"] if row["name"].startswith("yrpd:patch:")]
    assert order == [one.file for one in released.manifest.patches]


def test_the_provenance_is_valid_and_about_this_image(released: Released) -> None:
    statement = json.loads(released.folder.read(PROVENANCE))
    assert validate_provenance(statement) == ""
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert f"sha256:{subjects[released.manifest.image]}" == released.manifest.id
    statement["predicate"]["buildDefinition"]["builtBy"] = "nobody knows"
    assert "builtBy" in validate_provenance(statement)


def test_the_listing_has_the_tree_id_that_git_gave(released: Released) -> None:
    assert tree_id(parse_listing(released.folder.read(TREE).decode())) == released.patched.tree


def test_the_notes_give_every_patch_its_reason(released: Released) -> None:
    notes = released.folder.read(NOTES).decode()
    assert "### Hook it in" in notes
    assert notes.count("- Why: because") == 2
    assert "Body with an umlaut: ä." in notes


def _files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file's bytes and when it was written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def used(released: Released, tmp_path: Path) -> Released:
    """A release that was saved, and is signed."""
    other = released.copy(tmp_path / "used")
    saving.save(released.client, other.folder, quiet())
    (other.folder.path / SIGNATURE).write_text("signed")
    return other


def test_a_second_build_keeps_every_byte_also_of_what_was_added(used: Released) -> None:
    before = _files(used.project.dist)
    assert {path.name for path in before} >= {TARBALL, SIGNATURE, STANDALONE}
    assert _again(used).path == used.folder.path
    assert _files(used.project.dist) == before


@pytest.mark.parametrize("changed", ["scripts/yrpd/errors.py", "docker/deploy.lock", "requirements.lock"])
def test_another_state_of_this_project_is_another_release(used: Released, changed: str) -> None:
    before = _files(used.folder.path)
    path = used.project.root / changed
    path.write_text(f"{path.read_text(encoding='utf-8')}# edited\n", encoding="utf-8")
    made = _again(used)
    assert made.path != used.folder.path
    assert (made.path / STANDALONE).is_file()
    assert read_manifest(made).id == used.manifest.id
    assert _files(used.folder.path) == before


def test_another_image_of_the_same_inputs_is_another_release(used: Released) -> None:
    """The classic builder writes the time of a build into the image's configuration."""
    before = _files(used.folder.path)
    record = read_record(used.project, "cpu", "v1")
    assert record is not None
    other = used.derive("USER 7")
    record |= {"id": used.client.images.get(other).id}
    made = provide_release(used.project, used.patched, record, used.client, quiet())
    assert (read_manifest(made).image, read_manifest(made).id) == (used.manifest.image, record["id"])
    assert made.path != used.folder.path
    assert _files(used.folder.path) == before


@pytest.mark.parametrize("manifest", [b"not a manifest", None, b'{"of": "another"}'])
def test_what_has_the_name_and_is_not_this_release_is_not_replaced(used: Released, manifest: bytes | None) -> None:
    path = used.folder.path / MANIFEST
    if manifest is None:
        path.unlink()
    else:
        path.write_bytes(manifest)
    before = _files(used.folder.path)
    with pytest.raises(ImageError, match="is there, is not this release, and is not replaced") as caught:
        _again(used)
    assert caught.value.exit_code == 6
    assert caught.value.next_command.startswith(f"mv {used.folder.path} ")
    assert _files(used.folder.path) == before


def test_nothing_is_added_to_a_signed_release(used: Released) -> None:
    used.folder.tarball.unlink()
    before = _files(used.folder.path)
    with pytest.raises(ImageError, match="is signed, so nothing is added to it") as caught:
        saving.save(used.client, used.folder, quiet())
    assert caught.value.next_command.startswith(f"rm {used.folder.path / SIGNATURE}")
    assert _files(used.folder.path) == before


def test_a_save_that_was_killed_before_its_checksums_is_done_to_its_end(used: Released) -> None:
    (used.folder.path / SIGNATURE).unlink()
    sums = used.folder.path / CHECKSUMS
    whole = sums.read_bytes()
    sums.write_text("".join(line for line in whole.decode().splitlines(True) if TARBALL not in line))
    saving.save(used.client, used.folder, quiet())
    assert sums.read_bytes() == whole


def test_making_it_anew_gives_the_same_bytes(released: Released, tmp_path: Path) -> None:
    other = released.copy(tmp_path)
    shutil.rmtree(other.folder.path)
    _again(other)
    for name in folders.parse_checksums(released.folder.read("SHA256SUMS").decode()):
        assert other.folder.read(name) == released.folder.read(name), name


def test_no_secret_of_the_machine_gets_into_it(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = released.copy(tmp_path)
    shutil.rmtree(other.folder.path)
    for name in ("PIP_INDEX_URL", "HTTPS_PROXY", "HTTP_PROXY", "AWS_SECRET_ACCESS_KEY", "GIT_AUTHOR_EMAIL"):
        monkeypatch.setenv(name, f"http://user:{SECRET}@localhost:1/")
    monkeypatch.setenv("NO_PROXY", "*")
    configuration = tmp_path / "docker"
    configuration.mkdir()
    proxies = {"default": {"httpProxy": f"http://user:{SECRET}@localhost:1/"}}
    auths = {"localhost:5000": {"auth": SECRET}}
    (configuration / "config.json").write_text(json.dumps({"proxies": proxies, "auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(configuration))
    _again(other)
    found = [path for path in other.folder.path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert found == []


def test_a_series_that_was_changed_since_the_image_was_built_is_no_release(released: Released, tmp_path: Path) -> None:
    other = released.copy(tmp_path)
    shutil.rmtree(other.folder.path)
    patch = other.project.patches("v1") / "hook-it-in.patch"
    patch.write_bytes(patch.read_bytes().replace(b"+hook", b"+hack"))
    with pytest.raises(PinMismatchError, match=r"hook-it-in\.patch was changed"):
        _again(other)
    assert not other.folder.path.exists()


def test_on_a_full_disk_there_is_no_folder(released: Released, small_disk: Path) -> None:
    path = small_disk / "release"
    with pytest.raises(ImageError, match="No space left") as caught:
        folders.write_folder(path, {"big": b"x" * (8 << 20)})
    assert caught.value.exit_code == 6
    assert list(small_disk.iterdir()) == []
    folders.write_folder(path, {"small": b"x"})
    assert list(small_disk.iterdir()) == [path]
