# SPDX-License-Identifier: Apache-2.0
"""What computed a block, read off an engine: its weights, its kernels, and how its cache lies in memory.

vLLM's configuration is used by duck typing. What cannot be found out is never guessed: such an engine gets a name of
its own, shares nothing with others, and says why.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import multiprocessing
import os
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .adapters import hub_folder
from .config import ConnectorConfig
from .keys import Namespace
from .weights import PATTERNS, Stamp, digest, weight_files

logger = logging.getLogger("vllm.yuanrong")

#: Small files that decide how weights and pictures become numbers, and are not in the Hugging Face configuration.
_SCHEMES = ("quantize_config.json", "hf_quant_config.json", "quant_model_description*.json")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
#: Parts of a configuration that name models whose weights are loaded beside the model's own.
_FURTHER_MODELS = ("text_model_id", "audio_model_id")
#: Parts of vllm-ascend that decide when and where a block is computed, never what is in it.
_NO_KERNELS = ("__init__.py", "_version.py", "_build_info.py", "core/", "distributed/__init__.py",
               "distributed/yuanrong/")  # fmt: skip
_PRIVATE = "private:"

#: Engine -> when its worker in this process was about to load, in seconds since the epoch.
_loading_since: dict[str, float] = {}


class UnknownWeightsError(Exception):
    """It cannot be found out which weights an engine has loaded; the message says why."""


@dataclass(frozen=True)
class Weights:
    """The weights of an engine, in a word.

    Attributes:
        identity: What stands for them in keys.
        files: Where they were read; empty when there are none.
    """

    identity: str
    files: tuple[Path, ...] = ()

    @property
    def named_by_content(self) -> bool:
        """Whether paths and revisions add nothing."""
        return self.identity.startswith(("whole:", "sampled:"))


def namespace_of(vllm_config: Any, config: ConnectorConfig, device_type: str) -> Namespace:
    """Collect what the bytes of a KV block depend on.

    Args:
        vllm_config: vLLM's configuration.
        config: The connector's settings.
        device_type: Where the KV cache is.
    """
    model = vllm_config.model_config
    cache_config = vllm_config.cache_config
    parallel = vllm_config.parallel_config
    mla = bool(model.use_mla)
    extra = vllm_config.additional_config
    extra = extra if isinstance(extra, dict) else {}
    weights = weights_of(vllm_config, config)
    unnamed = weights.named_by_content
    return Namespace(
        model=config.model_id or ("" if unnamed else str(model.model)),
        revision="" if unnamed else str(model.revision or ""),
        config_digest=_config_digest(model, vllm_config.speculative_config),
        dtype=str(model.dtype),
        kv_dtype=f"{cache_config.cache_dtype}:{extra.get('kv_cache_dtype', '')}",
        quantization=str(model.quantization or ""),
        block_size=int(cache_config.block_size),
        num_layers=int(model.get_num_layers(parallel)),
        num_kv_heads=int(model.get_total_num_kv_heads()),
        head_size=int(model.get_head_size()),
        tp_size=1 if mla else int(parallel.tensor_parallel_size),
        layout=f"{device_type}:{'mla' if mla else 'kv'}:{inner_form(device_type, extra)}",
        tag=config.tag,
        weights=weights.identity,
        kernels=kernels_of(device_type),
    )


# -- weights -----------------------------------------------------------------------------------------------------------


def loading_begins(vllm_config: Any) -> None:
    """Take note that an engine begins to load weights in this process; a worker's connector is made just before."""
    _loading_since[str(vllm_config.kv_transfer_config.engine_id)] = time.time()


