# SPDX-License-Identifier: Apache-2.0
"""``YuanRongConnector``: the class that vLLM instantiates, once in the scheduler and once in each worker.

It only translates between vLLM's interface (0.10.0, 0.11.0) and the two halves in :mod:`.scheduler` and :mod:`.worker`.
"""

from __future__ import annotations

import threading
import uuid
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)
from vllm.logger import init_logger

from .adapters import Adapters, watch_loads
from .announcement import Announcer, exchange_by_process
from .config import ConfigError, ConnectorConfig
from .identity import loading_begins, namespace_of
from .keys import Namespace, shard_name
from .layout import KVLayout
from .metadata import StepPlan
from .metrics import make_metrics
from .scheduler import SchedulerSide
from .tiers import TierWatch
from .transport import Transport, connect, reachable, resolve_kind
from .transport.breaker import BreakingTransport, probe
from .trial import try_out
from .worker import WorkerSide

if TYPE_CHECKING:
    import torch
    from vllm.attention.backends.abstract import AttentionMetadata
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

logger = init_logger("vllm.yuanrong")

__all__ = ["YuanRongConnector", "YuanRongMetadata", "check_engine", "namespace_of"]


@dataclass
class YuanRongMetadata(KVConnectorMetadata):  # type: ignore[misc]
    """One step's plan, as vLLM carries it to the workers."""

    plan: StepPlan


class YuanRongConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """Keeps KV blocks in the openYuanrong DataSystem, shared by all engines of a namespace.

    Args:
        vllm_config: vLLM's configuration; settings are in ``kv_transfer_config.kv_connector_extra_config``.
        role: Scheduler or worker.

    Raises:
        ConfigError: A setting is wrong, or the engine is set up in a way that cannot work.
    """

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole) -> None:
        super().__init__(vllm_config, role)
        transfer = vllm_config.kv_transfer_config
        self._config = ConnectorConfig.from_extra(transfer.kv_connector_extra_config or {}, transfer.kv_role)
        check_engine(vllm_config, self._config)
        self._mla = bool(vllm_config.model_config.use_mla)
        self._metrics = make_metrics(self._config.metrics)
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._adapters = Adapters(str(getattr(vllm_config.lora_config, "lora_dtype", "")))
        self._space: Namespace | None = None
        self._announcer: Announcer | None = None
        if role is KVConnectorRole.SCHEDULER:
            self._scheduler = self._make_scheduler(vllm_config)
        else:
            loading_begins(vllm_config)
            self._worker = self._make_worker(vllm_config)

    # -- worker side ---------------------------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Learn where the KV blocks are and connect to the DataSystem.

        Raises:
            LayoutError: The caches cannot be moved block by block.
        """
        assert self._worker is not None  # noqa: S101 - vLLM calls this on workers
        layout = KVLayout.from_caches(kv_caches, mla=self._mla)
        kind = resolve_kind(self._config, layout.device_type)
        logger.info(
            "%d KV blocks of %d bytes on %s, transport %s, DataSystem worker %s",
            layout.num_blocks, layout.block_bytes, layout.device_type, kind, self._config.worker_address,
        )  # fmt: skip
        transport = self._connected(kind, layout, self._config.request_timeout_ms)
        try_out(transport, kind, 2 * self._config.request_timeout_ms / 1000)
        self._worker.attach(layout, transport)

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        """Begin the step's loads; see :meth:`.worker.WorkerSide.start`."""
        assert self._worker is not None  # noqa: S101 - vLLM calls this on workers
        self._worker.start(self._plan())

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Do nothing: loads end before a request is scheduled."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: AttentionMetadata, **kwargs: Any
    ) -> None:
        """Do nothing: whole blocks are saved after the forward pass."""

    def wait_for_save(self) -> None:
        """Begin the step's saves; see :meth:`.worker.WorkerSide.save`."""
        assert self._worker is not None  # noqa: S101 - vLLM calls this on workers
        self._worker.save(self._plan())

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Report drained requests and ended loads; see :meth:`.worker.WorkerSide.collect`."""
        assert self._worker is not None  # noqa: S101 - vLLM calls this on workers
        sending, recving = self._worker.collect()
        return sending or None, recving or None

    # -- scheduler side ------------------------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int, bool]:
        """Return how many tokens can be loaded, always asynchronously."""
        assert self._scheduler is not None  # noqa: S101 - vLLM calls this on the scheduler
        found = self._scheduler.match(request, num_computed_tokens)
        return found, found > 0

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        """Queue a load if one was claimed."""
        assert self._scheduler is not None  # noqa: S101 - vLLM calls this on the scheduler
        self._scheduler.allocated(request, list(blocks.get_block_ids()[0]), num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """Return the step's plan for the workers."""
        assert self._scheduler is not None  # noqa: S101 - vLLM calls this on the scheduler
        return YuanRongMetadata(self._scheduler.plan(scheduler_output))

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Forget a request; its blocks are kept only while an aborted load may still write to them."""
        assert self._scheduler is not None  # noqa: S101 - vLLM calls this on the scheduler
        return self._scheduler.finished(request), None

    # -- called by KVLoadRecoveryMixin ---------------------------------------------------------------------------------

    def admit(self, waiting: Iterable[Request]) -> list[Request]:
        """Look up what waits for the first time; return what has to wait for the next step."""
        assert self._scheduler is not None  # noqa: S101 - the mix-in is a scheduler
        return self._scheduler.admit(waiting)

    def request_of(self, load_id: str) -> Request | None:
        """Return the request whose load goes by this name."""
        assert self._scheduler is not None  # noqa: S101 - the mix-in is a scheduler
        return self._scheduler.request_of(load_id)

    def draining(self, request: Request) -> bool:
        """Whether a finished request's load may still be writing."""
        assert self._scheduler is not None  # noqa: S101 - the mix-in is a scheduler
        return self._scheduler.draining(request)

    def awaits_drains(self) -> bool:
        """Whether it is worth looking for the end of a drain."""
        assert self._scheduler is not None  # noqa: S101 - the mix-in is a scheduler
        return self._scheduler.awaits_drains()

    def load_finished(self, request_id: str, ok: bool, late: bool) -> None:
        """A load has ended on all ranks."""
        assert self._scheduler is not None  # noqa: S101 - the mix-in is a scheduler
        self._scheduler.load_finished(request_id, ok, late)

    def load_discarded(self, request_id: str) -> None:
        """A loaded request's blocks were given up."""
        assert self._scheduler is not None  # noqa: S101 - the mix-in is a scheduler
        self._scheduler.load_discarded(request_id)

    def drained(self, load_id: str) -> None:
        """An aborted request's blocks are not written to any more."""
        assert self._scheduler is not None  # noqa: S101 - the mix-in is a scheduler
        self._scheduler.drained(load_id)

    def reset_cache(self) -> bool:
        """Make everything that was stored so far unreachable for this engine; other engines keep it.

        vLLM's prefix cache is reset when weights were changed in place, which the engine does not tell of in any other
        way. From here on its blocks have names under a random epoch: nothing from before is loaded, and nobody loads
        what the new weights compute. A restart ends it, since weights are then read from files.

        Returns:
            Whether anything was forgotten; False with ``reset_forgets`` off.
        """
        assert self._scheduler is not None and self._space is not None  # noqa: S101, PT018 - the mix-in is a scheduler
        if not self._config.reset_forgets:
            return False
        self._space = replace(self._space, epoch=uuid.uuid4().hex)
        self._scheduler.renamed(self._space.digest())
        if self._announcer is not None:
            self._announcer.rename(self._space)
        logger.warning(
            "The prefix cache was reset: this engine loads no KV blocks that were stored before, and shares its own "
            "with no other engine until it is started again (namespace %s)", self._space.digest()[:8].hex(),
        )  # fmt: skip
        return True

    # -- construction --------------------------------------------------------------------------------------------------

    def _plan(self) -> StepPlan:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, YuanRongMetadata)  # noqa: S101 - built above
        return metadata.plan

    def _make_scheduler(self, vllm_config: VllmConfig) -> SchedulerSide:
        from vllm.platforms import current_platform

        kind = resolve_kind(self._config, current_platform.device_type)
        size = vllm_config.parallel_config.tensor_parallel_size
        ranks = 1 if self._mla else size
        space = self._space = namespace_of(vllm_config, self._config, current_platform.device_type)
        if vllm_config.lora_config is not None:
            from vllm.v1.engine.core import EngineCore

            watch_loads(EngineCore, adapters_of)
        if self._config.worker_resource_log:
            done = threading.Event()
            weakref.finalize(self, done.set)  # vLLM tells a connector nothing when it drops it
            TierWatch(Path(self._config.worker_resource_log), self._metrics, done.wait).start()
        logger.info("KV namespace %s of role %s", space.digest()[:8].hex(), self._config.role)
        if self._config.announce:
            self._announcer = Announcer(space, self._config.role, exchange_by_process(self._config, reachable))
            weakref.finalize(self, self._announcer.close)
            self._announcer.start()
        return SchedulerSide(
            self._config,
            space.digest(),
            space.block_size,
            tuple(shard_name(rank, size, shared=self._mla) for rank in range(ranks)),
            self._connected(kind, None, self._config.lookup_timeout_ms),
            self._metrics,
            adapters=self._adapters,
        )

    def _make_worker(self, vllm_config: VllmConfig) -> WorkerSide:
        from vllm.distributed.parallel_state import get_tp_group

        group = get_tp_group()

        def agree(states: list[tuple[bool, bool]]) -> list[tuple[bool, bool]]:
            import torch

            flags = torch.tensor(states, dtype=torch.int32)
            torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MIN, group=group.cpu_group)
            return [(bool(ended), bool(ok)) for ended, ok in flags.tolist()]

        return WorkerSide(
            self._config,
            group.rank_in_group,
            group.world_size,
            shared=self._mla,
            metrics=self._metrics,
            agree=agree,
        )

    def _connected(self, kind: str, layout: KVLayout | None, timeout_ms: int) -> Transport:
        config = self._config  # not self: a thread that probes would keep a dropped connector alive
        breaker = BreakingTransport(
            lambda: connect(config, kind, layout, timeout_ms),
            lambda: probe(config, reachable),
            config.probe_interval_ms / 1000,
            config.breaker_failures,
            self._metrics.breaker,
        )
        weakref.finalize(self, breaker.close).atexit = False
        breaker.start()
        return breaker


