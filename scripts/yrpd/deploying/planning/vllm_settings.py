"""Environment and options of a P or D. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from yrpd.deploying.inventory import Host, Instance, Inventory
from yrpd.deploying.planning.placement import bound_cores
from yrpd.deploying.planning.private_files import key_variables
from yrpd.documents.image_record import ImageRecord
from yrpd.serving import command_lines

CPU_ENVIRONMENT: Mapping[str, str] = {
    # Without it vLLM would load the Ascend platform plugin, which needs an NPU.
    "VLLM_PLUGINS": "",
    "TORCHDYNAMO_DISABLE": "1",
}
NPU_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "HCCL_OP_EXPANSION_MODE": "AIV",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
}
VLLM_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_USE_V1": "1",
    # Nothing may be fetched while serving, and nothing reported home.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PROMETHEUS_MULTIPROC_DIR": command_lines.METRICS,
}


def environment(
    inventory: Inventory, image: ImageRecord, host: Host, instance: Instance, devices: tuple[int, ...], cores: int
) -> tuple[tuple[str, str], ...]:
    """Return the environment variables of a P or D, sorted.

    Args:
        inventory: What is wanted.
        image: What it runs.
        host: The instance's host.
        instance: Which one.
        devices: Its NPUs, by the host's numbers.
        cores: CPU cores of this machine; bounds the bindings of hosts whose engine is on this machine.
    """
    found = {**VLLM_ENVIRONMENT, "VLLM_HOST_IP": host.address}
    if image.flavour == "cpu":
        found |= CPU_ENVIRONMENT
        found["VLLM_CPU_KVCACHE_SPACE"] = str(inventory.containers.kvcache_gib)
        here = cores if host.engine.startswith("unix://") else 0
        if bound := bound_cores(instance.cores, here):
            found["VLLM_CPU_OMP_THREADS_BIND"] = bound
    else:
        found |= NPU_ENVIRONMENT
        found["HCCL_IF_IP"] = host.address
        # The driver numbers what a container has been given from 0; only a privileged one sees the host's numbers.
        # https://github.com/vllm-project/vllm-ascend/pull/16256, https://github.com/gpustack/gpustack/issues/3352
        seen = devices if inventory.containers.privileged else range(len(devices))
        found["ASCEND_RT_VISIBLE_DEVICES"] = ",".join(map(str, seen))
    found |= key_variables(inventory)
    return tuple(sorted({**found, **inventory.containers.environment, **instance.environment}.items()))


def options(inventory: Inventory, image: ImageRecord, instance: Instance, *, connected: bool) -> tuple[str, ...]:
    """Return the ``vllm serve`` options that the inventory sets, as words; the instance's own win over the model's.

    Args:
        inventory: What is wanted.
        image: What it runs.
        instance: Which one.
        connected: Whether it shares blocks, and so has the scheduler that the inventory names.
    """
    found = {**inventory.model.options, **instance.options}
    if connected and inventory.scheduler == "ascend" and image.flavour == "npu":
        # vllm-ascend takes its own scheduler's class from here, and not from --scheduler-cls.
        given, scheduler = found.get("additional-config", {}), command_lines.RECOVERING_SCHEDULERS["ascend"]
        chosen = {**given.get("ascend_scheduler_config", {}), "enabled": True, "scheduler_cls": scheduler}
        found["additional-config"] = {**given, "ascend_scheduler_config": chosen}
    return command_lines.option_words(found)


def adapter_folders(inventory: Inventory, instance: Instance, model: str) -> tuple[str, ...]:
    """Return the host's folders of the LoRA adapters that ``lora-modules`` names, but those in the model's folder.

    Args:
        inventory: What is wanted.
        instance: Which P or D.
        model: The model's folder inside of containers.
    """
    given = {**inventory.model.options, **instance.options}.get("lora-modules", [])
    paths = []
    for each in given if isinstance(given, list) else [given]:
        try:
            table = each if isinstance(each, dict) else json.loads(str(each))
            path = str(table["path"])
        except (ValueError, KeyError, TypeError):
            path = str(each).partition("=")[2]  # vLLM's short form, NAME=PATH
        if path.startswith("/") and not path.startswith(f"{model}/"):
            paths.append(path)
    return tuple(dict.fromkeys(paths))
