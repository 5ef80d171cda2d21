"""The real HeteroClient and its device plugin on the CANN stand-ins, and copies that fail, are late or never end."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulated_npu import cann
from tests.emulated_npu.conftest import RECOVERY, make_prompt, transfer
from tests.emulated_npu.copies import Copies
from tests.emulated_npu.engine import Engine
from yrpd.project import Project

pytestmark = pytest.mark.emulated
POLICIES = ("direct", "ffts")
PINNED = 2684354560  # DS_HOST_ACL_SIZE's default: what the default policy pins in each process at its first copy
#: rt_error_codes.h: a DMA error of the system, and an exception in an FFTS+ task.
DMA, FFTS = 507013, 507049


class Place:
    """A process with a policy, and the file that orders faults."""

    def __init__(self, copies: Copies, fault: Path, policy: str) -> None:
        self.call, self.fault, self.policy = copies.call, fault, policy

    def fails(self, order: str) -> None:
        """Order a fault; an empty string ends it."""
        self.fault.write_text(order)

    def holds(self, name: str, number: float, fence: bool = True) -> list[str | None]:
        """Fill block 1 and save it."""
        self.call("write", block=1, number=number)
        return list(self.call("put", names=[f"{self.policy}-{name}"], blocks=[1], fence=fence))

    def load(self, name: str, block: int) -> list[str | None]:
        """Load what ``holds`` saved."""
        return list(self.call("get", names=[f"{self.policy}-{name}"], blocks=[block]))


def opened(policy: str, worker: Any, home: Path, **more: str) -> Copies:
    variables = {
        "DS_D2H_MEMCPY_POLICY": policy,
        "DS_H2D_MEMCPY_POLICY": policy,
        "DS_HOST_ACL_SIZE": str(PINNED),
        **more,
    }
    return Copies(worker.address, home / f"{policy}.log", {}, variables)


@pytest.fixture(scope="module", params=POLICIES)
def place(request: Any, worker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("cann")
    with opened(request.param, worker, home, EMULATED_CANN_FAULT=str(home / "fault")) as copies:
        yield Place(copies, home / "fault", request.param)


def test_a_block_goes_out_and_back(place: Place) -> None:
    assert place.call("trial") is None
    assert place.holds("whole", 3.0) == [None]
    assert place.load("whole", 2) == [None]
    assert place.call("values", block=2) == [3.0]
    names = [f"{place.policy}-{name}" for name in ("whole", "absent")]
    assert place.call("get", names=names, blocks=[3, 4]) == [None, "missing"]
    assert place.call("values", block=3) == [3.0]
    assert place.call("pinned") == (PINNED if place.policy == "ffts" else 0)


def test_the_plugins_copies_see_old_bytes_of_writes_that_nobody_waited_for(place: Place) -> None:
    assert place.holds("before", 4.0) == [None]
    assert place.holds("stale", 5.0, fence=False) == [None]
    assert place.load("stale", 2) == [None]
    assert place.call("values", block=2) == [4.0]
    assert place.holds("fresh", 5.0) == [None]
    assert place.load("fresh", 2) == [None]
    assert place.call("values", block=2) == [5.0]


def test_an_object_of_another_form_is_refused_and_one_that_is_cut_off_is_not(place: Place, worker: Any) -> None:
    """A limit of the client (0.8.1): it compares the table of the parts' sizes, and not how long the object is."""
    from yr.datasystem.kv_client import KVClient
    from yr.datasystem.object_client import WriteMode

    host, port = worker.address.rsplit(":", 1)
    vandal = KVClient(host=host, port=int(port))
    vandal.init()
    names = [f"{place.policy}-{name}" for name in ("entire", "cut")]
    assert place.holds("entire", 3.0) == place.holds("cut", 4.0) == [None]
    whole = bytes(vandal.get(names[1:])[0])
    for content, causes in ((bytes(8) + whole[8:], ["error"] * 2), (whole[: len(whole) // 2], [None] * 2)):
        vandal.delete(names[1:])
        vandal.set(names[1], content, WriteMode.NONE_L2_CACHE_EVICT)
        assert place.call("get", names=names, blocks=[5, 6]) == causes
    assert place.call("values", block=6) != [4.0]


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_late_copy_holds_its_blocks_until_its_end(place: Place, way: str) -> None:
    assert place.holds(f"late-{way}", 6.0) == [None]
    place.fails("late 1500")
    name = f"{place.policy}-late-{way}{'-again' if way == 'put' else ''}"
    place.call("begin", way=way, names=[name], blocks=[1])
    assert not place.call("revoke", seconds=0.2), "the blocks are still touched"
    place.fails("")
    assert place.call("end") == [None]
    assert place.call("revoke", seconds=0)


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_copy_that_never_ends_holds_its_blocks_and_nobody_else(place: Place, way: str) -> None:
    assert place.holds(f"hangs-{way}", 7.0) == [None]
    place.fails("never")
    name = f"{place.policy}-hangs-{way}{'-again' if way == 'put' else ''}"
    place.call("begin", way=way, names=[name], blocks=[1])
    assert not place.call("revoke", seconds=1)
    place.fails("")
    assert place.call("end") == [None]


@pytest.mark.parametrize("place", ["direct"], indirect=True)
def test_a_copy_that_fails_has_a_cause_and_leaves_nothing(place: Place) -> None:
    place.fails(f"to_host fail {DMA}")
    assert place.holds("bad", 8.0) == ["error"]
    place.fails("")
    assert place.load("bad", 2) == ["missing"]
    assert place.holds("good", 9.0) == [None]
    place.fails(f"to_device fail {DMA}")
    assert place.load("good", 2) == ["error"]
    place.fails("")
    assert place.load("good", 2) == [None]
    assert place.call("values", block=2) == [9.0]


@pytest.mark.parametrize("place", ["ffts"], indirect=True)
def test_ffts_publishes_a_block_whose_copy_failed(place: Place) -> None:
    """A fault of the client (0.8.1): it drops what the stream says, so the connector cannot know.

    If this fails because a newer client reports the error, take the warning out of docs/connector.md.
    """
    assert place.holds("kept", 1.0) == [None]
    place.fails(f"inside fail {FFTS}")
    assert place.holds("lost", 2.0) == [None], "told as a success"
    place.fails("")
    place.load("lost", 2)  # a stream that is used again may tell its old error here
    assert place.load("lost", 2) == [None]
    assert place.call("values", block=2) != [2.0], "and is not the block"


def test_below_cann_8_5_the_plugin_does_not_load_and_the_trial_says_so(worker: Any, tmp_path: Path) -> None:
    older = cann.variables(cann.build(Project.here().cache, "8.2"), "")
    with opened("direct", worker, tmp_path, **older) as copies:
        assert copies.call("trial") == "error"
    said = copies.log.read_text()
    assert "KV blocks do not travel (error, transport npu)" in said
    assert "Which DataSystem for which CANN" in said
    assert re.search(cann.PLUGIN_NOT_LOADED, said)


def test_both_sets_of_names_are_what_the_plugin_says(tmp_path: Path) -> None:
    """The loader's own words, which the client does not repeat."""
    from yr import datasystem

    plugin = Path(datasystem.__file__).with_name("lib") / "libacl_plugin.so"
    for generation, word in (("8.5", ""), ("8.2", "undefined symbol: Ra")):
        folder = cann.build(Project.here().cache, generation)
        environment = {"LD_LIBRARY_PATH": f"{folder}:{plugin.parent}"}
        done = subprocess.run(
            [sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(plugin)!r})"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == (word == "")
        assert word in done.stderr


def test_a_call_that_is_not_emulated_ends_the_process_with_its_name() -> None:
    folder = cann.build(Project.here().cache)
    script = f"import ctypes; ctypes.CDLL({str(folder / 'libhccl.so')!r}).HcclSend()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 134
    assert "HcclSend (libhccl.so)" in done.stderr


def test_streams_are_in_order_and_beside_each_other() -> None:
    """One stream waits for what another one records: were they one, this would never end."""
    acl, runtime = (ctypes.CDLL(f"lib{name}.so") for name in ("ascendcl", "runtime"))
    assert acl.aclrtSetDevice(0) == 0
    first, second, notify = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    for stream in (first, second):
        assert acl.aclrtCreateStream(ctypes.byref(stream)) == 0
    assert runtime.rtNotifyCreate(0, ctypes.byref(notify)) == 0
    source, target = ctypes.create_string_buffer(b"new"), ctypes.create_string_buffer(b"old")
    assert runtime.rtNotifyWait(notify, first) == 0
    assert acl.aclrtMemcpyAsync(target, 4, source, ctypes.c_size_t(4), 2, first) == 0
    assert acl.aclrtSynchronizeStreamWithTimeout(first, 50) == 507046
    assert target.value == b"old"
    assert runtime.rtNotifyRecord(notify, second) == 0
    assert acl.aclrtSynchronizeStream(first) == 0
    assert target.value == b"new"
    for stream in (first, second):
        assert acl.aclrtDestroyStream(stream) == 0


@pytest.mark.parametrize("order", [f"fail {DMA}", "late 300", "never"])
def test_an_engine_answers_right_while_copies_misbehave(
    engine: tuple[Engine, Path], reference: Any, order: str
) -> None:
    serving, fault = engine
    prompt = make_prompt(f"fault {order}", 2 * 128 + 20)
    serving.generate([prompt])
    serving.forget()
    fault.write_text(order)
    other = make_prompt(f"beside {order}", 2 * 128 + 20)
    for question in (prompt, other):
        assert not serving.generate([question])[0].differs(reference(question))
    fault.write_text("")
    serving.forget()
    assert not serving.generate([prompt])[0].differs(reference(prompt))


def test_without_a_word_from_the_environment_the_client_copies_directly_and_pins_nothing(
    worker: Any, tmp_path: Path
) -> None:
    with Copies(worker.address, tmp_path / "own.log", {}, {}) as copies:
        place = Place(copies, tmp_path / "fault", "own")
        assert place.holds("policy", 3.0) == [None]
        assert place.load("policy", 4) == [None]
        assert place.call("pinned") == 0


@pytest.fixture(scope="module")
def engine(models: Path, worker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Path]]:
    """An engine whose deadlines are short, with the connector's own policy, the one that reports what fails."""
    home = tmp_path_factory.mktemp("faults")
    options = {
        "model": str(models / "qwen2"), "max_model_len": 1024, "max_num_seqs": 4, "max_num_batched_tokens": 1024,
        "scheduler_cls": f"{RECOVERY}.RecoveringScheduler",
        "kv_transfer_config": transfer(
            worker, probe_interval_ms=200, request_timeout_ms=1000, load_timeout_ms=2000, sync_save_timeout_ms=2000,
            tag="faults"
        ),
    }  # fmt: skip
    with Engine(options, home / "engine.log", EMULATED_CANN_FAULT=str(home / "fault")) as started:
        yield started, home / "fault"
