# SPDX-License-Identifier: Apache-2.0
"""openYuanrong DataSystem KV connector for vLLM V1.

The package is importable with neither vLLM, torch, torch_npu nor the DataSystem client: vLLM loads the connector by
``kv_connector_module_path`` and a ``getattr`` on this module, which is the moment the heavy imports happen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .connector import YuanRongConnector

__all__ = ["YuanRongConnector"]


def __getattr__(name: str) -> Any:
    """Import the connector class on first use (PEP 562)."""
    if name == "YuanRongConnector":
        from .connector import YuanRongConnector

        return YuanRongConnector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
