"""Mends vLLM's CPU attention for the tests: a resumed request with several tokens left is computed as a prefill.

vLLM 0.10.0 counts a request as a decode once its whole prompt is computed, and its kernel for decodes takes one token a
request. A preempted request whose prompt is found in the prefix cache comes back with several tokens to compute: the
kernel then reads beyond its arguments (docs/connector.md, "vLLM's CPU back end").
"""

from __future__ import annotations

from typing import Any

from vllm.v1.attention.backends.cpu_attn import TorchSDPAMetadataBuilderV1


def prefills_first(self: Any, batch: Any, output: Any) -> bool:
    """Put requests with several tokens before those with one, and tell whether any had to move.

    Args:
        self: The builder of attention metadata; it computes its first ``num_prompt_req`` requests as prefills.
        batch: vLLM's ``InputBatch``.
        output: vLLM's ``SchedulerOutput``.
    """
    several = [output.num_scheduled_tokens[name] > 1 for name in batch.req_ids]
    self.num_prompt_req = sum(several)
    behind = [place for place, is_prefill in enumerate(several) if is_prefill and place >= self.num_prompt_req]
    before = [place for place, is_prefill in enumerate(several) if not is_prefill and place < self.num_prompt_req]
    for one, other in zip(behind, before, strict=True):
        batch.swap_states(one, other)
    return bool(behind)


def mend() -> None:
    """Have all engines of this process do so."""
    TorchSDPAMetadataBuilderV1.reorder_batch = prefills_first
