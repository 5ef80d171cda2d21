"""Stands in for torch_npu 2.7.1.dev20250724: the names that vllm-ascend v0.10.0rc1 uses, over the emulated device."""

from __future__ import annotations

import os
import sys
from typing import Any

# torch imports whatever is registered as a backend; as the real package does, keep it from importing this one twice.
_asked = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD")
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

import torch  # noqa: E402

from . import _library, npu  # noqa: E402
from ._refusal import NotEmulatedError, refuse  # noqa: E402

torch._register_device_module("npu", npu)
sys.modules["torch.npu"] = npu
for _part in ("streams", "memory"):
    sys.modules[f"torch.npu.{_part}"] = sys.modules[f"{__name__}.npu.{_part}"]
torch.utils.generate_methods_for_privateuse1_backend(for_packed_sequence=False)
torch.version.cann = "emulated"

from . import _hccl, _older_torch, atb, profiler  # noqa: E402
from ._operators.attention import (  # noqa: E402
    _npu_flash_attention,
    _npu_flash_attention_qlens,
    _npu_flash_attention_unpad,
    _npu_paged_attention,
    _npu_paged_attention_mla,
    _npu_paged_attention_splitfuse,
)
from ._operators.dense import (  # noqa: E402
    _npu_reshape_and_cache,
    _npu_rotary_embedding,
    get_npu_format,
    npu_add_rms_norm,
    npu_fast_gelu,
    npu_format_cast,
    npu_prefetch,
    npu_rms_norm,
    npu_rotary_mul,
    npu_swiglu,
    npu_top_k_top_p,
)
from ._operators.experts import (  # noqa: E402
    npu_grouped_matmul,
    npu_moe_compute_expert_tokens,
    npu_moe_finalize_routing,
    npu_moe_gating_top_k,
    npu_moe_gating_top_k_softmax,
    npu_moe_init_routing,
)
from ._operators.lora import register as _register_lora  # noqa: E402

_older_torch.adapt()
_hccl.register()
_register_lora()

# Names that vllm-ascend or its unit tests look up; calling one is an error.
for _name in (
    "_npu_group_topk", "_npu_quant_rms_norm", "npu_add_rms_norm_quant", "npu_convert_weight_to_int4pack",
    "npu_dequant_swiglu_quant", "npu_dynamic_quant", "npu_format_cast_", "npu_fused_infer_attention_score",
    "npu_grouped_matmul_finalize_routing", "npu_incre_flash_attention", "npu_interleave_rope",
    "npu_kv_rmsnorm_rope_cache", "npu_mm_all_reduce_base", "npu_moe_distribute_combine",
    "npu_moe_distribute_combine_v2", "npu_moe_distribute_dispatch", "npu_moe_distribute_dispatch_v2",
    "npu_moe_init_routing_quant", "npu_moe_init_routing_v2", "npu_moe_re_routing", "npu_moe_token_permute",
    "npu_moe_token_unpermute", "npu_quant_grouped_matmul_dequant", "npu_quant_matmul", "npu_quantize",
    "npu_scatter_nd_update_", "npu_weight_quant_batchmatmul",
):  # fmt: skip
    globals()[_name] = refuse(f"torch_npu.{_name}")

if _asked is None:
    del os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"]
else:
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = _asked


def _autoload() -> None:
    """The entry point of group ``torch.backends``: to import this module is all that there is to do."""


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotEmulatedError(f"torch_npu.{name} is not emulated")
