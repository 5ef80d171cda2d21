# ruff: noqa: D101, D102 - stand-ins are named and shaped like what they stand in for
"""The connector class inside real vLLM: how it is found, what it refuses, what separates namespaces."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

import vllm_ascend.distributed.yuanrong.connector as connector_module  # noqa: E402
import vllm_ascend.distributed.yuanrong.metadata as metadata  # noqa: E402

from tests.integration.connector.engine import Engine, Setup  # noqa: E402
from tests.unit.connector.fakes import MemoryTransport  # noqa: E402

#: The engine in ``engine.py`` puts a dictionary in place of this.
REAL_CONNECTED = connector_module.YuanRongConnector.__dict__["_connected"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture
def engine(folder: Path) -> Engine:
    return Engine(Setup(), {}, folder, random.Random(1))


def test_vllm_finds_the_class_by_module_path_and_by_scheduler_name() -> None:
    import vllm_ascend.distributed.yuanrong as package
    from vllm.distributed.kv_transfer.kv_connector.v1 import KVConnectorBase_V1
    from vllm.utils import resolve_obj_by_qualname
    from vllm.v1.core.sched.scheduler import Scheduler

    assert issubclass(package.YuanRongConnector, KVConnectorBase_V1)
    for name in ("RecoveringScheduler", "RecoveringAscendScheduler"):
        found = resolve_obj_by_qualname(f"vllm_ascend.distributed.yuanrong.recovery.{name}")
        assert issubclass(found, Scheduler)
        assert found.recovers_failed_kv_loads


def check(engine: Engine, change: Callable[[Any], None], **extra: Any) -> None:
    from vllm_ascend.distributed.yuanrong.config import ConnectorConfig
    from vllm_ascend.distributed.yuanrong.connector import check_engine

    change(engine.config)
    check_engine(
        engine.config, ConnectorConfig.from_extra({"worker_address": "h:1", **extra}, extra.pop("role", "kv_both"), {})
    )


def plain_scheduler(config: Any) -> None:
    config.scheduler_config.scheduler_cls = "vllm.v1.core.sched.scheduler.Scheduler"


def test_loading_without_recovery_is_refused_and_saving_only_is_not(engine: Engine) -> None:
    check(engine, lambda c: None)
    with pytest.raises(ValueError, match="RecoveringScheduler"):
        check(engine, plain_scheduler)
    check(engine, plain_scheduler, load=False)


def test_recovery_may_be_named_by_a_string(engine: Engine) -> None:
    def named(config: Any) -> None:
        config.scheduler_config.scheduler_cls = "vllm_ascend.distributed.yuanrong.recovery.RecoveringScheduler"

    check(engine, named)


class Eagle:
    method = "eagle"

    def use_eagle(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c.parallel_config, "pipeline_parallel_size", 2), "pipeline"),
        (lambda c: setattr(c.scheduler_config, "async_scheduling", True), "async-scheduling"),
        (lambda c: setattr(c, "speculative_config", Eagle()), "EAGLE"),
        (lambda c: setattr(c.parallel_config, "decode_context_parallel_size", 2), "context"),
        (lambda c: setattr(c.cache_config, "calculate_kv_scales", True), "calculate-kv-scales"),
    ],
)
def test_engines_that_cannot_work_are_refused_at_start(
    engine: Engine, change: Callable[[Any], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(engine, change)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: setattr(c.model_config, "model", "/other"), lambda c: setattr(c.model_config, "revision", "v2"),
        lambda c: setattr(c.model_config, "dtype", "torch.float16"), lambda c: setattr(c.cache_config, "block_size", 8),
        lambda c: setattr(c.model_config, "quantization", "ascend"),
        lambda c: setattr(c.cache_config, "cache_dtype", "fp8"),
        lambda c: setattr(c, "additional_config", {"kv_cache_dtype": "int8"}),
        lambda c: setattr(c.parallel_config, "tensor_parallel_size", 2),
        lambda c: setattr(c.model_config.hf_config, "rope_theta", 5.0),
        lambda c: setattr(c, "speculative_config", Eagle()),
        lambda c: setattr(c.model_config, "mm_processor_kwargs", {"max_pixels": 1}),
    ],
)  # fmt: skip
def test_whatever_changes_the_bytes_changes_the_namespace(engine: Engine, change: Callable[[Any], None]) -> None:
    import copy

    from vllm_ascend.distributed.yuanrong.config import ConnectorConfig
    from vllm_ascend.distributed.yuanrong.connector import namespace_of

    settings = ConnectorConfig.from_extra({"worker_address": "h:1"}, "kv_both", {})
    other = copy.deepcopy(engine.config)
    change(other)
    assert namespace_of(other, settings, "cpu").digest() != namespace_of(engine.config, settings, "cpu").digest()
    assert (
        namespace_of(engine.config, settings, "npu").digest() != namespace_of(engine.config, settings, "cpu").digest()
    )


def test_a_worker_is_built_from_vllms_groups(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank by hand: register, load, save, report, through the class that vLLM calls."""
    import torch
    from vllm.distributed.kv_transfer.kv_connector.v1 import KVConnectorRole

    class Group:
        rank_in_group, world_size, cpu_group = 0, 1, None

    monkeypatch.setattr("vllm.distributed.parallel_state.get_tp_group", lambda: Group())
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *a, **k: None)
    store: dict[str, bytes] = {}
    layouts: list[Any] = []

    def connected(self: Any, kind: str, layout: Any, timeout: int) -> MemoryTransport:
        layouts.append(layout)
        return MemoryTransport(store, layout)

    monkeypatch.setattr(connector_module.YuanRongConnector, "_connected", connected)
    worker = connector_module.YuanRongConnector(engine.config, KVConnectorRole.WORKER)
    caches = {f"layers.{i}.attn": torch.arange(2 * 5 * 8, dtype=torch.bfloat16).reshape(2, 5, 8) + i for i in range(2)}
    worker.register_kv_caches(caches)
    assert layouts[0].block_bytes == 2 * 2 * 8 * 2
    digest = b"d" * 32
    plan = metadata.StepPlan(b"n" * 32, saves=[metadata.SaveSpec("r", [digest], [3])], sync_saves=["r"])
    worker.bind_connector_metadata(connector_module.YuanRongMetadata(plan))
    worker.start_load_kv(None)
    worker.wait_for_layer_load("layers.0.attn")
    worker.save_kv_layer("layers.0.attn", caches["layers.0.attn"], None)
    worker.wait_for_save()
    assert worker.get_finished(set()) == (None, None)
    plan = metadata.StepPlan(b"n" * 32, loads=[metadata.LoadSpec("q", [digest], [1])])
    worker.bind_connector_metadata(connector_module.YuanRongMetadata(plan))
    worker.start_load_kv(None)
    done = None
    while done is None:
        done = worker.get_finished(set())[1]
    assert done == {"q"}
    for cache in caches.values():
        assert torch.equal(cache[:, 1], cache[:, 3])
    assert worker._worker._agree([(True, False), (False, True)]) == [(True, False), (False, True)]
    worker._worker.close()


def test_an_engine_starts_and_serves_without_any_datasystem(folder: Path) -> None:
    engine = Engine(Setup(), {}, folder, random.Random(1))
    connector = engine.scheduler.connector
    connector._scheduler._transport = REAL_CONNECTED(connector, "host", None, 100)
    assert connector._scheduler._transport._open
    engine.add("r", list(range(20)), 4)
    engine.finish()


def test_what_a_connector_runs_beside_itself_ends_with_it(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1 import KVConnectorRole

    monkeypatch.setattr(connector_module.YuanRongConnector, "_connected", REAL_CONNECTED)
    settings = engine.config.kv_transfer_config.kv_connector_extra_config
    settings |= {"announce": True, "worker_resource_log": str(folder / "resource.log")}
    before = set(threading.enumerate())
    connector = connector_module.YuanRongConnector(engine.config, KVConnectorRole.SCHEDULER)
    started = {thread.name: thread for thread in set(threading.enumerate()) - before}
    # Nothing listens at the address, so there is a probe as well.
    assert started.keys() == {"yuanrong-announcer", "yuanrong-tiers", "yuanrong-probe"}
    del connector
    gc.collect()
    for thread in started.values():
        thread.join(60)
        assert not thread.is_alive(), thread.name
