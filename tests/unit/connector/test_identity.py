"""What a namespace says of weights, kernels and caches: all that bytes depend on, and nothing else."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from yuanrong import identity
from yuanrong.config import ConnectorConfig
from yuanrong.identity import inner_form, loading_begins, namespace_of, sources_digest, weights_of

from tests.unit.connector.model_files import safetensors


class HfConfig(SimpleNamespace):
    """A Hugging Face configuration."""

    def to_dict(self) -> dict[str, Any]:
        """Return what was set."""
        return dict(vars(self))


def engine(model: Path | str, **more: Any) -> Any:
    """Return vLLM's configuration, as far as a namespace looks at it; ``a.b`` is written ``a__b``."""
    config = SimpleNamespace(
        model_config=SimpleNamespace(
            model=str(model), revision=None, dtype="torch.bfloat16", quantization=None, use_mla=False,
            hf_config=HfConfig(architectures=["Qwen2ForCausalLM"]), mm_processor_kwargs=None, is_multimodal_model=False,
            trust_remote_code=False, get_num_layers=lambda _: 2, get_total_num_kv_heads=lambda: 2,
            get_head_size=lambda: 64,
        ),
        cache_config=SimpleNamespace(cache_dtype="auto", block_size=16),
        parallel_config=SimpleNamespace(
            tensor_parallel_size=1, data_parallel_size=1, enable_expert_parallel=False, world_size=1
        ),
        load_config=SimpleNamespace(load_format="auto", download_dir=None),
        kv_transfer_config=SimpleNamespace(engine_id="e"),
        speculative_config=None,
        additional_config=None,
    )  # fmt: skip
    for name, value in more.items():
        part, _, attribute = name.partition("__")
        setattr(getattr(config, part), attribute, value) if attribute else setattr(config, part, value)
    return config


def settings(**extra: Any) -> ConnectorConfig:
    return ConnectorConfig.from_extra({"worker_address": "h:1", **extra}, "kv_both", {})


def namespace(config: Any, device: str = "cpu", **extra: Any) -> bytes:
    return namespace_of(config, settings(**extra), device).digest()


def model(folder: Path, weights: bytes = b"w") -> Path:
    folder.mkdir(exist_ok=True)
    safetensors(folder / "model.safetensors", {"layer": weights})
    return folder


def test_one_model_is_one_under_every_path_revision_and_host(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a"), model(tmp_path / "b")
    spaces = {namespace(engine(a)), namespace(engine(b)), namespace(engine(a, model_config__revision="main"))}
    assert len(spaces) == 1


def test_weights_replaced_under_the_same_path_are_others(tmp_path: Path) -> None:
    before = namespace(engine(model(tmp_path / "m", b"old")))
    assert namespace(engine(model(tmp_path / "m", b"new"))) != before
    assert namespace(engine(model(tmp_path / "m", b"old"))) == before


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("quant_model_description.json", True), ("quantize_config.json", True), ("README.md", False),
        ("tokenizer.json", False), ("preprocessor_config.json", False), ("modeling_x.py", False),
        ("optimizer.pt", False), ("training_args.bin", False),
    ],
)  # fmt: skip
def test_of_the_other_files_those_count_that_change_numbers(tmp_path: Path, name: str, counts: bool) -> None:
    before = namespace(engine(model(tmp_path / "m")))
    (tmp_path / "m" / name).write_text("{}")
    assert (namespace(engine(tmp_path / "m")) != before) is counts


@pytest.mark.parametrize(
    ("switch", "name"),
    [("model_config__is_multimodal_model", "preprocessor_config.json"), ("model_config__trust_remote_code", "m.py")],
)
def test_a_processors_settings_and_a_models_own_code_count_where_they_are_used(
    tmp_path: Path, switch: str, name: str
) -> None:
    config, other = engine(model(tmp_path / "m"), **{switch: True}), engine(tmp_path / "m")
    assert namespace(config) == namespace(other)
    (tmp_path / "m" / name).write_text("{}")
    before = namespace(config)
    assert before != namespace(other)
    (tmp_path / "m" / name).write_text("{1}")
    assert namespace(config) != before


def test_a_second_model_that_is_loaded_beside_it_counts(tmp_path: Path) -> None:
    def of(weights: bytes) -> bytes:
        config = engine(model(tmp_path / "m"))
        config.model_config.hf_config.audio_model_id = str(model(tmp_path / "audio", weights))
        return namespace(config)

    assert of(b"1") != of(b"2")


def test_a_draft_model_with_kv_blocks_counts(tmp_path: Path) -> None:
    def of(weights: bytes, *, blocks: bool) -> bytes:
        draft = SimpleNamespace(model=str(model(tmp_path / "draft", weights)), revision=None)
        speculative = SimpleNamespace(method="x", draft_model_config=draft, use_eagle=lambda: blocks)
        return namespace(engine(model(tmp_path / "m"), speculative_config=speculative))

    assert of(b"1", blocks=True) != of(b"2", blocks=True)
    assert of(b"1", blocks=False) == of(b"2", blocks=False)


