"""A host with Ascend NPUs as containers meet it, on a machine that has none: device nodes, driver files and tools.

The nodes are real character devices of consoles that nobody uses, so the permissions, Docker's device rules and a
device that one process keeps to itself are the kernel's own. Consoles are not among the devices that Docker lets every
container open, as the driver's are not. The tools ask the nodes that they find, and count from 0 what a container has
been given. What they print has the form of public threads, in words of our own:

- ``npu-smi info``: https://github.com/1Panel-dev/1Panel/issues/9472 (910B4) and
  https://github.com/vllm-project/vllm-ascend/issues/2534 (910C); where no node can be opened, -8005 as in
  https://github.com/Project-HAMi/ascend-device-plugin/issues/139
- ``hccn_tool``: the first line of ``-tls -g`` as in the HCCN Tool reference ("Querying the TLS Certificate Information
  of an NPU Device"); for ``-ip -g`` and ``-link -g`` the lines that the survey reads, without a record of a real answer

That ``npu-smi`` and ``hccn_tool`` count from 0, too, is taken from what the runtime does; nobody has seen it here.
``write_driver`` writes no driver library; ``write_host`` copies those that the caller has.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: Consoles, from the last one down: no machine has a login there.
CONSOLE_MAJOR = 4
LAST_CONSOLE = 63
MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")


@dataclass(frozen=True)
class Npu:
    """One NPU as its tools show it.

    Attributes:
        name: The chip.
        health: ``OK``, ``Warning``, ``Alarm`` or ``Critical``.
        used_mb: HBM in use, in MB of 65536.
        address: What it says its address is.
        link: ``UP`` or ``DOWN``.
        tls: Its TLS switch.
    """

    name: str = "910B3"
    health: str = "OK"
    used_mb: int = 3416
    address: str = "10.1.0.1"
    link: str = "UP"
    tls: int = 0


@contextmanager
def device_nodes(numbers: Sequence[int], *, group: int, mode: int = 0o660) -> Iterator[tuple[str, ...]]:
    """Make the nodes of some NPUs and of their driver, and take them away afterwards.

    Args:
        numbers: The NPUs.
        group: The nodes' owner and group; the driver's installation makes it HwHiAiUser.
        mode: Their permissions.

    Raises:
        FileExistsError: This machine has such a node, so it is no machine for a stand-in.
    """
    paths = [*(f"/dev/davinci{number}" for number in numbers), *MANAGERS]
    made: list[str] = []
    try:
        for minor, path in zip(range(LAST_CONSOLE, 0, -1), paths, strict=False):
            _make_node(Path(path), minor, group, mode)
            made.append(path)
        yield tuple(made)
    finally:
        for path in made:
            os.unlink(path)


def write_host(root: Path, npus: Sequence[Npu], libraries: Path, *, group: int, last_console: int) -> tuple[str, ...]:
    """Write what an Ascend host has beside its system: device nodes, the driver's files and tools, ``hccn.conf``.

    Args:
        root: What lies over the host's files, as ``invoke lab.up --overlay`` takes it; made here.
        npus: The host's NPUs.
        libraries: What the driver's ``lib64`` holds; copied.
        group: The device nodes' owner and group.
        last_console: Which console stands for the first NPU; the next ones count down, so that hosts have their own.

    Returns:
        ``driver_mounts`` of such a host: what its containers need, as paths on it.
    """
    driver, binaries, etc, dev = root / "usr/local/Ascend/driver", root / "usr/local/bin", root / "etc", root / "dev"
    for folder in (driver / "tools", binaries, etc, dev, root / "usr/local/dcmi"):
        folder.mkdir(parents=True)
    write_driver(driver, npus)
    (driver / "npu-smi").rename(binaries / "npu-smi")
    (driver / "hccn_tool").rename(driver / "tools" / "hccn_tool")
    (driver / "hccn.conf").rename(etc / "hccn.conf")
    (etc / "ascend_install.info").write_text(f"Driver_Install_Path_Param=/usr/local/Ascend\nUserGroup={group}\n")
    shutil.copytree(libraries, driver / "lib64")
    nodes = [*(f"davinci{number}" for number in range(len(npus))), *(Path(path).name for path in MANAGERS)]
    for at, name in enumerate(nodes):
        _make_node(dev / name, last_console - at, group, 0o660)
    inside = [f"Ascend/driver/{name}" for name in ("lib64", "version.info", "tools/hccn_tool")]
    places = [f"/usr/local/{place}" for place in ("bin/npu-smi", "dcmi", *inside)]
    return (*places, "/etc/ascend_install.info", "/etc/hccn.conf")


def _make_node(path: Path, minor: int, group: int, mode: int) -> None:
    os.mknod(path, stat.S_IFCHR | mode, os.makedev(CONSOLE_MAJOR, minor))
    os.chown(path, group, group)
    os.chmod(path, mode)


def write_driver(folder: Path, npus: Sequence[Npu], *, driver: str = "25.2.0", conf: str | None = None) -> None:
    """Write what the driver's installation leaves: the tools, ``version.info`` and ``hccn.conf``.

    Args:
        folder: Where to; made when it is not there.
        npus: The host's NPUs in the order of their nodes.
        driver: The driver's version.
        conf: ``hccn.conf``; that which fits the NPUs if not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fitting = "".join(f"address_{at}={npu.address}\nnetmask_{at}=255.255.255.0\n" for at, npu in enumerate(npus))
    (folder / "hccn.conf").write_text(fitting if conf is None else conf)
    (folder / "version.info").write_text(f"Version={driver}\n")
    _write_program(folder / "npu-smi", _NPU_SMI.format(driver=driver, rows=_rows(npus)))
    _write_program(folder / "hccn_tool", _HCCN_TOOL.format(answers=_answers(npus)))


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _rows(npus: Sequence[Npu]) -> str:
    return "\n".join(f"{at}) row {npu.name} {npu.health} {npu.used_mb} ;;" for at, npu in enumerate(npus))


def _answers(npus: Sequence[Npu]) -> str:
    return "\n".join(
        f'{at}-ip) printf "ipaddr:{npu.address}\\nnetmask:255.255.255.0\\n" ;;\n'
        f'{at}-link) echo "link status: {npu.link}" ;;\n'
        f'{at}-tls) echo "dev_id:{at}, tls switch[{npu.tls}](0:disable, 1:enable), tls alarm time threshold[60]days" ;;'
        for at, npu in enumerate(npus)
    )


_NPU_SMI = """#!/bin/sh
# The rows of the NPUs whose nodes this container has and may open, numbered from 0.
row() {{
    printf '| %-5s %-19s | %-13s | 88.2        30                0    / 0             |\\n' "$inside" "$1" "$2"
    printf '| 0                         | 0000:C1:00.0  | 0           0    / 0          %s / 65536         |\\n' "$3"
}}
inside=0
for node in /dev/davinci[0-9]*; do
    if ! (: <> "$node") 2>/dev/null; then
        echo "dcmi module initialize failed. ret is -8005"
        exit 1
    fi
done
echo "| npu-smi {driver}                   Version: {driver}                                               |"
for node in /dev/davinci[0-9]*; do
    case $inside in
{rows}
    esac
    inside=$((inside + 1))
done
"""

_HCCN_TOOL = """#!/bin/sh
# hccn_tool -i NPU -WHAT -g
case $2$3 in
{answers}
*) echo "the device does not exist"; exit 1 ;;
esac
"""
