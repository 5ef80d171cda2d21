"""Inside real vLLM: what was computed by other weights, other adapters or other kernels is never found."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.v1.engine.core import EngineCore  # noqa: E402
from vllm_ascend.distributed.yuanrong.config import ConnectorConfig  # noqa: E402
from vllm_ascend.distributed.yuanrong.connector import adapters_of, namespace_of  # noqa: E402

from tests.integration.connector.engine import Engine, Setup  # noqa: E402
from tests.unit.connector.model_files import adapter, safetensors  # noqa: E402
from workshop.vllm_objects import make_request  # noqa: E402

PROMPT = list(range(40))
NZ = {"torchair_graph_config": {"enabled": True, "enable_kv_nz": True}}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # vLLM's configuration is made once per process (engine.py), so all engines of these tests have one folder.
    from tests.integration.connector import engine

    known = engine._model_configs.get("model")
    found = Path(known.model) if known is not None else tmp_path_factory.mktemp("model")
    weights = safetensors(found / "model.safetensors", {"layer": b"first"})
    yield found
    weights.unlink()


def engine_of(folder: Path, store: dict[str, bytes], **setup: Any) -> Engine:
    engine = Engine(Setup(**{"blocks": 40, "budget": 64, **setup}), store, folder, random.Random(1))
    engine.speed = 1.0
    return engine


def side(engine: Engine) -> Any:
    return engine.scheduler.connector._scheduler


def asked(engine: Engine, rid: str = "asked", lora: LoRARequest | None = None) -> int:
    """Return how many of the prompt's tokens the connector would load."""
    request = make_request(rid, PROMPT, [], 1, engine.setup.block_size)
    request.lora_request = lora
    return int(side(engine).match(request, 0))


def compute(engine: Engine, rid: str = "computed", lora: LoRARequest | None = None) -> None:
    """Have the prompt computed and saved."""
    request = make_request(rid, PROMPT, [], 1, engine.setup.block_size)
    request.lora_request = lora
    engine.requests[rid] = (PROMPT, [], 1)
    engine.answers[rid] = []
    engine.scheduler.add_request(request)
    while engine.scheduler.has_requests():
        engine.step()
    engine.pump(1)
    engine.step()


@pytest.fixture(params=[False, True], ids=["vllm", "ascend"])
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"ascend": request.param, "chunked": not request.param}


def test_an_engine_started_with_other_weights_finds_nothing_and_with_the_same_everything(
    folder: Path, kind: dict[str, Any]
) -> None:
    store: dict[str, bytes] = {}
    prefill = engine_of(folder, store, role="kv_producer", **kind)
    compute(prefill)
    assert asked(engine_of(folder, store, role="kv_consumer", **kind)) == 36
    safetensors(folder / "model.safetensors", {"layer": b"other"})
    assert asked(engine_of(folder, store, role="kv_consumer", **kind)) == 0
    assert asked(prefill, "again") == 36, "it has loaded the first weights, and still computes with them"
    safetensors(folder / "model.safetensors", {"layer": b"first"})
    assert asked(engine_of(folder, store, role="kv_consumer", **kind)) == 36


def test_a_release_is_found_by_the_next_one_whose_place_and_image_are_others(folder: Path, tmp_path: Path) -> None:
    engine = engine_of(folder, {})
    settings = ConnectorConfig.from_extra({"worker_address": "h:1"}, "kv_producer", {})
    moved = copy.deepcopy(engine.config)
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    moved.model_config.model = str(copied)
    moved.instance_id = moved.kv_transfer_config.engine_id = "another"
    other = ConnectorConfig.from_extra({"worker_address": "[::1]:9"}, "kv_consumer", {})
    assert namespace_of(moved, other, "cpu") == namespace_of(engine.config, settings, "cpu")


def test_the_inner_format_of_an_npus_cache_is_part_of_the_namespace(folder: Path) -> None:
    engine = engine_of(folder, {})
    settings = ConnectorConfig.from_extra({"worker_address": "h:1"}, "kv_both", {})

    def of(additional: dict[str, Any]) -> Any:
        config = copy.copy(engine.config)
        config.additional_config = additional
        return namespace_of(config, settings, "npu")

    assert of({}).digest() == of({"torchair_graph_config": {"enabled": True}}).digest() != of(NZ).digest()
    assert (of({}).layout, of(NZ).layout) == ("npu:kv:nd", "npu:kv:nd-nz")


def test_the_kernels_are_named_by_what_is_installed(folder: Path) -> None:
    from importlib.metadata import version

    engine = engine_of(folder, {})
    settings = ConnectorConfig.from_extra({"worker_address": "h:1"}, "kv_both", {})
    cpu, npu = (namespace_of(engine.config, settings, device).kernels for device in ("cpu", "npu"))
    assert cpu == f"vllm {version('vllm')}"
    assert npu.startswith(f"{cpu}, vllm-ascend ")
    assert not npu.endswith("?")