def weights_of(vllm_config: Any, config: ConnectorConfig) -> Weights:
    """Return what stands for an engine's weights, read from the files that it loaded them from.

    Where that cannot be found out the identity is this engine's alone, and a warning says why.

    Args:
        vllm_config: vLLM's configuration.
        config: The connector's settings: ``weights_id`` stands for the files, ``weights_digest`` says how much is read.
    """
    if config.weights_id:
        return Weights(f"named:{config.weights_id}")
    began = time.monotonic()
    try:
        weights = _read(vllm_config, full=config.weights_digest == "full")
        changed = _changed_since_loading(weights.files, vllm_config)
        if changed:
            raise UnknownWeightsError(f"{changed} changed while it was loaded: start this engine again")
    except (UnknownWeightsError, OSError) as error:
        logger.warning(
            "Which weights this engine has is not known, so it shares KV blocks with no other engine: %s. "
            "Or name the weights yourself with kv_connector_extra_config.weights_id.", error,
        )  # fmt: skip
        return Weights(_PRIVATE + uuid.uuid4().hex)
    logger.info(
        "weights %s of %d files, read in %.2f s", weights.identity, len(weights.files), time.monotonic() - began
    )
    return weights


def _read(vllm_config: Any, *, full: bool) -> Weights:
    model, load = vllm_config.model_config, vllm_config.load_config
    chosen = getattr(load.load_format, "value", load.load_format)
    load_format = chosen.lower() if isinstance(chosen, str) else getattr(chosen, "__name__", "a loader of its own")
    if load_format == "dummy":  # the same numbers on every engine, rank by rank: vLLM seeds each parameter alike
        parallel = vllm_config.parallel_config
        expert = getattr(parallel, "enable_expert_parallel", False)
        ranks = f"{parallel.tensor_parallel_size}:{parallel.data_parallel_size if expert else 0}"
        return Weights(f"dummy:{ranks}")
    if load_format not in PATTERNS:
        raise UnknownWeightsError(f"nothing is known of the files that load format {load_format} reads")
    place = _place(str(getattr(model, "model_weights", "") or model.model), model.revision, load.download_dir)
    files = weight_files(place, load_format)
    if not files:  # vLLM itself refuses to load such a folder
        logger.warning("%s has no weights that could tell this model from others", place)
        return Weights("none")
    files |= _beside(place, model)
    for name in _FURTHER_MODELS:
        other = getattr(model.hf_config, name, None)
        if other:
            found = weight_files(_place(str(other), None, load.download_dir), load_format)
            files |= {f"{name}/{each}": path for each, path in found.items()}
    files |= _draft(vllm_config.speculative_config, load, load_format)
    return Weights(digest(files, full=full), tuple(files.values()))


def _place(model: str, revision: str | None, download_dir: str | None) -> Path:
    path = Path(model)
    if path.exists():
        return path
    if "://" in model or path.is_absolute():
        raise UnknownWeightsError(f"{model} cannot be read from here")
    if os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true"):
        return _modelscope_folder(model, revision, download_dir)
    return hub_folder(model, revision, download_dir)


def _modelscope_folder(model: str, revision: str | None, download_dir: str | None) -> Path:
    try:
        hub = importlib.import_module("modelscope.hub.snapshot_download")
        return Path(hub.snapshot_download(model, cache_dir=download_dir, local_files_only=True, revision=revision))
    except Exception as error:  # of many kinds, and none of them is this engine's end
        raise UnknownWeightsError(f"{model} is not in ModelScope's cache") from error


def _beside(place: Path, model: Any) -> dict[str, Path]:
    """Return the small files of a model's folder that count like weights."""
    if not place.is_dir():
        return {}
    patterns = [*_SCHEMES]
    patterns += _PROCESSORS if getattr(model, "is_multimodal_model", False) else ()
    patterns += ["*.py"] if getattr(model, "trust_remote_code", False) else []
    return {path.name: path for pattern in patterns for path in sorted(place.glob(pattern)) if path.is_file()}


def _draft(speculative: Any, load: Any, load_format: str) -> dict[str, Path]:
    """Return the weights of a draft model that has KV blocks of its own."""
    draft = getattr(speculative, "draft_model_config", None)
    if draft is None or not speculative.use_eagle():
        return {}
    place = _place(str(draft.model), getattr(draft, "revision", None), load.download_dir)
    return {f"draft/{name}": path for name, path in weight_files(place, load_format).items()}


