# ruff: noqa: D102 - a stand-in is named and shaped like what it stands in for
"""Transports against real DataSystem workers: two of them, so that blocks travel from one to the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from workshop.datasystem import Daemon, etcd, free_ports, worker

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")
pytest.importorskip("yr.datasystem.kv_client")

from vllm_ascend.distributed.yuanrong.announcement import Announcer, exchange_by_process  # noqa: E402
from vllm_ascend.distributed.yuanrong.config import ConnectorConfig  # noqa: E402
from vllm_ascend.distributed.yuanrong.keys import Namespace  # noqa: E402
from vllm_ascend.distributed.yuanrong.layout import KVLayout  # noqa: E402
from vllm_ascend.distributed.yuanrong.transport import base, connect, npu, reachable  # noqa: E402
from vllm_ascend.distributed.yuanrong.transport.base import Guard  # noqa: E402
from vllm_ascend.distributed.yuanrong.transport.breaker import BreakingTransport, probe  # noqa: E402
from yr.datasystem.object_client import WriteMode  # noqa: E402

from tests.unit.connector.fakes import Device, FakeTensor, read_block, write_block  # noqa: E402


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    home = tmp_path_factory.mktemp("datasystem")
    with ExitStack() as stack:
        store = stack.enter_context(etcd(home))
        folders = [home / "w1", home / "w2"]
        for folder in folders:
            folder.mkdir()
        first, second = (stack.enter_context(worker(folder, store.address, 256)) for folder in folders)
        yield first, second


SPACE = Namespace(
    model="/models/qwen", revision="", config_digest="c0ffee", dtype="torch.bfloat16", kv_dtype="auto:",
    quantization="", block_size=4, num_layers=28, num_kv_heads=4, head_size=128, tp_size=2, layout="cpu:kv",
)  # fmt: skip
CHANGES: dict[str, Any] = {"tp_size": 4, "dtype": "torch.float16", "quantization": "ascend"}


def wait_until(ready: Any, seconds: float = 60) -> None:
    unready = retry_if_result(lambda answer: not answer)
    Retrying(retry=unready, stop=stop_after_delay(seconds), wait=wait_fixed(0.05))(ready)


def settings(worker: Daemon, **extra: Any) -> ConnectorConfig:
    return ConnectorConfig.from_extra({"worker_address": worker.address, **extra}, "kv_both", {})


def make_layout(device: Device | None = None) -> KVLayout:
    layout = KVLayout.from_caches({f"l.{i}": FakeTensor((2, 40, 4096), device=device) for i in range(3)})
    for block in range(40):
        write_block(layout, block, bytes([block + 1]) * layout.block_bytes)
    return layout


def keys(name: str, count: int) -> list[str]:
    import hashlib

    return [f"yr1_test_0of1_{hashlib.sha256(f'{name}{i}'.encode()).hexdigest()}" for i in range(count)]


@pytest.mark.parametrize("checksum", ["sum64", "crc32", "none"])
def test_blocks_travel_from_one_worker_to_the_other(workers: tuple[Daemon, Daemon], checksum: str) -> None:
    here, there = make_layout(), make_layout()
    writer = connect(settings(workers[0], checksum=checksum, batch_bytes=100_000), "host", here, 2000)
    reader = connect(settings(workers[1]), "host", there, 2000)
    names = keys(checksum, 20)
    assert reader.exist(names).found == [False] * 20
    assert reader.get(names, list(range(20)), Guard()).causes == [base.MISSING] * 20
    assert writer.put(names, list(range(20)), Guard()).cause is None
    assert reader.exist(names).found == [True] * 20, "published when put returns"
    assert reader.get(names, list(range(20, 40)), Guard()).cause is None
    assert [read_block(there, 20 + i) for i in range(20)] == [read_block(here, i) for i in range(20)]
    assert writer.put(names, list(range(20)), Guard()).cause is None, "writing again is no error"


def test_objects_that_others_damaged_are_found_out_and_healed(workers: tuple[Daemon, Daemon]) -> None:
    from yr.datasystem.kv_client import KVClient
    from yr.datasystem.object_client import WriteMode

    layout = make_layout()
    transport = connect(settings(workers[0]), "host", layout, 2000)
    host, port = workers[0].address.rsplit(":", 1)
    vandal = KVClient(host=host, port=int(port))
    vandal.init()
    names = keys("damage", 3)
    assert transport.put(names, [0, 1, 2], Guard()).cause is None
    whole = vandal.get(names)
    vandal.delete(names)
    for name, value in zip(names, (whole[0][:-8], b"nonsense", whole[1]), strict=True):
        vandal.set(name, bytes(value), WriteMode.NONE_L2_CACHE_EVICT)
    assert transport.get(names, [10, 11, 12], Guard()).causes == [base.CORRUPT] * 3
    assert transport.put(names, [0, 1, 2], Guard()).cause is None
    assert transport.get(names, [10, 11, 12], Guard()).cause is None


def test_memory_pressure_evicts_instead_of_failing(workers: tuple[Daemon, Daemon]) -> None:
    layout = make_layout()
    transport = connect(settings(workers[0], batch_bytes=1 << 20), "host", layout, 5000)
    rounds = 2 * (256 << 20) // (40 * layout.block_bytes)
    for number in range(rounds):
        assert transport.put(keys(f"pressure{number}", 40), list(range(40)), Guard()).cause is None
    found = [transport.exist(keys(f"pressure{n}", 40)).found for n in range(rounds)]
    assert all(found[-1]), "the newest are there"
    assert not all(found[0]), "twice the memory was written, so the oldest were evicted"


def test_discarded_objects_are_gone_on_every_worker(workers: tuple[Daemon, Daemon]) -> None:
    layout = make_layout()
    writer = connect(settings(workers[0]), "host", layout, 2000)
    reader = connect(settings(workers[1]), "host", layout, 2000)
    names = keys("discard", 3)
    assert writer.put(names[:2], [0, 1], Guard()).cause is None
    assert reader.get(names[:1], [10], Guard()).cause is None, "the other worker has a copy"
    assert writer.discard(names) is None, "also of what was never there"
    assert reader.exist(names).found == [False] * 3
    assert reader.get(names[:1], [10], Guard()).causes == [base.MISSING]


class Counting:
    """A real client, whose calls for room are counted."""

    def __init__(self, client: Any) -> None:
        self.client, self.calls = client, 0

    def mcreate(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.client.mcreate(*arguments)

    def mset_buffer(self, buffers: list[Any]) -> None:
        self.client.mset_buffer(buffers)


def test_a_pool_without_room_costs_a_save_one_call_and_the_next_ones_none(tmp_path: Path) -> None:
    """What another client holds in its hands, and has not published, cannot be evicted."""
    with ExitStack() as stack:
        store = stack.enter_context(etcd(tmp_path))
        small = stack.enter_context(worker(tmp_path, store.address, 64))
        layout = KVLayout.from_caches({"l": FakeTensor((2, 8, 1 << 18))})
        assert layout.block_bytes == 1 << 20, "smaller objects are not made in the pool"
        transport = connect(settings(small, probe_interval_ms=60_000), "host", layout, 2000)
        counting = transport._client = Counting(transport._client)
        held: list[Any] = []
        with pytest.raises(RuntimeError, match="Out of memory"):
            held.extend(counting.mcreate([f"held{n}"], [1 << 20], WriteMode.NONE_L2_CACHE_EVICT, 0) for n in range(64))
        counting.calls = 0
        for job in range(3):
            assert transport.put(keys(f"full{job}", 8), list(range(8)), Guard()).causes == [base.FULL] * 8
        assert counting.calls == 1
        held.clear()
        transport._room._closed_until = 0
        assert transport.put(keys("again", 8), list(range(8)), Guard()).cause is None, "there is room again"
        transport.close()


def test_a_paused_worker_costs_one_deadline_and_is_found_again(workers: tuple[Daemon, Daemon]) -> None:
    config = settings(workers[1], connect_timeout_ms=1000, lookup_timeout_ms=500, probe_interval_ms=200)
    breaker = BreakingTransport(
        lambda: connect(config, "host", None, config.lookup_timeout_ms), lambda: probe(config, reachable), 0.2
    )
    breaker.start()
    wait_until(lambda: breaker.exist(keys("pause", 1)).cause is None)
    with workers[1].paused():
        assert breaker.exist(keys("pause", 1)).cause in base.OUTAGE
        assert breaker._open
        assert breaker.exist(keys("pause", 1)).cause == base.UNAVAILABLE
    wait_until(lambda: breaker.exist(keys("pause", 1)).cause is None)
    breaker.close()


def test_a_killed_worker_is_found_again_after_its_restart(workers: tuple[Daemon, Daemon]) -> None:
    config = settings(workers[1], connect_timeout_ms=1000, probe_interval_ms=200)
    layout = make_layout()
    breaker = BreakingTransport(lambda: connect(config, "host", layout, 1000), lambda: probe(config, reachable), 0.2)
    breaker.start()
    wait_until(lambda: not breaker._open)
    workers[1].kill()
    assert breaker.get(keys("kill", 1), [0], Guard()).cause is not None
    assert breaker._open
    workers[1].start()
    wait_until(lambda: breaker.put(keys("kill", 1), [0], Guard()).cause is None)
    breaker.close()


def test_a_worker_that_was_never_there_degrades_at_once(workers: tuple[Daemon, Daemon]) -> None:
    config = ConnectorConfig.from_extra({"worker_address": f"127.0.0.1:{free_ports(1)[0]}"}, "kv_both", {})
    breaker = BreakingTransport(lambda: connect(config, "host", None, 100), lambda: probe(config, reachable), 60)
    breaker.start()
    assert breaker._open
    breaker.close()


def cores_of_threads() -> dict[str, str]:
    """Return of each thread of this process the cores that the kernel lets it run on."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            lines = (task / "status").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended, as the probe of an earlier test does
            continue
        found[task.name] = next(line.split()[1] for line in lines if line.startswith("Cpus_allowed_list:"))
    return found


