"""LoRA adapters are known by what the engine loaded, not by their names, paths and numbers."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from yuanrong.adapters import Adapters, adapter_folder, watch_loads

from tests.unit.connector.fakes import Lora
from tests.unit.connector.model_files import adapter


def retrain(folder: Path, weights: bytes) -> None:
    """Replace the adapter's files as a trainer does: by new ones under the old names."""
    fresh = adapter(folder.with_suffix(".new"), weights)
    for path in fresh.iterdir():
        path.replace(folder / path.name)


def test_one_adapter_is_one_whatever_its_name_path_and_number(tmp_path: Path) -> None:
    a, b = adapter(tmp_path / "a", b"1"), adapter(tmp_path / "b", b"1")
    assert Adapters().identity(Lora("sql", str(a), 1)) == Adapters().identity(Lora("code", str(b), 7)) is not None


def test_weights_settings_and_type_tell_adapters_apart(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / "a", b"1"), adapter(tmp_path / "b", b"2"), adapter(tmp_path / "c", b"1", rank=16)]
    found = {Adapters().identity(Lora("x", str(folder))) for folder in folders}
    found.add(Adapters("torch.float16").identity(Lora("x", str(folders[0]))))
    assert len(found) == 4


def test_an_adapter_retrained_in_place_and_loaded_again_is_another_one(tmp_path: Path) -> None:
    adapters, folder = Adapters(), adapter(tmp_path / "a", b"1")
    before = adapters.identity(Lora("sql", str(folder), 1))
    retrain(folder, b"2")
    after = adapters.identity(Lora("sql", str(folder), 2))
    assert None not in (before, after)
    assert before != after


def test_an_adapter_retrained_in_place_and_not_loaded_again_is_not_shared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapters, folder = Adapters(), adapter(tmp_path / "a", b"1")
    lora = Lora("sql", str(folder), 1)
    assert adapters.identity(lora)
    retrain(folder, b"2")
    assert adapters.identity(lora) is adapters.identity(lora) is None
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    assert "Load it again" in caplog.text
    retrain(folder, b"1")
    assert adapters.identity(lora) is None, "the engine may have read the files in between"


def test_the_same_content_written_again_is_the_same_adapter(tmp_path: Path) -> None:
    adapters, folder = Adapters(), adapter(tmp_path / "a", b"1")
    before = adapters.identity(Lora("sql", str(folder)))
    retrain(folder, b"1")
    assert adapters.identity(Lora("sql", str(folder))) == before


def test_files_that_vanish_after_the_load_are_a_change(tmp_path: Path) -> None:
    adapters, folder = Adapters(), adapter(tmp_path / "a", b"1")
    assert adapters.identity(Lora("sql", str(folder)))
    shutil.rmtree(folder)
    assert adapters.identity(Lora("sql", str(folder))) is None


def test_a_number_that_names_another_path_is_not_shared(tmp_path: Path) -> None:
    adapters = Adapters()
    assert adapters.identity(Lora("a", str(adapter(tmp_path / "a", b"1")), 1))
    assert adapters.identity(Lora("b", str(adapter(tmp_path / "b", b"2")), 1)) is None


def test_an_adapter_whose_files_cannot_be_read_is_this_engines_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = Adapters(), Adapters()
    lora = Lora("x", str(tmp_path / "nothing"), 1)
    assert one.identity(lora) == one.identity(lora) is not None
    assert one.identity(lora) != other.identity(lora)
    assert one.identity(lora) != one.identity(Lora("x", str(tmp_path / "nothing"), 2))
    assert "shared with no other engine" in caplog.text


def test_requests_look_at_the_files_and_do_not_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters, folder = Adapters(), adapter(tmp_path / "a", b"1")
    lora = Lora("sql", str(folder))
    before = adapters.identity(lora)
    monkeypatch.setattr(os, "pread", None)
    assert adapters.identity(lora) == before


def test_a_relative_path_is_found_where_vllm_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter(tmp_path / "a", b"1")
    monkeypatch.chdir(tmp_path)
    assert adapter_folder("a") == tmp_path / "a"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert adapter_folder("~/a") == tmp_path / "a"
    with pytest.raises(OSError, match="Hugging Face cache"):
        adapter_folder("nobody/nothing")


class Core:
    """vLLM's EngineCore, as far as it loads adapters."""

    def __init__(self, adapters: Adapters | None, between: Any = lambda: None) -> None:
        self.adapters, self.between = adapters, between

    def add_lora(self, lora_request: Any) -> bool:
        """Load an adapter, in the middle of which something may happen."""
        self.between()
        return True


def watched() -> type[Core]:
    class Watched(Core):
        pass

    for _ in range(2):
        watch_loads(Watched, lambda core: core.adapters)
    return Watched


def test_files_replaced_between_the_load_and_the_first_request_are_noticed(tmp_path: Path) -> None:
    adapters, folder = Adapters(), adapter(tmp_path / "a", b"1")
    assert watched()(adapters).add_lora(Lora("sql", str(folder), 1)) is True
    retrain(folder, b"2")
    assert adapters.identity(Lora("sql", str(folder), 1)) is None
    assert adapters.identity(Lora("sql", str(folder), 2)) is not None


def test_files_replaced_during_the_load_are_noticed(tmp_path: Path) -> None:
    adapters, folder = Adapters(), adapter(tmp_path / "a", b"1")
    watched()(adapters, lambda: retrain(folder, b"2")).add_lora(Lora("sql", str(folder), 1))
    assert adapters.identity(Lora("sql", str(folder), 1)) is None


def test_an_engine_with_another_connector_loads_as_ever() -> None:
    assert watched()(None).add_lora(Lora("sql", "/nowhere", 1)) is True
