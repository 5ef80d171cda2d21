"""The chain from the series to a container, whole, and broken at every link."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from docker.models.containers import Container

from yrpd.documents.release_folder import MANIFEST, PROVENANCE, SBOM, TREE, update_folder, write_file
from yrpd.errors import VerificationError
from yrpd.releasing import commands, saving
from yrpd.releasing.verifying import TREE_FOLDER, Link, verify_container, verify_folder, verify_image, verify_tarball

from .conftest import Released, quiet

HOOKED = "vllm_ascend/distributed/__init__.py"


@pytest.fixture(scope="module")
def saved(released: Released) -> Released:
    saving.save(released.client, released.folder, quiet())
    return released


@pytest.fixture
def run(saved: Released) -> Iterator[Callable[..., Container]]:
    """Starts containers that wait, and removes them."""
    made: list[Container] = []

    def start(image: str, **options: object) -> Container:
        wait = ["python3", "-c", "import signal; signal.pause()"]
        made.append(saved.client.containers.run(image, wait, detach=True, network_mode="none", **options))  # type: ignore[call-overload]
        return made[-1]

    yield start
    for one in made:
        one.remove(force=True, v=True)


def broken(links: list[Link]) -> dict[str, str]:
    """The links that do not hold, with what was found."""
    return {one.name: one.detail for one in links if not one.passed}


def test_everything_holds(saved: Released, run: Callable[..., Container]) -> None:
    manifest = saved.manifest
    container = run(manifest.image)
    links = [
        *verify_folder(saved.folder, manifest),
        *verify_tarball(manifest, saved.folder.tarball),
        *verify_image(saved.client, saved.folder, manifest, manifest.image),
        *verify_container(saved.client, saved.folder, manifest, str(container.name)),
    ]
    assert broken(links) == {}
    assert [one.name for one in links] == [
        "files",
        "series",
        "series -> tree",
        "tree -> inputs",
        "documents",
        "tarball",
        "tarball -> image",
        "image",
        "tree -> image",
        "image -> container",
        "tree -> container",
        "container's code",
    ]


def _edit(released: Released, name: str, old: bytes, new: bytes, *, sums: bool) -> None:
    data = released.folder.read(name)
    assert old in data
    if sums:
        update_folder(released.folder.path, {name: data.replace(old, new)}, {})
    else:
        write_file(released.folder.path / name, data.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "sums", "link", "said"),
    [
        ("patches/hook-it-in.patch", b"+hook", b"+hack", False, "files", "hook-it-in.patch was changed"),
        ("patches/hook-it-in.patch", b"+hook", b"+hack", True, "series", "hook-it-in.patch is not the locked patch"),
        ("patches/series", b"hook-it-in", b"#hook-it-in", True, "series", "another order"),
        (TREE, b"100644 blob", b"100755 blob", True, "series -> tree", "the series ends at"),
        (MANIFEST, b'"patched tree": "', b'"patched tree": "0', True, "tree -> inputs", "another digest"),
        (SBOM, b'"specVersion": "1.6"', b'"specVersion": "9"', True, "documents", "sbom.cdx.json"),
        (PROVENANCE, b'"digest"', b'"disgust"', True, "documents", "provenance.intoto.json"),
    ],
)
def test_a_changed_file_of_the_folder_breaks_its_link(
    saved: Released, tmp_path: Path, name: str, old: bytes, new: bytes, sums: bool, link: str, said: str
) -> None:
    other = saved.copy(tmp_path)
    _edit(other, name, old, new, sums=sums)
    found = broken(verify_folder(other.folder, other.manifest))
    assert next(iter(found)) == link
    assert said in found[link]


def test_a_file_that_no_list_names_is_found(saved: Released, tmp_path: Path) -> None:
    other = saved.copy(tmp_path)
    (other.folder.path / "patches" / "more.patch").write_text("x")
    assert broken(verify_folder(other.folder, other.manifest)) == {"files": "patches/more.patch is in no list"}


def test_a_listing_made_to_fit_another_tree_is_not_what_the_patches_declare(saved: Released, tmp_path: Path) -> None:
    from yrpd.git.repository import blob_id
    from yrpd.releasing.trees import TreeFile, parse_listing

    other = saved.copy(tmp_path)
    files = parse_listing(other.folder.read(TREE).decode())
    files[HOOKED] = TreeFile("100644", blob_id(b"something else"))
    listing = "".join(f"{one.mode} blob {one.blob}\t{path}\n" for path, one in files.items())
    update_folder(other.folder.path, {TREE: listing.encode()}, {})
    assert (
        f"{HOOKED} is not what the series leaves"
        in broken(verify_folder(other.folder, other.manifest))["series -> tree"]
    )


def test_an_image_with_one_changed_file_is_found_and_the_file_named(saved: Released) -> None:
    changed = saved.derive(
        f"COPY keys.py /{TREE_FOLDER}/vllm_ascend/distributed/yuanrong/keys.py", **{"keys.py": "A = 9\n"}
    )
    found = broken(verify_image(saved.client, saved.folder, saved.manifest, changed))
    assert found.keys() == {"image", "tree -> image"}
    assert f"id expected {saved.manifest.id}, found sha256:" in found["image"]
    assert found["tree -> image"] == "vllm_ascend/distributed/yuanrong/keys.py was changed"


def test_an_image_with_another_command_is_found(saved: Released) -> None:
    found = broken(verify_image(saved.client, saved.folder, saved.manifest, saved.derive('CMD ["evil"]')))
    assert "its configuration differs" in found["image"]


def test_an_image_that_is_not_there_is_said(saved: Released) -> None:
    found = broken(verify_image(saved.client, saved.folder, saved.manifest, "yrpd-no-such-image:1"))
    assert found == {"image": "the engine has no yrpd-no-such-image:1"}


def test_a_container_started_from_another_image_is_found(saved: Released, run: Callable[..., Container]) -> None:
    container = run(saved.derive("COPY x /x", x="x"))
    found = broken(verify_container(saved.client, saved.folder, saved.manifest, str(container.name)))
    assert found.keys() == {"image -> container"}


def test_a_container_whose_code_was_edited_is_found(saved: Released, run: Callable[..., Container]) -> None:
    container = run(saved.manifest.image)
    script = f"open('/{TREE_FOLDER}/{HOOKED}', 'a').write('x = 1'); open('/vllm-workspace/new.py', 'w')"
    assert container.exec_run(["python3", "-c", script]).exit_code == 0
    found = broken(verify_container(saved.client, saved.folder, saved.manifest, str(container.name)))
    assert found["tree -> container"] == f"{HOOKED} was changed"
    assert "/vllm-workspace/new.py was added" in found["container's code"]
    assert f"/{TREE_FOLDER}/{HOOKED} was changed" in found["container's code"]


def test_a_mount_that_hides_code_is_found(saved: Released, run: Callable[..., Container], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    target = f"/{TREE_FOLDER}/setup.py"
    container = run(saved.manifest.image, volumes={str(tmp_path / "mine.py"): {"bind": target, "mode": "ro"}})
    found = broken(verify_container(saved.client, saved.folder, saved.manifest, str(container.name)))
    assert f"{target} is hidden by a mount" in found["container's code"]


def test_what_python_compiles_at_run_time_is_no_change(saved: Released, run: Callable[..., Container]) -> None:
    container = run(saved.manifest.image)
    script = f"import sys; sys.path.insert(0, '/{TREE_FOLDER}'); import vllm_ascend"
    assert container.exec_run(["python3", "-c", script]).exit_code == 0
    assert broken(verify_container(saved.client, saved.folder, saved.manifest, str(container.name))) == {}


def test_a_tampered_tarball_is_found(saved: Released, tmp_path: Path) -> None:
    data = bytearray(saved.folder.tarball.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad").write_bytes(data)
    found = broken(verify_tarball(saved.manifest, tmp_path / "bad"))
    assert "sha256 expected" in found["tarball"]
    assert "tarball -> image" in found
    (tmp_path / "short").write_bytes(saved.folder.tarball.read_bytes()[:-1000])
    assert set(broken(verify_tarball(saved.manifest, tmp_path / "short"))) >= {
        "tarball",
        "tarball -> image",
    }


def test_a_tarball_of_an_image_with_one_changed_file_is_found(saved: Released, tmp_path: Path) -> None:
    changed = saved.derive(f"COPY setup.py /{TREE_FOLDER}/setup.py", **{"setup.py": "print('evil')\n"})
    plain = b"".join(saved.client.api.get_image(changed))
    path = tmp_path / "evil.tar.zst"
    path.write_bytes(zstandard.ZstdCompressor(level=1).compress(plain))
    found = broken(verify_tarball(saved.manifest, path))
    layers = len(saved.manifest.diff_ids)
    assert f"it has {layers + 1} layers, the release {layers}" in found["tarball -> image"]


def test_an_archive_that_is_not_compressed_as_a_release_is_said(saved: Released, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"".join(saved.client.api.get_image(saved.manifest.image)))
    found = broken(verify_tarball(saved.manifest, tmp_path / "plain"))
    assert "sha256 expected" in found["tarball"]
    assert "The tarball is damaged" in found["tarball -> image"]


def test_a_file_that_an_upper_layer_removed_is_missing(saved: Released) -> None:
    removed = saved.derive(f'RUN ["python3", "-c", "import os; os.unlink(\'/{TREE_FOLDER}/README.md\')"]')
    found = broken(verify_image(saved.client, saved.folder, saved.manifest, removed))
    assert found["tree -> image"] == "README.md is missing"


def test_the_command_names_the_broken_link_and_ends_with_nine(saved: Released) -> None:
    options = {"reporter": quiet(), "flavour": "cpu"}
    assert commands.verify(project=saved.project, **options)["passed"]  # type: ignore[arg-type]
    changed = saved.derive("COPY x /x", x="x")
    with pytest.raises(VerificationError, match="broken at 'image'") as caught:
        commands.verify(project=saved.project, image=changed, **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 9
    assert caught.value.document is not None
    assert caught.value.document["broken"] == "image"
    assert json.dumps(caught.value.document)