@pytest.mark.parametrize("kind", ["host", "npu"])
def test_the_client_of_a_bound_engine_runs_on_all_cores(workers: tuple[Daemon, Daemon], kind: str) -> None:
    before = cores_of_threads()
    free = before[str(os.getpid())]
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        transport = connect(settings(workers[0]), kind, None, 2000)
        assert transport.exist(keys("bound", 1)).found == [False], "the first call makes no bound thread either"
        after = cores_of_threads()
    finally:
        os.sched_setaffinity(0, allowed)
    made = {task: cores for task, cores in after.items() if task not in before}
    assert made
    assert set(made.values()) == {free}
    assert after[str(os.getpid())] == str(min(allowed)), "the engine itself stays bound"
    transport.close()


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_engines_of_other_namespaces_find_each_other_across_workers(
    workers: tuple[Daemon, Daemon], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tag = f"announce-{name}"
    here, there = replace(SPACE, tag=tag), replace(SPACE, tag=tag, **{name: CHANGES[name]})
    prefill = Announcer(here, "kv_producer", exchange_by_process(settings(workers[0]), reachable))
    decode = Announcer(there, "kv_consumer", exchange_by_process(settings(workers[1]), reachable))
    prefill.look()
    assert not caplog.records
    decode.look()
    decode.look()
    prefill.look()
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(messages) == 2, "one of each engine"
    assert all(f"They differ in {name} (" in message for message in messages)


# -- the NPU transport, with the installed client library -------------------------------------------------------------


def hetero_types() -> tuple[Any, Any, Any]:
    from yr.datasystem.hetero_client import Blob, DeviceBlobList
    from yr.datasystem.kv_client import SetParam
    from yr.datasystem.object_client import WriteMode

    param = SetParam()
    param.write_mode = WriteMode.NONE_L2_CACHE_EVICT
    return Blob, DeviceBlobList, param


def test_the_real_hetero_client_takes_the_transports_calls(workers: tuple[Daemon, Daemon]) -> None:
    """Without an NPU the client itself refuses to move data, after it has accepted every argument.

    tests/emulated_npu/test_cann.py lets it move data.
    """
    layout = make_layout(Device("npu", 0))
    scheduler_side = connect(settings(workers[0]), "npu", None, 1000)
    assert scheduler_side.exist(keys("npu", 3)).found == [False] * 3
    transport = npu.NpuTransport(scheduler_side._client, settings(workers[0]), layout, hetero_types(), None)
    moved = transport.put(keys("npu", 2), [0, 1], Guard())
    assert moved.cause is not None
    assert moved.cause != base.REVOKED
    assert transport.get(keys("npu", 2), [0, 1], Guard()).cause in (base.MISSING, base.ERROR)
