"""Images as one stream: what ``docker load`` reads, the same bytes for the same parts."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yrpd.building.assembly import Part, Settings, file_part, image_archive
from yrpd.building.context import Context
from yrpd.errors import BuildError

SETTINGS = Settings({"label": "value"}, {"PATH": "/bin"})


def _part(**files: bytes) -> Part:
    context = Context()
    for name, data in files.items():
        context.add_bytes(name, data)
    return Part(f"made of {', '.join(files)}", lambda _: (context.size, context.chunks()))


def _read(stream: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        return {info.name: (tar.extractfile(info) or io.BytesIO()).read() for info in tar}


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=3))
def test_every_layer_is_named_by_its_hash_and_the_configuration_by_its_own(contents: list[bytes]) -> None:
    parts = [_part(file=data) for data in contents]
    members = _read(b"".join(image_archive("name:tag", parts, (), SETTINGS)))
    (manifest,) = json.loads(members["manifest.json"])
    assert manifest["RepoTags"] == ["name:tag"]
    configuration = members[manifest["Config"]]
    assert manifest["Config"] == f"{hashlib.sha256(configuration).hexdigest()}.json"
    described = json.loads(configuration)
    layers = [members[name] for name in manifest["Layers"]]
    assert described["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]
    assert [_read(one)["file"] for one in layers] == contents
    assert [one["created_by"] for one in described["history"]] == [one.made_by for one in parts]
    assert (described["config"]["Env"], described["config"]["Labels"]) == (["PATH=/bin"], {"label": "value"})


def test_layers_that_the_engine_has_are_named_and_not_sent() -> None:
    parts = [_part(low=b"1"), _part(high=b"2")]
    members = _read(b"".join(image_archive("n:t", parts, ("sha256:known",), SETTINGS)))
    (manifest,) = json.loads(members["manifest.json"])
    assert manifest["Layers"] == ["0/layer.tar", "1/layer.tar"]
    assert "0/layer.tar" not in members
    assert json.loads(members[manifest["Config"]])["rootfs"]["diff_ids"][0] == "sha256:known"
    whole = _read(b"".join(image_archive("n:t", parts, (), SETTINGS)))
    assert whole["1/layer.tar"] == members["1/layer.tar"]


def test_an_archive_on_disk_is_a_layer_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(b"x" * 1000)
    assert _read(b"".join(image_archive("n:t", [file_part(path, "root")], (), SETTINGS)))["0/layer.tar"] == b"x" * 1000


@pytest.mark.parametrize("size", [5, 5000])
def test_a_part_that_is_not_as_long_as_it_said_ends_the_stream(size: int) -> None:
    context = Context()
    context.add_stream("file", size, lambda: io.BytesIO(b"much longer"))
    with pytest.raises(BuildError, match="changed while it was read"):
        list(image_archive("n:t", [Part("short", lambda _: (context.size, context.chunks()))], (), SETTINGS))
