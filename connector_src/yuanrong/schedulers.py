# SPDX-License-Identifier: Apache-2.0
"""The schedulers with recovery, to be named in ``--scheduler-cls``. Needs vLLM and vllm-ascend."""

from __future__ import annotations

from vllm.v1.core.sched.scheduler import Scheduler
from vllm_ascend.core.scheduler import AscendScheduler

from .recovery import KVLoadRecoveryMixin

__all__ = ["RecoveringAscendScheduler", "RecoveringScheduler"]


class RecoveringScheduler(KVLoadRecoveryMixin, Scheduler):  # type: ignore[misc]
    """vLLM's scheduler, recovering from failed KV loads."""


class RecoveringAscendScheduler(KVLoadRecoveryMixin, AscendScheduler):  # type: ignore[misc]
    """The Ascend scheduler, recovering from failed KV loads."""
