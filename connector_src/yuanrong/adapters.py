# SPDX-License-Identifier: Apache-2.0
"""Which LoRA adapter computed a block: a digest of the files that the engine loaded it from.

vLLM gives an adapter a new number whenever it is loaded, and reads its files again under the old number when the
adapter fell out of memory. So files are read once per number, at the load itself where vLLM's engine can be watched,
else at the first request; and looked at (not read) again with every request. An adapter whose files have another
content since then may have been computed by either: its requests are not shared until it is loaded anew.
"""

from __future__ import annotations

import functools
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .weights import Stamp, digest, stamps

logger = logging.getLogger("vllm.yuanrong")

#: What vLLM reads of an adapter's folder.
FILES = tuple(
    ["adapter_config.json"]
    + [f"{stem}.{ending}" for stem in ("adapter_model", "new_embeddings") for ending in ("safetensors", "bin", "pt")]
)


@dataclass
class _Known:
    """What is known of one loaded adapter.

    Attributes:
        path: The path that it was asked for by.
        files: Its files, by name; empty when they cannot be read.
        stamps: The files' stamps when they were read.
        identity: What stands for the adapter in keys; empty when nobody knows what was loaded.
    """

    path: str
    files: dict[str, Path]
    stamps: dict[Path, Stamp]
    identity: str


class Adapters:
    """The adapters of one engine.

    Args:
        dtype: The type that adapters are computed in.
    """

    def __init__(self, dtype: str = "") -> None:
        self._dtype = dtype
        self._known: dict[int, _Known] = {}  # one entry per load, so it grows as slowly as an operator loads

    def identity(self, lora: Any) -> str | None:
        """Return what stands for an adapter in keys, None when its blocks must not be shared.

        An adapter whose files cannot be read (a tensorizer's, one on another host) gets a name that is this engine's
        alone, so that nothing is shared with others.

        Args:
            lora: vLLM's ``LoRARequest``.
        """
        number, path = int(lora.lora_int_id), str(lora.lora_path)
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = self._read(lora)
        elif known.identity and (known.path != path or not self._unchanged(known)):
            known.identity = ""
            logger.warning(
                "The files of LoRA adapter %r have changed since it was loaded, so its KV blocks are not shared. "
                "Load it again: POST /v1/unload_lora_adapter, then /v1/load_lora_adapter.", str(lora.lora_name),
            )  # fmt: skip
        return known.identity or None

    @contextmanager
    def loading(self, lora: Any) -> Iterator[None]:
        """Read an adapter's files before the engine does, and see afterwards that it read the same."""
        self.identity(lora)
        yield
        self.identity(lora)

    def _read(self, lora: Any) -> _Known:
        path = str(lora.lora_path)
        try:
            if getattr(lora, "tensorizer_config_dict", None):
                raise OSError("tensorizer")
            folder = adapter_folder(path)
            files = {name: folder / name for name in FILES if (folder / name).is_file()}
            if len(files) < 2:
                raise OSError(f"{folder} has no adapter")
            before = stamps(files.values())
            return _Known(path, files, before, f"{digest(files)}:{self._dtype}")
        except OSError as error:
            logger.warning(
                "The files of LoRA adapter %r cannot be read here (%s): its KV blocks are shared with no other engine.",
                str(lora.lora_name), error,
            )  # fmt: skip
            return _Known(path, {}, {}, f"private:{uuid.uuid4().hex}")

    def _unchanged(self, known: _Known) -> bool:
        try:
            now = stamps(known.files.values())
            if now == known.stamps:
                return True
            if f"{digest(known.files)}:{self._dtype}" != known.identity or stamps(known.files.values()) != now:
                return False
        except OSError:
            return False
        known.stamps = now  # written again with the same content
        return True


def adapter_folder(path: str) -> Path:
    """Return the folder that vLLM reads an adapter from, for a path or the name of a Hugging Face repository.

    Raises:
        OSError: It is neither a folder nor in the local cache.
    """
    folder = Path(path).expanduser()
    if folder.is_absolute() or folder.exists():
        return Path(os.path.abspath(folder))
    return hub_folder(path)


def hub_folder(name: str, revision: str | None = None, cache: str | None = None) -> Path:
    """Return where a Hugging Face repository is in the local cache; nothing is downloaded.

    Raises:
        OSError: It is not there.
    """
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, revision=revision, cache_dir=cache, local_files_only=True))
    except Exception as error:  # of many kinds, and none of them is this engine's end
        raise FileNotFoundError(f"{name} is neither a folder nor in the Hugging Face cache") from error


def watch_loads(engine_core: Any, adapters_of: Callable[[Any], Adapters | None]) -> None:
    """Have adapters read when vLLM loads them; the files may change before the first request comes.

    vLLM tells neither connector nor scheduler of a load, so its method is wrapped, once per process.

    Args:
        engine_core: vLLM's ``EngineCore`` class.
        adapters_of: Returns an engine's adapters, None if it has another connector.
    """
    original = engine_core.add_lora
    if hasattr(original, "watched_by_yuanrong"):
        return

    @functools.wraps(original)
    def add_lora(self: Any, lora_request: Any) -> Any:
        adapters = adapters_of(self)
        if adapters is None:
            return original(self, lora_request)
        with adapters.loading(lora_request):
            return original(self, lora_request)

    add_lora.watched_by_yuanrong = True  # type: ignore[attr-defined]
    engine_core.add_lora = add_lora
