"""Which NPUs and cores each instance gets. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from yrpd.deploying.inventory import Inventory
from yrpd.errors import ConfigurationError

Assignment = Mapping[tuple[str, int], tuple[int, ...]]


def assign_devices(inventory: Inventory) -> dict[tuple[str, int], tuple[int, ...]]:
    """Give every instance the NPUs that it names, or the next free ones of its host, in the file's order.

    Returns:
        ``(role, index)`` to device numbers.

    Raises:
        ConfigurationError: A host has too few.
    """
    named = {(each.host, number) for _, _, each in inventory.instances() for number in each.devices}
    free = {
        host.name: [number for number in host.devices if (host.name, number) not in named] for host in inventory.hosts
    }
    assigned: dict[tuple[str, int], tuple[int, ...]] = {}
    for role, index, instance in inventory.instances():
        if instance.devices:
            assigned[(role, index)] = instance.devices
            continue
        available = free[instance.host]
        if len(available) < instance.npus:
            raise ConfigurationError(
                f"{role}.{index} needs {instance.npus} NPU(s) on {instance.host}, which has {len(available)} left of "
                f"{len(inventory.host(instance.host).devices)}.",
                next_command="list the host's devices in the inventory, or use --flavour cpu",
            )
        assigned[(role, index)] = tuple(available[: instance.npus])
        free[instance.host] = available[instance.npus :]
    return assigned


def spare_devices(inventory: Inventory) -> dict[str, list[int]]:
    """Return the NPUs of each host that no instance uses."""
    used: dict[str, set[int]] = {host.name: set() for host in inventory.hosts}
    hosts: dict[tuple[str, int], str] = {(role, index): each.host for role, index, each in inventory.instances()}
    for key, devices in assign_devices(inventory).items():
        used[hosts[key]] |= set(devices)
    return {host.name: [each for each in host.devices if each not in used[host.name]] for host in inventory.hosts}


def demand_one_rank_each(inventory: Inventory) -> None:
    """Refuse what the CPU back end cannot do.

    Raises:
        ConfigurationError: An instance has more than one rank.
    """
    for role, index, instance in inventory.instances():
        if instance.npus > 1 or instance.expert_parallel:
            raise ConfigurationError(
                f"{role}.{index} has tensor_parallel {instance.tensor_parallel}, data_parallel "
                f"{instance.data_parallel}, expert_parallel {str(instance.expert_parallel).lower()}: the cpu flavour "
                "serves with the connector at one rank an instance only.",
                next_command="list more instances, or use --flavour npu",
            )


def reference_host(inventory: Inventory, flavour: str) -> str:
    """Return the host that has room for a plain vLLM beside the deployment; the last one that serves is preferred.

    Raises:
        ConfigurationError: It would need NPUs, and no host has enough to spare.
    """
    serving = [host.name for host in reversed(inventory.serving_hosts())]
    if flavour == "cpu":
        return serving[0]
    wanted = inventory.decode[-1].tensor_parallel
    spare = spare_devices(inventory)
    for name in serving:
        if len(spare[name]) >= wanted:
            return name
    raise ConfigurationError(
        f"Verification compares with a plain vLLM, which needs {wanted} NPU(s) "
        "that no instance uses; no host has them.",
        next_command="invoke deploy.verify --in-turn   (the last D stops while plain vLLM answers)",
    )


def bound_cores(cores: str, available: int) -> str:
    """Return a core list with the numbers that the machine does not have wrapped around.

    Args:
        cores: Such as ``1`` or ``0-3,8``.
        available: How many cores there are.
    """
    if not cores or available < 1:
        return cores
    numbers: list[int] = []
    for part in cores.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    if all(number < available for number in numbers):
        return cores
    return ",".join(map(str, dict.fromkeys(number % available for number in numbers)))