def _changed_since_loading(files: tuple[Path, ...], vllm_config: Any) -> Path | None:
    """Return a file that was replaced or written to since this engine began to load, by its file system's clock.

    Files of the Hugging Face cache are named by their content and may have been downloaded just now.
    """
    since = _loading_since.get(str(vllm_config.kv_transfer_config.engine_id))
    if since is None and vllm_config.parallel_config.world_size > 1 and multiprocessing.parent_process() is not None:
        since = _process_start()  # vLLM's process for an engine, which has started those that load
    if since is None:  # nothing was loaded for this engine
        return None
    for path in files:
        if path.is_symlink() and path.resolve().parent.name == "blobs":
            continue
        if max(Stamp.of(path).changed_ns, path.lstat().st_ctime_ns) / 1e9 > since:
            return path
    return None


def _process_start() -> float | None:
    """Return when this process began; its worker processes load after that. None where Linux does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return booted + ticks / os.sysconf("SC_CLK_TCK")


# -- kernels and cache -------------------------------------------------------------------------------------------------


def inner_form(device_type: str, additional_config: dict[str, Any]) -> str:
    """Return how the bytes of a block are ordered where shape and size do not tell.

    Args:
        device_type: Where the KV cache is.
        additional_config: vllm-ascend's settings.
    """
    if device_type == "npu":
        form = "310p" if _is_310p() else "nd"
        return form + "-nz" * bool((additional_config.get("torchair_graph_config") or {}).get("enable_kv_nz"))
    if device_type == "cpu":
        return "ipex" if _uses_ipex() else "paged"
    return ""


def _is_310p() -> bool:
    try:
        from vllm_ascend.utils import is_310p

        return bool(is_310p())
    except (ImportError, AttributeError):  # built without knowledge of any processor
        return False


def _uses_ipex() -> bool:
    try:
        from vllm.v1.attention.backends import cpu_attn
    except Exception:  # a release, or a build, without this back end
        return False
    return bool(getattr(cpu_attn, "_use_ipex", False))


@cache
def kernels_of(device_type: str) -> str:
    """Return which code computes: the release of vLLM, on an NPU also what of vllm-ascend has a part in it.

    The image, its tag and its build do not count, nor do this connector and the schedulers of vllm-ascend: none of them
    changes what is in a block.
    """
    try:
        named = f"vllm {importlib.metadata.version('vllm')}"
    except importlib.metadata.PackageNotFoundError:
        named = "vllm"
    if device_type != "npu":
        return named
    spec = importlib.util.find_spec("vllm_ascend")
    root = Path(spec.origin).parent if spec is not None and spec.origin else None
    return f"{named}, vllm-ascend {sources_digest(root) if root else '?'}"


def sources_digest(root: Path) -> str:
    """Digest the sources and libraries of a package that have a part in computing."""
    hashed = hashlib.sha256()
    for path in sorted(path for ending in ("py", "so") for path in root.rglob(f"*.{ending}")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_NO_KERNELS):
            hashed.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return hashed.hexdigest()[:16]


def _config_digest(model: Any, speculative: Any) -> str:
    """Digest the model's architecture and the multimodal processor's arguments, which vLLM's own hashes leave out."""
    document = {
        "hf": {
            k: v for k, v in model.hf_config.to_dict().items() if k not in ("_name_or_path", "transformers_version")
        },
        "mm": getattr(model, "mm_processor_kwargs", None) or {},
        "speculative": str(getattr(speculative, "method", "")) if speculative is not None else "",
    }
    tuning = _attention_tuning(model)
    if tuning is not None:
        document["attn_temperature_tuning"] = tuning
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()


def _attention_tuning(model: Any) -> Any:
    """Return whether a Llama 4 weighs attention by position, None for other models.

    vLLM decides it by the length that an engine allows (``models/llama4.py``), so P and D may differ in it with one
    configuration, and with it in what all layers above the first one without positions compute.
    """
    if not str(getattr(model.hf_config, "model_type", "")).startswith("llama4"):
        return None
    generation = {**(model.try_get_generation_config() or {}), **(model.override_generation_config or {})}
    return generation.get("attn_temperature_tuning", model.max_model_len > 32768)
