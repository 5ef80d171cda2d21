"""Weight files made on the spot, in the forms in which models come."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path


def safetensors(path: Path, tensors: Mapping[str, bytes], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a safetensors file: the header's length, the header, then the tensors one behind the other."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors.values()))
    return path


def torch_archive(path: Path, records: Mapping[str, bytes]) -> Path:
    """Write what torch.save writes: a ZIP archive without compression."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def adapter(folder: Path, weights: bytes, rank: int = 8) -> Path:
    """Write a LoRA adapter's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    safetensors(folder / "adapter_model.safetensors", {"lora_A": weights, "lora_B": weights[::-1]})
    return folder
