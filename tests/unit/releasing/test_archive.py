"""Image archives of every form that an engine saves: read once, and hashed instead of believed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile

import pytest

from yrpd.errors import ImageError
from yrpd.releasing.archive import ChunkReader, read_archive

LAYERS = (b"the lower layer" * 1000, b"the upper layer" * 500_000)
NAME = "repository/name:1.0"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


CONFIGURATION = json.dumps(
    {"config": {"Env": ["A=b"], "Labels": {"k": "v"}}, "rootfs": {"diff_ids": [*map(_digest, LAYERS)]}}
).encode()


def _tar(files: dict[str, bytes | str]) -> bytes:
    """An archive; text is the target of a symbolic link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _index(configuration: str, layers: list[str]) -> bytes:
    return json.dumps([{"Config": configuration, "RepoTags": [NAME], "Layers": layers}]).encode()


def _saved() -> bytes:
    """Before Docker 25: a folder for each layer, and links between equal ones."""
    files: dict[str, bytes | str] = {
        "low/layer.tar": LAYERS[0],
        "again/layer.tar": "../high/layer.tar",
        "high/layer.tar": LAYERS[1],
        "config.json": CONFIGURATION,
        "manifest.json": _index("config.json", ["low/layer.tar", "again/layer.tar"]),
    }
    return _tar(files)


def _saved_since_25(pack: bool) -> bytes:
    """Since Docker 25: an OCI layout with Docker's index in it; the containerd store has its layers gzipped."""
    blobs = [CONFIGURATION, *(gzip.compress(one, 1) if pack else one for one in LAYERS)]
    names = [f"blobs/{_digest(one).replace(':', '/')}" for one in blobs]
    files: dict[str, bytes | str] = {
        **dict(zip(names, blobs, strict=True)),
        "oci-layout": b"{}",
        "index.json": b'{"manifests": []}',
    }
    return _tar({**files, "manifest.json": _index(names[0], names[1:])})


def _read(data: bytes, step: int = 10_000) -> tuple[ChunkReader, bytearray]:
    seen = bytearray()
    return ChunkReader((data[start : start + step] for start in range(0, len(data), step)), seen.extend), seen


@pytest.mark.parametrize("archive", [_saved(), _saved_since_25(False), _saved_since_25(True)], ids=["20", "25", "gz"])
@pytest.mark.parametrize("step", [512, 100_000])
def test_its_image_is_read_whatever_engine_saved_it(archive: bytes, step: int) -> None:
    reader, seen = _read(archive, step)
    facts = read_archive(reader)
    assert (facts.image_id, facts.diff_ids, facts.tags) == (
        _digest(CONFIGURATION),
        tuple(map(_digest, LAYERS)),
        (NAME,),
    )
    assert (facts.config.env, facts.config.labels) == (("A=b",), {"k": "v"})
    assert (facts.bytes, bytes(seen)) == (len(archive), archive)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert [tar.getmember(one.member).size for one in facts.layers] == [one.bytes for one in facts.layers]


def test_a_changed_layer_is_hashed_and_not_believed() -> None:
    facts = read_archive(_read(_saved().replace(b"the lower", b"the worse"))[0])
    assert facts.image_id == _digest(CONFIGURATION)
    assert facts.diff_ids != tuple(map(_digest, LAYERS))


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (_saved()[:-12_000], "image archive|damaged"),
        (_saved()[:9_000], "damaged"),
        (_saved_since_25(True).replace(b"\x1f\x8b", b"\x1f\x8b\x00"), "damaged|image archive"),
        (_tar({"index.json": b"{}"}), "is no image archive, or lacks a part: 'manifest.json'"),
        (_tar({"manifest.json": b"[]"}), "is no image archive"),
        (b"no archive", "damaged"),
        (b"", "damaged|image archive"),
    ],
    ids=["short", "shorter", "gzip", "oci", "empty-index", "text", "nothing"],
)
def test_what_is_no_whole_archive_is_said(archive: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why) as caught:
        read_archive(_read(archive)[0], what="it")
    assert (caught.value.exit_code, caught.value.next_command) == (6, "invoke image.save")