def adapters_of(engine_core: Any) -> Adapters | None:
    """Return the adapters of an ``EngineCore``, None if it has another connector."""
    connector = getattr(getattr(engine_core, "scheduler", None), "connector", None)
    return connector._adapters if isinstance(connector, YuanRongConnector) else None


def check_engine(vllm_config: VllmConfig, config: ConnectorConfig) -> None:
    """Refuse set-ups in which this connector would be wrong.

    Raises:
        ConfigError: With what to change.
    """
    parallel = vllm_config.parallel_config
    if parallel.pipeline_parallel_size > 1:
        raise ConfigError("YuanRongConnector does not support pipeline parallelism; use --pipeline-parallel-size 1")
    if getattr(parallel, "decode_context_parallel_size", 1) > 1:  # a block then has the tokens of several
        raise ConfigError(
            "YuanRongConnector does not support decode context parallelism; use --decode-context-parallel-size 1"
        )
    if getattr(vllm_config.cache_config, "calculate_kv_scales", False):
        raise ConfigError(
            "YuanRongConnector cannot share blocks whose scales follow from an engine's first request; "
            "remove --calculate-kv-scales"
        )
    if not config.load:
        return
    scheduler = vllm_config.scheduler_config
    if getattr(scheduler, "async_scheduling", False):
        raise ConfigError("YuanRongConnector cannot load with --async-scheduling; remove that flag")
    speculative = vllm_config.speculative_config
    if speculative is not None and speculative.use_eagle():
        raise ConfigError(
            "YuanRongConnector cannot load with EAGLE: vLLM counts look-ahead blocks as loaded; "
            "remove it, or set kv_connector_extra_config.load to false"
        )
    if not getattr(_resolve(scheduler.scheduler_cls), "recovers_failed_kv_loads", False):
        raise ConfigError(
            "YuanRongConnector loads KV blocks, and this engine's scheduler cannot recover from a failed load: add "
            "--scheduler-cls vllm_ascend.distributed.yuanrong.recovery.RecoveringScheduler (or "
            "RecoveringAscendScheduler), or set kv_connector_extra_config.load to false to save only"
        )


def _resolve(scheduler_cls: Any) -> Any:
    if not isinstance(scheduler_cls, str):
        return scheduler_cls
    from vllm.utils import resolve_obj_by_qualname

    return resolve_obj_by_qualname(scheduler_cls)
