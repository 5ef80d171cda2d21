"""Taking a lab away, whatever state it is in: by what is found, never by what was meant to be there.

The order matters: containers before engines, processes before mounts, mounts before folders. After each phase the
machine is looked at again, so a run that was cut short is finished by the next.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from requests.exceptions import RequestException
from tenacity import RetryError, Retrying, retry_if_not_result, stop_after_delay, wait_fixed

from workshop.lab import machine, processes
from workshop.lab.engine import engine_files
from workshop.lab.layout import NAMESPACES, Lab
from workshop.lab.observe import Observation, is_mounted, observe
from yrpd.docker.sdk import DockerClient, DockerException
from yrpd.errors import EnvironmentFailure
from yrpd.reporting import Reporter

ENGINE_GRACE_S = 20.0
OTHER_GRACE_S = 3.0
_SHIM_SOCKETS = Path("/run/containerd")


def describe(lab: Lab, seen: Observation) -> list[dict[str, Any]]:
    """Return what taking the lab away would do, in order."""
    doing: list[dict[str, Any]] = [{"what": f"{part}: remove its containers"} for part in sorted(seen.answering)]
    doing += [{"what": f"end process {p.pid}", "argv": list(p.argv)} for p in seen.processes]
    doing += [{"what": f"unmount {point}"} for point in reversed(seen.mounts)]
    doing += [{"what": f"remove interface {link.name}"} for link in seen.links.get("", ())]
    names = [*seen.namespaces, *seen.dead_names]
    doing += [{"what": f"remove network namespace {lab.namespace(part)}"} for part in sorted(names)]
    doing += [{"what": f"remove control group {path}"} for path in seen.cgroups]
    doing += [{"what": f"remove folder {path}"} for path in seen.folders]
    return doing


def sweep(lab: Lab, reporter: Reporter) -> None:
    """Take the lab away.

    Raises:
        EnvironmentFailure: Something of it stays; it is named.
    """
    seen = observe(lab)
    with reporter.step("remove the containers"):
        for part in sorted(seen.answering):
            _remove_containers(lab.folders(part).engine)
    with reporter.step("end the engines"):
        _end_processes(lab)
    with reporter.step("remove mounts, network and folders"):
        shim_sockets = _shim_sockets(lab, seen.parts)
        _unmount(lab)
        _remove_network(lab)
        _remove_cgroups(lab)
        for socket in shim_sockets:
            socket.unlink(missing_ok=True)
        _remove_machine_folders(seen.record.absent if seen.record else ())
        _remove_folders(lab)


def _remove_containers(engine: str) -> None:
    # An engine that dies meanwhile is no failure: its processes are ended next, and its folders go with all in them.
    with suppress(DockerException, RequestException):
        client = DockerClient(base_url=engine, timeout=60)
        try:
            for container in client.containers.list(all=True, ignore_removed=True):
                with suppress(DockerException, RequestException):
                    container.remove(force=True, v=True)
        finally:
            client.close()


def _end_processes(lab: Lab) -> None:
    """End dockerd first, which ends what it supervises in good order; then containerd; then whatever is left."""
    for program, grace_s in (("dockerd", ENGINE_GRACE_S), ("containerd", OTHER_GRACE_S)):
        seen = observe(lab)
        configurations = [engine_files(lab.folders(part)) for part in seen.parts]
        files = [files.dockerd if program == "dockerd" else files.containerd for files in configurations]
        chosen = [p for p in seen.processes if any(p.runs(program, file) for file in files)]
        processes.end(chosen, grace_s)
    for _ in range(3):  # a process may have started another one between being seen and being ended
        left = observe(lab).processes
        if not left:
            return
        processes.end(left, OTHER_GRACE_S)
    left = observe(lab).processes
    if left:
        raise _stays("processes", [f"{p.pid} ({' '.join(p.argv)[:60]})" for p in left])


def _shim_sockets(lab: Lab, parts: Iterable[str]) -> list[Path]:
    """Return sockets of shims that died without removing them; containerd puts those outside of its own folder."""
    found = []
    for part in parts:
        for address in lab.folders(part).containerd_state.glob("io.containerd.runtime.v2.task/*/*/address"):
            socket = Path(address.read_text(encoding="utf-8").removeprefix("unix://"))
            if socket.is_relative_to(_SHIM_SOCKETS):
                found.append(socket)
    return found


def _unmount(lab: Lab) -> None:
    for point in reversed(observe(lab).mounts):
        with suppress(EnvironmentFailure):  # what stays mounted is found, and named, below
            machine.run(("umount", str(point)))
    for point in reversed(observe(lab).mounts):
        machine.run(("umount", "--lazy", str(point)))
    left = observe(lab).mounts
    if left:
        raise _stays("mounts", map(str, left))


def _remove_network(lab: Lab) -> None:
    seen = observe(lab)
    if seen.link("", lab.interface) is not None:
        machine.run(("ip", "link", "delete", lab.interface))
    for part in (*seen.namespaces, *seen.dead_names):
        machine.run(("ip", "netns", "delete", lab.namespace(part)))


def _remove_cgroups(lab: Lab) -> None:
    """Remove control groups once the kernel has let go of the processes that ended in them."""

    def remove() -> bool:
        for path in observe(lab).cgroups:
            with suppress(OSError):
                path.rmdir()
        return not observe(lab).cgroups

    try:
        Retrying(stop=stop_after_delay(10), wait=wait_fixed(0.1), retry=retry_if_not_result(bool))(remove)
    except RetryError:
        raise _stays("control groups", map(str, observe(lab).cgroups)) from None


def _remove_machine_folders(made: Iterable[Path]) -> None:
    """Remove folders of the machine that were not there before the lab was and that hold nothing now."""
    for folder in made:
        if not folder.is_dir() or folder.is_symlink():
            continue
        if folder == NAMESPACES and not any(folder.iterdir()) and is_mounted(folder):
            machine.run(("umount", str(folder)))
        for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
            with suppress(OSError):
                path.rmdir()
        with suppress(OSError):
            folder.rmdir()


def _remove_folders(lab: Lab) -> None:
    # Nothing is mounted below any more (else we would not be here), so this cannot reach into anything else. The record
    # is the last to go: as long as anything else is left, it tells whose it is.
    _remove_tree(lab.data)
    if lab.run.is_dir():
        for entry in lab.run.iterdir():
            if entry != lab.record_file:
                _remove_tree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        _remove_tree(lab.run)


def _remove_tree(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _stays("folders", [f"{folder} ({error})"]) from error


def _stays(kind: str, names: Iterable[str]) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"The lab is not fully removed, these {kind} stay: {', '.join(names)}.", next_command="invoke lab.down"
    )
