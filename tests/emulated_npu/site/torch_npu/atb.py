"""Stands in for torch_npu.atb."""

from ._refusal import refuse

npu_multi_head_latent_attention = refuse("torch_npu.atb.npu_multi_head_latent_attention")
npu_paged_cache_load = refuse("torch_npu.atb.npu_paged_cache_load")
npu_ring_mla = refuse("torch_npu.atb.npu_ring_mla")
