"""The manifest of a release: the same bytes from the same content, and those of older releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from yrpd.documents.manifest import Manifest, read_manifest
from yrpd.documents.release_folder import MANIFEST, ReleaseFolder
from yrpd.errors import ImageError

GIT, SHA = "a" * 40, "b" * 64
DOCUMENT: dict[str, Any] = {
    "release": "r",
    "image": "name:1",
    "id": f"sha256:{SHA}",
    "diff_ids": [f"sha256:{SHA}"],
    "flavour": "cpu",
    "platform": "linux/amd64",
    "size_bytes": 1,
    "config": {},
    "base": "base",
    "pin": "v1",
    "upstream": {
        "repository": "r", "tag": "v1", "commit": None, "tree": GIT, "version": "1", "vllm": "1", "sdist_file": "f",
        "sdist_sha256": SHA,
    },
    "version": "1",
    "commit": GIT,
    "tree": GIT,
    "series_digest": SHA,
    "patches": [],
    "inputs_digest": SHA,
    "inputs": {},
}  # fmt: skip
# What releases had before 0.2.0.
BEFORE: dict[str, Any] = {
    "layers": [{"diff_id": f"sha256:{SHA}", "bytes": 1, "holds": "x", "changes_with": "y"}],
    "pushed": [{"repository": "registry.example/vllm", "digest": f"sha256:{SHA}"}],
    "deploy": {"file": "deploy.pyz", "sha256": SHA, "bytes": 1, "inputs_digest": SHA, "targets": []},
}


def _folder(path: Path, document: dict[str, Any]) -> ReleaseFolder:
    (path / MANIFEST).write_text(json.dumps(document), encoding="utf-8")
    return ReleaseFolder(path)


def test_it_comes_back_from_its_bytes(tmp_path: Path) -> None:
    manifest = Manifest.model_validate(DOCUMENT)
    (tmp_path / MANIFEST).write_bytes(manifest.render())
    assert read_manifest(ReleaseFolder(tmp_path)) == manifest


def test_an_older_release_is_read_and_loses_nothing_when_something_is_added_to_it(tmp_path: Path) -> None:
    manifest = read_manifest(_folder(tmp_path, {**DOCUMENT, **BEFORE}))
    assert manifest.made_from == ""
    written = json.loads(manifest.model_copy(update={"size_bytes": 2}).render())
    assert written["size_bytes"] == 2
    assert {name: written[name] for name in BEFORE} == BEFORE


def test_a_field_that_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"manifest\.json: tree: "):
        read_manifest(_folder(tmp_path, {**DOCUMENT, "tree": "short"}))