def test_an_adapter_retrained_in_place_and_loaded_again_finds_nothing_of_the_old_one(
    folder: Path, tmp_path: Path, kind: dict[str, Any]
) -> None:
    store: dict[str, bytes] = {}
    where = str(adapter(tmp_path / "sql", b"old"))
    prefill, decode = (engine_of(folder, store, role=role, **kind) for role in ("kv_producer", "kv_consumer"))
    compute(prefill, lora=LoRARequest("sql", 1, where))
    assert asked(decode, "base model") == 0
    assert asked(decode, "same files", LoRARequest("sql", 3, where)) == 36
    adapter(tmp_path / "sql", b"new")
    assert asked(decode, "retrained, not loaded again", LoRARequest("sql", 3, where)) == 0
    assert asked(decode, "retrained and loaded again", LoRARequest("sql", 4, where)) == 0
    compute(prefill, "not loaded again", LoRARequest("sql", 1, where))
    assert asked(decode, "what the old one computed", LoRARequest("sql", 4, where)) == 0
    compute(prefill, "loaded again", LoRARequest("sql", 2, where))
    assert asked(decode, "what the new one computed", LoRARequest("sql", 4, where)) == 36


def test_an_adapter_is_read_when_the_engine_loads_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files replaced after the load, and before the first request, are not those that were loaded."""
    from vllm_ascend.distributed.yuanrong.adapters import watch_loads

    store: dict[str, bytes] = {}
    engine, other = engine_of(folder, store), engine_of(folder, store)
    monkeypatch.setattr(EngineCore, "add_lora", EngineCore.add_lora)
    watch_loads(EngineCore, adapters_of)

    class Executor:
        def add_lora(self, lora: LoRARequest) -> bool:
            return True

    core = EngineCore.__new__(EngineCore)
    core.scheduler, core.model_executor = engine.scheduler, Executor()
    where = str(adapter(tmp_path / "sql", b"old"))
    assert core.add_lora(LoRARequest("sql", 1, where))
    adapter(tmp_path / "sql", b"new")
    compute(engine, lora=LoRARequest("sql", 1, where))
    assert asked(other, lora=LoRARequest("sql", 1, where)) == 0
    assert not store


def test_an_engine_with_lora_watches_its_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1 import KVConnectorRole
    from vllm_ascend.distributed.yuanrong.connector import YuanRongConnector

    monkeypatch.setattr(EngineCore, "add_lora", EngineCore.add_lora)
    config = engine_of(folder, {}).config
    YuanRongConnector(config, KVConnectorRole.SCHEDULER)
    assert not hasattr(EngineCore.add_lora, "watched_by_yuanrong")
    config.lora_config = type("Lora", (), {"lora_dtype": "torch.bfloat16"})()
    YuanRongConnector(config, KVConnectorRole.SCHEDULER)
    assert hasattr(EngineCore.add_lora, "watched_by_yuanrong")


def test_after_a_reset_nothing_is_loaded_that_was_computed_before(folder: Path, kind: dict[str, Any]) -> None:
    store: dict[str, bytes] = {}
    prefill, decode = (engine_of(folder, store, **kind) for _ in range(2))
    compute(prefill)
    assert asked(decode, "before") == asked(prefill, "before") == 36
    assert prefill.scheduler.reset_prefix_cache()
    assert asked(prefill, "its own, from before") == 0
    compute(prefill, "anew")
    assert asked(prefill, "its own, from after") == 36
    assert asked(decode, "from before, by equal weights") == 36
    del store
    assert decode.scheduler.reset_prefix_cache()
    assert asked(decode, "after its own reset") == 0


def test_another_engine_finds_nothing_that_was_computed_after_a_reset(folder: Path) -> None:
    store: dict[str, bytes] = {}
    prefill, decode = (engine_of(folder, store) for _ in range(2))
    assert prefill.scheduler.reset_prefix_cache()
    compute(prefill)
    assert store
    assert asked(decode) == 0


def test_a_reset_of_device_memory_alone_is_a_setting(folder: Path) -> None:
    engine = engine_of(folder, {}, extra={"reset_forgets": False})
    compute(engine)
    assert engine.scheduler.reset_prefix_cache()
    assert asked(engine) == 36


@pytest.mark.parametrize("arrived", [False, True], ids=["on its way", "arrived"])
def test_what_a_reset_meets_in_the_middle_of_a_load_is_computed(
    folder: Path, kind: dict[str, Any], arrived: bool
) -> None:
    store: dict[str, bytes] = {}
    compute(engine_of(folder, store, **kind))
    engine = engine_of(folder, store, **kind)
    engine.speed = 0.0
    engine.add("r", PROMPT, 4)
    engine.step()
    assert [r.status.name for r in engine.scheduler.requests.values()] == ["WAITING_FOR_REMOTE_KVS"]
    if arrived:
        engine.pump(1)
        for worker in engine.workers:
            assert any(job.ended for job in worker._loads)
    written = dict(store)
    engine.scheduler.reset_prefix_cache()
    engine.speed = 1.0
    engine.finish()
    assert engine.answers["r"]
    assert engine.scheduler.connector._metrics is not None
    assert store == written, "what was begun before the reset is not saved after it"
