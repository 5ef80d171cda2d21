"""Weights are known by their content: other bytes, another digest; other paths and times, the same one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yuanrong import weights
from yuanrong.weights import SAMPLE_BYTES, digest, stamps, weight_files

from tests.unit.connector.model_files import safetensors, torch_archive

BIG = 40 * SAMPLE_BYTES


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model counts as a large one."""
    monkeypatch.setattr(weights, "WHOLE_BYTES", 0)


def named(*paths: Path) -> dict[str, Path]:
    return {path.name: path for path in paths}


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ 1]))


def test_every_byte_of_a_small_model_counts(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "m.safetensors", {"a": bytes(BIG), "b": bytes(7)})
    seen = {digest(named(path))}
    for position in range(0, path.stat().st_size, 9973):
        flip(path, position)
        seen.add(digest(named(path)))
        flip(path, position)
    assert len(seen) == 1 + len(range(0, path.stat().st_size, 9973))
    assert all(each.startswith("whole:") for each in seen)


def test_copies_are_equal_whatever_their_folder_and_times(tmp_path: Path) -> None:
    found = set()
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        path = safetensors(tmp_path / name / "m.safetensors", {"w": bytes(BIG)})
        os.utime(path, (number * 1000, number * 1000))
        found.add(digest(named(path)))
    assert len(found) == 1


@pytest.mark.usefixtures("sampled")
@pytest.mark.parametrize("place", [0, SAMPLE_BYTES - 1, BIG // 2, BIG - 1], ids=["first", "4096th", "middle", "last"])
@pytest.mark.parametrize("tensor", range(3))
def test_each_tensor_of_a_large_model_counts(tmp_path: Path, tensor: int, place: int) -> None:
    path = safetensors(tmp_path / "m.safetensors", {name: bytes(BIG) for name in "abc"})
    before = digest(named(path))
    assert before.startswith("sampled:")
    flip(path, path.stat().st_size - (3 - tensor) * BIG + place)
    assert digest(named(path)) != before


@pytest.mark.usefixtures("sampled")
def test_what_lies_between_the_samples_counts_only_when_everything_is_read(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "m.safetensors", {"a": bytes(BIG)})
    small, full = digest(named(path)), digest(named(path), full=True)
    flip(path, path.stat().st_size - BIG + SAMPLE_BYTES)
    assert digest(named(path)) == small
    assert digest(named(path), full=True) != full


@pytest.mark.usefixtures("sampled")
def test_the_header_and_the_size_count(tmp_path: Path) -> None:
    def of(tensors: dict[str, bytes]) -> str:
        return digest(named(safetensors(tmp_path / "m.safetensors", tensors)))

    base = {"a": bytes(BIG), "b": bytes(BIG)}
    others = [{"a": bytes(BIG), "c": bytes(BIG)}, {"a": bytes(BIG), "b": bytes(BIG + 1)}, {"a": bytes(BIG)}]
    assert len({of(base), *map(of, others)}) == 4


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of all reads from here on."""
    sizes: list[int] = []
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    return sizes


@pytest.mark.usefixtures("sampled")
def test_the_reads_of_a_large_model_are_bounded_by_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = safetensors(tmp_path / "m.safetensors", {f"t{n}": bytes(BIG) for n in range(30)})
    sizes = counted(monkeypatch)
    digest(named(path))
    assert len(sizes) == 2 + 3 * 30
    assert sum(sizes) < 30 * 3 * SAMPLE_BYTES + 10_000


@pytest.mark.usefixtures("sampled")
def test_the_reads_of_files_without_an_index_of_tensors_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "SPACED_SAMPLES", 100)
    reads = counted(monkeypatch)
    paths = [tmp_path / f"{n}.gguf" for n in range(2)]
    for path in paths:
        path.write_bytes(b"GGUF" + bytes(1000 * SAMPLE_BYTES))
    digest(named(*paths))
    assert len(reads) < 2 * 60


@pytest.mark.usefixtures("sampled")
def test_a_torch_archive_is_known_by_the_checksums_of_all_its_records(tmp_path: Path) -> None:
    content = bytearray(1000 * SAMPLE_BYTES)
    before = digest(named(torch_archive(tmp_path / "m.bin", {"data.pkl": b"x", "data/0": bytes(content)})))
    found = set()
    for position in range(0, len(content), 333_333):
        changed = bytearray(content)
        changed[position] = 1
        found.add(digest(named(torch_archive(tmp_path / "m.bin", {"data.pkl": b"x", "data/0": bytes(changed)}))))
    assert before not in found
    assert len(found) == len(range(0, len(content), 333_333))


@pytest.mark.usefixtures("sampled")
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_a_file_of_any_content_has_a_digest(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    assert digest(named(path)) == digest(named(path))


@pytest.mark.usefixtures("sampled")
@pytest.mark.parametrize(
    "header",
    [b"[]", b"{", b'{"a":1}', b'{"a":{"data_offsets":[0,9999]}}', b'{"a":{"data_offsets":[9,0]}}', b"{}"],
)
def test_a_damaged_header_is_no_reason_to_stop(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(100))
    before = digest(named(path))
    flip(path, path.stat().st_size - 1)
    assert digest(named(path)) != before


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digest({"m": tmp_path / "m.bin"})


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"w")


@pytest.mark.parametrize(
    ("load_format", "present", "read"),
    [
        ("auto", ["a.safetensors", "b.bin", "c.pt"], ["a.safetensors"]),
        ("auto", ["b.bin", "training_args.bin", "c.pt"], ["b.bin"]),
        ("auto", ["c.pt", "optimizer.pt"], ["c.pt"]),
        ("auto", ["README.md"], []),
        ("safetensors", ["a.safetensors", "b.bin"], ["a.safetensors"]),
        ("mistral", ["model.safetensors", "consolidated.safetensors"], ["consolidated.safetensors"]),
        ("pt", ["a.safetensors", "c.pt"], ["c.pt"]),
        ("npcache", ["a.safetensors", "b.bin"], ["b.bin"]),
        ("gguf", ["a.gguf", "b.bin"], ["a.gguf"]),
        ("sharded_state", ["model-rank-0-part-0.safetensors"], ["model-rank-0-part-0.safetensors"]),
    ],
)
def test_the_files_are_those_that_vllm_reads(
    tmp_path: Path, load_format: str, present: list[str], read: list[str]
) -> None:
    touch(tmp_path, *present)
    assert list(weight_files(tmp_path, load_format)) == read


def test_an_index_says_which_safetensors_files_count(tmp_path: Path) -> None:
    touch(tmp_path, "consolidated.safetensors", "model-1.safetensors", "model-2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert list(weight_files(tmp_path, "auto")) == ["model-1.safetensors", "model-2.safetensors"]
    index.write_text("{")
    assert len(weight_files(tmp_path, "auto")) == 3


def test_a_model_may_be_one_file_and_its_name_does_not_count(tmp_path: Path) -> None:
    touch(tmp_path, "a.gguf", "b.gguf")
    assert digest(weight_files(tmp_path / "a.gguf", "gguf")) == digest(weight_files(tmp_path / "b.gguf", "gguf"))


def test_an_unknown_load_format_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        weight_files(tmp_path, "tensorizer")


def replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def backdated(path: Path) -> None:
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize(
    "change",
    [
        replaced,
        lambda p: p.write_bytes(b"y"),
        backdated,
    ],
    ids=["another file", "other bytes", "the same bytes again"],
)
def test_a_stamp_changes_with_every_replacement_and_write(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 1))
    before = stamps([path])
    assert stamps([path]) == before
    change(path)
    assert stamps([path]) != before
