"""Import the connector the way vLLM does, and prove that it is the patched tree's. Runs in the vLLM environment.

Usage: python3 import_connector.py TREE VERSION

Prints one JSON line: version, connector class, file. Ends with 1 and a sentence when anything is another than expected.
It needs no accelerator: with VLLM_PLUGINS empty vLLM does not load the Ascend platform, and torch-npu, which torch and
transformers import as soon as it is installed and which needs the driver's libraries, is hidden from both.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path

CONNECTOR = "YuanRongConnector"


def main(tree: Path, version: str) -> str:
    """Return the proof as one line, or raise ``SystemExit`` with a sentence."""
    installed = importlib.metadata.version("vllm_ascend")
    if installed != version:
        raise SystemExit(f"vllm-ascend {installed} is installed, expected {version}")
    # Registers its connectors with the factory when it is imported; since v0.11 by a function that a plugin calls.
    register = getattr(importlib.import_module("vllm_ascend.distributed"), "register_connector", None)
    if register is not None:
        register()
    factory = importlib.import_module("vllm.distributed.kv_transfer.kv_connector.factory").KVConnectorFactory
    loaders = factory._registry
    if CONNECTOR not in loaders:
        raise SystemExit(f"{CONNECTOR} is not registered; there are: {', '.join(sorted(loaders))}")
    connector = loaders[CONNECTOR]()
    base = importlib.import_module("vllm.distributed.kv_transfer.kv_connector.v1").KVConnectorBase_V1
    if not issubclass(connector, base):
        raise SystemExit(f"{CONNECTOR} is not a KVConnectorBase_V1")
    file = Path(str(sys.modules[connector.__module__].__file__)).resolve()
    if not file.is_relative_to(tree.resolve()):
        raise SystemExit(f"{CONNECTOR} was imported from {file}, not from {tree}")
    proof = {"connector": f"{connector.__module__}.{connector.__qualname__}", "version": installed, "file": str(file)}
    return json.dumps(proof, sort_keys=True)


if __name__ == "__main__":
    os.environ.setdefault("VLLM_PLUGINS", "")
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    sys.modules["torch_npu"] = None  # type: ignore[assignment] - whoever looks for it finds nothing
    sys.stdout.write(main(Path(sys.argv[1]), sys.argv[2]) + "\n")
