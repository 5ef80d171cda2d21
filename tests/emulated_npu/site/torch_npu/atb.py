"""Stands in for torch_npu.atb."""

from ._operators.latent import npu_paged_cache_load, npu_ring_mla
from ._refusal import refuse

npu_multi_head_latent_attention = refuse("torch_npu.atb.npu_multi_head_latent_attention")
__all__ = ["npu_multi_head_latent_attention", "npu_paged_cache_load", "npu_ring_mla"]
