"""What of a host's NPUs stands in the way of P and D. Pure; the survey has looked with their rights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from yrpd.deploying.preflight.findings import Finding

REFUSED = ("EACCES", "EPERM")


def node_findings(host: str, nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield findings for device nodes that P and D could not open.

    Args:
        host: Where.
        nodes: Device node to ``{why, gid, mode}``: why it cannot be opened for reading and writing, empty when it can;
            the number of its group; its permissions.
    """
    refused = {node: found for node, found in nodes.items() if found["why"] in REFUSED}
    if refused:
        groups = sorted({int(found["gid"]) for found in refused.values()})
        node, found = next(iter(refused.items()))
        yield Finding(
            "device-permission",
            host,
            f"P and D may not open {node}{f' and {len(refused) - 1} more' if refused.keys() - {node} else ''}: "
            f"mode {int(found['mode']):04o}, group {found['gid']}",
            f"device_groups = {groups}  # of {host}, in the inventory",
        )
    for node, found in nodes.items():
        if found["why"] == "EBUSY":
            yield Finding(
                "npu-busy",
                host,
                f"{node} is in use by another process or container",
                f"npu-smi info  # on {host}, shows who; end it, or take the NPU out of devices in the inventory",
            )
        elif found["why"] and found["why"] not in REFUSED:
            yield Finding(
                "device", host, f"{node} cannot be opened: {found['why']}", f"ls -ln {node}; npu-smi info  # on {host}"
            )


def hccn_findings(host: str, conf: str | None, told: Mapping[str, str | None]) -> Iterator[Finding]:
    """Yield warnings when what the NPUs say of their network and ``/etc/hccn.conf`` do not fit.

    Blocks go to host memory and between hosts by TCP, so nothing here depends on it; HCCL between servers does. Cards
    without a network of their own have neither addresses nor such a file, which is no finding.

    Args:
        host: Where.
        conf: ``/etc/hccn.conf`` as containers see it; ``None`` when they do not.
        told: NPU to the address that ``hccn_tool`` reports; ``None`` when it cannot be asked.
    """
    if conf is None:
        if any(told.values()):
            yield Finding(
                "hccn-conf",
                host,
                "its NPUs have a network, and containers do not see /etc/hccn.conf; HCCL between servers needs it",
                'add "/etc/hccn.conf" to driver_mounts in the inventory',
                "warning",
            )
        return
    written = dict(line.split("=", 1) for line in conf.split() if "=" in line)
    for number, address in told.items():
        wanted = written.get(f"address_{number}")
        if address is None and wanted:
            yield Finding(
                "hccn-tool",
                host,
                f"hccn_tool does not say which address NPU {number} has",
                'add "/usr/local/Ascend/driver/tools/hccn_tool" to driver_mounts in the inventory',
                "warning",
            )
        elif wanted != address:
            yield Finding(
                "hccn-differs",
                host,
                f"/etc/hccn.conf gives NPU {number} the address {wanted}, the NPU has {address}",
                f"hccn_tool -i {number} -ip -s address {wanted or 'ADDRESS'} netmask MASK  # on {host}",
                "warning",
            )
