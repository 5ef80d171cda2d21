"""Engines that cannot share blocks say so: once each, with the fields that differ, and never anything else."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
from yuanrong import announcement
from yuanrong.announcement import Announcer, announcement_key, describe, differences, exchange_by_process
from yuanrong.config import ConnectorConfig
from yuanrong.keys import LEGAL_KEY, Namespace

from tests.unit.connector.test_keys import SPACE

CHANGES: dict[str, Any] = {
    "model": "/models/other", "revision": "main", "config_digest": "beef", "dtype": "torch.float16",
    "kv_dtype": "int8:", "quantization": "ascend", "block_size": 8, "num_layers": 27, "num_kv_heads": 8,
    "head_size": 64, "tp_size": 4, "layout": "npu:kv:nd-nz", "weights": "whole:5678", "kernels": "vllm 0.11.0",
    "epoch": "1",
}  # fmt: skip


@dataclass
class Board:
    """What engines left for each other."""

    texts: dict[str, str] = field(default_factory=dict)
    looks: int = 0

    def exchange(self, own: str, text: str, names: list[str]) -> Mapping[str, str]:
        """Swap texts."""
        found = {name: self.texts[name] for name in names if name in self.texts}
        self.texts[own] = text
        self.looks += 1
        return found


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_the_changes_name_every_field_but_the_tag() -> None:
    assert set(CHANGES) == {f.name for f in fields(Namespace)} - {"tag"}


@pytest.mark.parametrize("name", CHANGES)
def test_each_side_warns_once_and_names_the_field(name: str, caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    prefill = Announcer(SPACE, "kv_producer", board.exchange)
    decode = Announcer(replace(SPACE, **{name: CHANGES[name]}), "kv_consumer", board.exchange)
    prefill.look()
    assert not warnings(caplog)
    decode.look()
    decode.look()
    assert len(warnings(caplog)) == 1
    assert "A kv_producer engine" in warnings(caplog)[0]
    assert f"{name} ({CHANGES[name]!r} here, {getattr(SPACE, name)!r} there)" in warnings(caplog)[0]
    prefill.look()
    prefill.look()
    assert len(warnings(caplog)) == 2
    assert "A kv_consumer engine" in warnings(caplog)[1]


def test_all_fields_are_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    Announcer(SPACE, "kv_both", board.exchange).look()
    Announcer(replace(SPACE, **CHANGES), "kv_both", board.exchange).look()
    assert len(warnings(caplog)) == 1
    assert all(f"{name} (" in warnings(caplog)[0] for name in CHANGES)


def test_engines_that_share_and_engines_of_other_tags_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    for role in ("kv_producer", "kv_consumer", "kv_both", "kv_producer"):
        Announcer(SPACE, role, board.exchange).look()
    Announcer(replace(SPACE, tag="blue", dtype="torch.float16"), "kv_producer", board.exchange).look()
    assert not warnings(caplog)
    assert len(board.texts) == 4


def test_an_announcement_of_another_format_is_a_difference_and_nonsense_is_none() -> None:
    mine = describe(SPACE)
    assert differences(mine, mine) == []
    assert differences(mine, mine.replace('"format": 2', '"format": 3')) == ["format"]
    assert differences(mine, mine.replace('"tp_size"', '"parallel"')) == ["parallel", "tp_size"]
    assert differences(mine, "{") == []
    assert differences(mine, "[]") == []


def test_names_are_legal_and_separate_tags_and_roles() -> None:
    names = {announcement_key(tag, role) for tag in ("", "a/b") for role in ("kv_producer", "kv_consumer")}
    assert len(names) == 4
    assert all(LEGAL_KEY.fullmatch(name) for name in names)


def test_an_engine_that_was_reset_announces_it_and_the_others_warn(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    prefill = Announcer(SPACE, "kv_producer", board.exchange)
    decode = Announcer(SPACE, "kv_consumer", board.exchange)
    prefill.look()
    decode.look()
    prefill.rename(replace(SPACE, epoch="e1"))
    prefill.look()
    assert not warnings(caplog)
    decode.look()
    assert "epoch ('' here, 'e1' there)" in warnings(caplog)[0]


def test_failures_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    def broken(own: str, text: str, names: list[str]) -> Mapping[str, str]:
        raise RuntimeError("no")

    Announcer(SPACE, "kv_both", broken).look()
    assert not warnings(caplog)


def test_it_looks_again_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcement, "LONGEST_PAUSE", 0.002)
    seen = threading.Semaphore(0)
    board = Board()

    def exchange(own: str, text: str, names: list[str]) -> Mapping[str, str]:
        seen.release()
        return board.exchange(own, text, names)

    announcer = Announcer(SPACE, "kv_both", exchange, pause=0.001)
    announcer.start()
    for _ in range(3):
        assert seen.acquire(timeout=20)
    announcer.close()
    thread = next((t for t in threading.enumerate() if t.name == "yuanrong-announcer"), None)
    if thread is not None:
        thread.join(20)
        assert not thread.is_alive()


def test_a_closed_port_costs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    config = ConnectorConfig.from_extra({"worker_address": "h:1"}, "kv_both", {})
    with pytest.raises(ConnectionError):
        exchange_by_process(config, lambda _: False)("own", "text", [])


def test_the_process_gets_its_task_by_standard_input_and_answers_with_its_last_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = "import json, sys; task = json.load(sys.stdin); print('noise'); print(json.dumps({'n': task['text']}))"
    monkeypatch.setattr(announcement, "_EXCHANGE", script)
    config = ConnectorConfig.from_extra({"worker_address": "h:1"}, "kv_both", {"YUANRONG_DS_TOKEN": "secret"})
    assert exchange_by_process(config, lambda _: True)("own", "text", []) == {"n": "text"}
