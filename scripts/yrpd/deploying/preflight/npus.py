"""What of a host's NPUs stands in the way of P and D. Pure; the survey has looked with their rights.

``npu-smi info`` is a table for people, two lines a chip. Its form is that of public threads, such as
https://github.com/1Panel-dev/1Panel/issues/9472 (910B4, npu-smi 24.1.1) and
https://github.com/vllm-project/vllm-ascend/issues/2534 (910C, whose NPUs have two chips and a column Phy-ID).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yrpd.deploying.preflight.findings import Finding

REFUSED = ("EACCES", "EPERM")
#: What the images are made for: `soc_version` of release.toml. An A3's chips are called Ascend910.
CHIP = "910B"
#: The first driver that CANN 8.2.RC1 is published for.
DRIVER = (25, 0)
#: An idle NPU holds a few GB for itself (3416 of 65536 MB in vllm-ascend#2534).
USED_SHARE = 0.2
#: Ports that HCCL takes for its ranks unless HCCL_IF_BASE_PORT says otherwise.
HCCL_PORTS = range(60000, 60016)

_VERSION = re.compile(r"npu-smi\s+\S+\s+Version:\s*(?P<version>\S+)")
_CHIP = re.compile(r"^\|\s*(?P<npu>\d+)\s+(?P<name>\S*[A-Za-z]\S*)\s*\|\s*(?P<health>\w+)\s*\|")
_MEMORY = re.compile(r"(?P<used>\d+)\s*/\s*(?P<total>\d+)\s*\|\s*$")


@dataclass(frozen=True)
class Chip:
    """A chip as ``npu-smi info`` shows it.

    Attributes:
        npu: The NPU's number.
        name: Such as ``910B4``.
        health: ``OK``, ``Warning``, ``Alarm``, ``Critical`` or ``UNKNOWN``.
        used_mb: HBM in use, in MB.
        total_mb: HBM, in MB.
    """

    npu: int
    name: str
    health: str
    used_mb: int
    total_mb: int


def read_npu_smi(text: str) -> tuple[str, tuple[Chip, ...]]:
    """Return the driver's version, empty when it is not there, and the chips."""
    version = _VERSION.search(text)
    chips: list[Chip] = []
    for line, following in itertools.pairwise(text.splitlines()):
        chip, memory = _CHIP.match(line), _MEMORY.search(following)
        if chip and memory:
            found = int(memory["used"]), int(memory["total"])
            chips.append(Chip(int(chip["npu"]), chip["name"], chip["health"], *found))
    return version["version"] if version else "", tuple(chips)


def smi_findings(host: str, text: str | None) -> Iterator[Finding]:
    """Yield findings from what ``npu-smi info`` says.

    Args:
        host: Where.
        text: What it printed; ``None`` when it could not be run.
    """
    version, chips = read_npu_smi(text or "")
    if not chips:
        yield Finding(
            "npu-smi",
            host,
            "npu-smi shows no NPU inside a container",
            "npu-smi info  # on " + host + "; and /usr/local/bin/npu-smi in driver_mounts",
            "warning",
        )
        return
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and tuple(map(int, numbers.groups())) < DRIVER:
        told = f"its NPU driver is {version}; CANN 8.2.RC1 is published for {'.'.join(map(str, DRIVER))} and later"
        yield Finding("driver-version", host, told, f"install a newer Ascend HDK driver on {host}", "warning")
    for chip in chips:
        if CHIP not in chip.name.upper():
            told = f"NPU {chip.npu} is {chip.name}; the image's kernels are for {CHIP} (Atlas A2)"
            yield Finding("npu-chip", host, told, "use hosts with Atlas A2, or an own base image: docs/image.md")
        if chip.health.upper() != "OK":
            yield Finding(
                "npu-health",
                host,
                f"NPU {chip.npu} reports {chip.health}",
                f"npu-smi info -t health -i {chip.npu}  # on {host}",
                "warning" if chip.health == "Warning" else "error",
            )
        if chip.used_mb > USED_SHARE * chip.total_mb:
            told = f"{chip.used_mb} of {chip.total_mb} MB of NPU {chip.npu} are in use already"
            yield Finding("npu-memory", host, told, f"npu-smi info  # on {host}, shows by whom", "warning")


def plugin_findings(host: str, problem: str | None) -> Iterator[Finding]:
    """Yield a warning when the DataSystem's device plugin does not load: no KV block travels, and answers stay right.

    Args:
        host: Where.
        problem: What the loader said; empty when it loaded.
    """
    if problem:
        told = f"the DataSystem's device plugin does not load, so no KV block will travel: {problem}"
        yield Finding(
            "datasystem-plugin", host, told, "docs/connector.md, 'Which DataSystem for which CANN'", "warning"
        )


def hccl_findings(host: str, busy: Sequence[int]) -> Iterator[Finding]:
    """Yield a warning when ports are taken that HCCL wants for ranks of one instance.

    Args:
        host: Where.
        busy: Those of `HCCL_PORTS` that cannot be listened on.
    """
    if busy:
        yield Finding(
            "hccl-port",
            host,
            f"port {busy[0]}{f' and {len(busy) - 1} more' if len(busy) > 1 else ''}, which HCCL takes, "
            f"{'are' if len(busy) > 1 else 'is'} in use",
            "HCCL_IF_BASE_PORT in the environment of each instance; or sysctl "
            f"net.ipv4.ip_local_reserved_ports={HCCL_PORTS.start}-{HCCL_PORTS.stop - 1}  # on {host}",
            "warning",
        )


def link_findings(host: str, links: Mapping[str, Mapping[str, str | None]]) -> Iterator[Finding]:
    """Yield warnings for NPUs whose network is down, or whose TLS switch is not that of the others.

    Args:
        host: Where.
        links: NPU to what ``hccn_tool`` says of its ``link`` and its ``tls`` switch; ``None`` where it cannot be asked.
    """
    for number, told in links.items():
        if told.get("link") and str(told["link"]).upper() != "UP":
            yield Finding(
                "npu-link",
                host,
                f"the network of NPU {number} is {told['link']}",
                f"hccn_tool -i {number} -link -g  # on {host}; look at its cable and switch",
                "warning",
            )
    switches = {number: told["tls"] for number, told in links.items() if told.get("tls")}
    if len(set(switches.values())) > 1:
        yield Finding(
            "npu-tls",
            host,
            "its NPUs do not agree on TLS: " + ", ".join(f"NPU {number} {tls}" for number, tls in switches.items()),
            f"for i in {' '.join(switches)}; do hccn_tool -i $i -tls -s enable 0; done  # on {host}",
            "warning",
        )


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
        told = (
            f"P and D may not open {node}{f' and {len(refused) - 1} more' if refused.keys() - {node} else ''}: "
            f"mode {int(found['mode']):04o}, group {found['gid']}"
        )
        yield Finding("device-permission", host, told, f"device_groups = {groups}  # of {host}, in the inventory")
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
            problem = "its NPUs have a network, and containers do not see /etc/hccn.conf; HCCL between servers needs it"
            yield Finding(
                "hccn-conf", host, problem, 'add "/etc/hccn.conf" to driver_mounts in the inventory', "warning"
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
