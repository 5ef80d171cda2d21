"""Faults at the moment between lookup and load: the answer stays plain vLLM's, in bounded time, and the engine goes on.

The faults are real: real objects deleted or replaced through a second client, real processes killed or stopped.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from workshop.datasystem import Daemon

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")
pytest.importorskip("yr.datasystem.kv_client")

from vllm_ascend.distributed.yuanrong.transport.host import CHECKSUM_KINDS, HEADER, MAGIC, VERSION  # noqa: E402

from tests.integration.engines.rig import BLOCK, DEADLINES, Engine, Reference, eventually, prompt  # noqa: E402

TOKENS = 10 * BLOCK + 3
#: The longest that the connector may hold an answer up, and room for computing it on a busy machine.
DEADLINE_S = sum(DEADLINES.values()) / 1000 + 120


def client(worker: Daemon) -> Any:
    from yr.datasystem.kv_client import KVClient

    host, port = worker.address.rsplit(":", 1)
    made = KVClient(host=host, port=int(port), connect_timeout_ms=10000, req_timeout_ms=5000)
    made.init()
    return made


def put(worker: Daemon, objects: dict[str, bytes]) -> None:
    """Replace objects, so that this worker has them and no other."""
    from yr.datasystem.object_client import WriteMode

    vandal = client(worker)
    vandal.delete(list(objects))
    for key, value in objects.items():
        vandal.set(key, value, WriteMode.NONE_L2_CACHE_EVICT)


def stored(worker: Daemon, keys: list[str]) -> list[bytes]:
    return [bytes(value) for value in client(worker).get(keys)]


@dataclass
class Scene:
    """What a fault acts on.

    Attributes:
        near: The engine's own worker.
        far: The other one.
        etcd: Their directory.
        keys: What the engine is about to load.
    """

    near: Daemon
    far: Daemon
    etcd: Daemon
    keys: list[str]


def delete_all(scene: Scene) -> None:
    client(scene.near).delete(scene.keys)


def delete_one_in_the_middle(scene: Scene) -> None:
    client(scene.near).delete(scene.keys[5:6])


def truncate(scene: Scene) -> None:
    (value,) = stored(scene.near, scene.keys[3:4])
    put(scene.near, {scene.keys[3]: value[: len(value) // 2]})


def overwrite_with_another_block(scene: Scene) -> None:
    (value,) = stored(scene.near, scene.keys[2:3])
    put(scene.near, {scene.keys[4]: value})


def overwrite_the_content_alone(scene: Scene) -> None:
    mine, other = stored(scene.near, [scene.keys[4], scene.keys[2]])
    put(scene.near, {scene.keys[4]: mine[: HEADER.size] + other[HEADER.size :]})


def store_another_size(scene: Scene) -> None:
    """An object that is whole in itself, and of half the size."""
    (value,) = stored(scene.near, scene.keys[1:2])
    _, _, _, layout, size, _, digest = HEADER.unpack_from(value)
    half = value[HEADER.size : HEADER.size + size // 2]
    header = HEADER.pack(MAGIC, VERSION, CHECKSUM_KINDS["none"], layout, len(half), 0, digest)
    put(scene.near, {scene.keys[1]: header + half})


def leave_a_stump(scene: Scene) -> None:
    """An object that is too short for its header."""
    put(scene.near, {scene.keys[6]: b"stump"})


def store_another_form(scene: Scene) -> None:
    """An object that is whole, of an engine whose blocks have another inner form."""
    (value,) = stored(scene.near, scene.keys[7:8])
    fields = list(HEADER.unpack_from(value))
    fields[3] = bytes(reversed(fields[3]))
    put(scene.near, {scene.keys[7]: HEADER.pack(*fields) + value[HEADER.size :]})


def kill_the_worker(scene: Scene) -> None:
    scene.near.kill()


def pause_the_worker(scene: Scene) -> None:
    scene.near.pause()


def kill_the_owner(scene: Scene) -> None:
    """The blocks are with the other worker, and that one goes."""
    objects = dict(zip(scene.keys, stored(scene.near, scene.keys), strict=True))
    put(scene.far, objects)
    scene.far.kill()


def pause_the_owner(scene: Scene) -> None:
    objects = dict(zip(scene.keys, stored(scene.near, scene.keys), strict=True))
    put(scene.far, objects)
    scene.far.pause()


def kill_etcd(scene: Scene) -> None:
    scene.etcd.kill()


#: Fault, and the causes of failure that it may show as; none where the load must succeed all the same.
FAULTS: dict[Callable[[Scene], None], tuple[str, ...]] = {
    delete_all: ("missing",),
    delete_one_in_the_middle: ("missing",),
    truncate: ("corrupt",),
    overwrite_with_another_block: ("corrupt",),
    overwrite_the_content_alone: ("corrupt",),
    store_another_size: ("corrupt",),
    leave_a_stump: ("corrupt",),
    store_another_form: ("layout",),
    kill_the_worker: ("timeout", "unavailable", "error"),
    pause_the_worker: ("timeout", "unavailable"),
    kill_the_owner: ("timeout", "unavailable", "missing", "error"),
    pause_the_owner: ("timeout", "unavailable", "missing", "error"),
    kill_etcd: (),
}


@contextmanager
def mended(*daemons: Daemon) -> Iterator[None]:
    """Have everything running again at the end."""
    try:
        yield
    finally:
        for daemon in daemons:
            daemon.resume()
            daemon.ensure()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_during_a_load_costs_no_answer(
    fault: Callable[[Scene], None], engine: Engine, near: Daemon, far: Daemon, store: Daemon, plain: Reference
) -> None:
    assert engine.gate is not None
    question, other, salt = prompt(fault.__name__, TOKENS), prompt("afterwards", TOKENS), uuid.uuid4().hex
    plain.prepare([question, other])
    plain.check(question, engine.ask(question, salt))
    engine.forget()
    before, begun = engine.failures(), threading.Event()
    recomputed = engine.counters()["recomputed_requests"]

    def act(message: dict[str, Any]) -> None:
        if message["moment"] == "load" and not begun.is_set():
            begun.set()
            fault(Scene(near, far, store, message["keys"]))

    with mended(store, near, far), ThreadPoolExecutor(1) as pool:
        with engine.gate.watched(act):
            answer = pool.submit(engine.ask, question, salt).result(timeout=DEADLINE_S)
        assert begun.is_set(), "nothing was about to be loaded"
        plain.check(question, answer)
        # The engine lives, while the fault lasts.
        plain.check(other, pool.submit(engine.ask, other, uuid.uuid4().hex).result(timeout=DEADLINE_S))
        grown = {cause: count - before.get(cause, 0) for cause, count in engine.failures().items()}
        seen = {cause for cause, count in grown.items() if count > 0}
        if FAULTS[fault]:
            assert seen, "the load did not fail"
            assert seen <= set(FAULTS[fault])
            assert engine.counters()["recomputed_requests"] > recomputed
        else:
            assert not seen
            assert engine.counters()["recomputed_requests"] == recomputed
    eventually(lambda: assert_loads_again(engine, plain))


def assert_loads_again(engine: Engine, plain: Reference) -> None:
    """Blocks are saved and loaded once more, under a salt that nobody used."""
    question, salt = prompt("healed", TOKENS), uuid.uuid4().hex
    plain.check(question, engine.ask(question, salt))
    engine.forget()
    before = engine.counters()["loaded_blocks"]
    plain.check(question, engine.ask(question, salt))
    assert engine.counters()["loaded_blocks"] > before, "nothing is loaded"