UNKNOWN: dict[str, Callable[[Path], Any]] = {
    "a path that is not here": lambda p: engine(p / "nothing"),
    "an object store": lambda p: engine("s3://bucket/model"),
    "a repository that was never loaded": lambda p: engine("nobody/nothing"),
    "tensorizer": lambda p: engine(p, load_config__load_format="tensorizer"),
    "a loader of one's own": lambda p: engine(p, load_config__load_format=SimpleNamespace),
    "weights elsewhere": lambda p: engine(p, model_config__model_weights="s3://bucket/model"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_weights_are_not_guessed_and_share_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    config = UNKNOWN[name](model(tmp_path / "m"))
    assert namespace(config) != namespace(config)
    assert "shares KV blocks with no other engine" in caplog.text
    assert "weights_id" in caplog.text
    caplog.clear()
    assert namespace(config, weights_id="v7") == namespace(config, weights_id="v7") != namespace(config, weights_id="8")
    assert not caplog.text


def test_a_folder_without_weights_is_told_by_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "other").mkdir()
    assert namespace(engine(tmp_path)) == namespace(engine(tmp_path)) != namespace(engine(tmp_path / "other"))
    assert "has no weights" in caplog.text


def test_dummy_weights_are_the_same_everywhere_but_not_on_other_ranks(tmp_path: Path) -> None:
    spaces = [
        namespace_of(
            engine(tmp_path, load_config__load_format="dummy", model_config__use_mla=True,
                   parallel_config__tensor_parallel_size=size),
            settings(), "npu",
        )
        for size in (1, 1, 2)
    ]  # fmt: skip
    assert spaces[0] == spaces[1] != spaces[2]


def test_a_setting_of_ones_own_stands_for_the_weights_and_for_the_models_name(tmp_path: Path) -> None:
    a, b = engine(model(tmp_path / "a", b"1")), engine(model(tmp_path / "b", b"2"))
    assert namespace(a) != namespace(b)
    assert namespace(a, weights_id="x", model_id="y") == namespace(b, weights_id="x", model_id="y")
    assert namespace(a, model_id="y") != namespace(b, model_id="y")


def test_how_much_is_read_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = engine(model(tmp_path / "m"))
    assert namespace(config) == namespace(config, weights_digest="full")
    monkeypatch.setattr("yuanrong.weights.WHOLE_BYTES", 0)
    assert namespace(config) != namespace(config, weights_digest="full")


# -- files that change while they are loaded ---------------------------------------------------------------------------


def test_files_that_changed_while_this_process_loaded_them_share_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_loading_since", {})
    config = engine(model(tmp_path / "m"))
    settled = weights_of(config, settings())
    before = (tmp_path / "m" / "model.safetensors").stat().st_ctime
    monkeypatch.setattr(time, "time", lambda: before + 1)
    loading_begins(config)
    assert weights_of(config, settings()) == settled
    monkeypatch.setattr(time, "time", lambda: before - 1)
    loading_begins(config)
    assert weights_of(config, settings()).identity.startswith("private:")
    assert "changed while it was loaded: start this engine again" in caplog.text
    assert weights_of(engine(tmp_path / "m", kv_transfer_config__engine_id="f"), settings()) == settled


def test_an_engine_with_processes_that_load_counts_from_its_own_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = engine(model(tmp_path / "m"), parallel_config__world_size=2)
    began = identity._process_start()
    assert began is not None
    assert 0 < time.time() - began < 24 * 3600
    assert weights_of(config, settings()).identity.startswith("whole:")
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    assert weights_of(config, settings()).identity.startswith("private:")
    monkeypatch.setattr(identity, "_process_start", lambda: time.time() + 1)
    assert weights_of(config, settings()).identity.startswith("whole:")


def test_files_of_the_hugging_face_cache_may_have_been_downloaded_just_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_loading_since", {"e": 0.0})
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    safetensors(blobs / "abc", {"layer": b"w"})
    (snapshot / "model.safetensors").symlink_to(blobs / "abc")
    assert weights_of(engine(snapshot), settings()).identity.startswith("whole:")


def test_a_models_name_is_looked_up_in_the_local_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(model(tmp_path / "m"))

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    config = engine("org/model", model_config__revision="v1", load_config__download_dir="/cache")
    assert namespace(config) == namespace(engine(tmp_path / "m"))
    assert asked == [("org/model", {"revision": "v1", "cache_dir": "/cache", "local_files_only": True})]
    hub = types.ModuleType("modelscope.hub.snapshot_download")
    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, hub.__name__, hub)
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "True")
    assert namespace(config) == namespace(engine(tmp_path / "m"))
    assert len(asked) == 2


def test_the_log_tells_how_long_it_took(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vllm.yuanrong"):
        weights_of(engine(model(tmp_path / "m")), settings())
    assert "of 1 files, read in" in caplog.text


# -- kernels and cache -------------------------------------------------------------------------------------------------

NZ = {"torchair_graph_config": {"enabled": True, "enable_kv_nz": True}}


def test_the_npus_inner_formats_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    package, utils = types.ModuleType("vllm_ascend"), types.ModuleType("vllm_ascend.utils")
    monkeypatch.setitem(sys.modules, "vllm_ascend", package)
    monkeypatch.setitem(sys.modules, "vllm_ascend.utils", utils)
    assert inner_form("npu", {}) == "nd"
    utils.is_310p = lambda: True  # type: ignore[attr-defined]
    assert inner_form("npu", {}) == "310p"
    utils.is_310p = lambda: False  # type: ignore[attr-defined]
    assert inner_form("npu", {}) == inner_form("npu", {"torchair_graph_config": {"enabled": True}}) == "nd"
    assert inner_form("npu", NZ) == "nd-nz"


def test_the_inner_format_is_part_of_the_namespace(tmp_path: Path) -> None:
    plain, nz = (engine(model(tmp_path / "m"), additional_config=each) for each in ({}, NZ))
    assert namespace(plain, "npu") != namespace(nz, "npu")
    assert namespace(plain, "cpu") == namespace(nz, "cpu")


def test_the_cpu_back_ends_two_forms_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = types.ModuleType("vllm.v1.attention.backends")
    for name in ("vllm", "vllm.v1", "vllm.v1.attention"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, backends.__name__, backends)
    assert inner_form("cpu", {}) == "paged"
    backends.cpu_attn = SimpleNamespace(_use_ipex=True)  # type: ignore[attr-defined]
    assert inner_form("cpu", {}) == "ipex"
    assert inner_form("cuda", {}) == ""


def package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


BASE = {"__init__.py": "", "attention/mla.py": "1", "core/scheduler.py": "1", "distributed/yuanrong/keys.py": "1"}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("attention/mla.py", True), ("ops/rotary.py", True), ("lib/kernels.so", True),
        ("distributed/parallel.py", True),
        ("__init__.py", False), ("core/scheduler.py", False), ("distributed/yuanrong/keys.py", False),
        ("distributed/__init__.py", False), ("_version.py", False), ("README.md", False),
    ],
)  # fmt: skip
def test_of_vllm_ascend_counts_what_computes(tmp_path: Path, name: str, counts: bool) -> None:
    before = sources_digest(package(tmp_path / "a", BASE))
    assert (sources_digest(package(tmp_path / "b", BASE | {name: "changed"})) != before) is counts


def test_an_npus_kernels_are_vllm_and_vllm_ascend_and_a_cpus_vllm_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = package(tmp_path / "site" / "vllm_ascend", BASE)
    monkeypatch.syspath_prepend(str(root.parent))
    monkeypatch.delitem(sys.modules, "vllm_ascend", raising=False)
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"vllm": "0.10.0"}[name])
    identity.kernels_of.cache_clear()
    assert identity.kernels_of("cpu") == "vllm 0.10.0"
    assert identity.kernels_of("npu") == f"vllm 0.10.0, vllm-ascend {sources_digest(root)}"
    identity.kernels_of.cache_clear()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [("weights_id", "a b", "weights_id: at most"), ("weights_digest", "some", "weights_digest: expected one of")],
)
def test_settings_of_identity_are_checked(setting: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**{setting: value})


def test_nothing_of_the_place_is_in_a_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = engine(model(tmp_path / "m"))
    before = namespace_of(config, settings(), "cpu")
    monkeypatch.setenv("HOSTNAME", "another")
    config.kv_transfer_config.engine_id = "another"
    other = settings(worker_address="[::1]:9", save_mode="async", checksum="none", load_threads=7)
    assert namespace_of(config, other, "cpu") == before
    text = json.dumps(vars(before))
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text


@pytest.mark.parametrize(
    ("kind", "generation", "overrides", "differ"),
    [
        ("llama4_text", {}, {}, True), ("llama4", None, None, True), ("qwen2", {}, {}, False),
        ("llama4_text", {"attn_temperature_tuning": True}, {}, False),
        ("llama4_text", {}, {"attn_temperature_tuning": False}, False),
    ],
)  # fmt: skip
def test_a_llama_4_depends_on_the_length_that_its_engine_allows(
    tmp_path: Path, kind: str, generation: Any, overrides: Any, differ: bool
) -> None:
    spaces = set()
    for length in (32768, 65536):
        config = engine(model(tmp_path / "m"))
        config.model_config.hf_config.model_type = kind
        config.model_config.max_model_len = length
        config.model_config.try_get_generation_config = lambda: generation
        config.model_config.override_generation_config = overrides
        spaces.add(namespace(config))
    assert (len(spaces) == 2) is differ
