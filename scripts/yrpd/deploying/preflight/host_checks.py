"""Findings that only a look from inside a container brings: files, ports, clocks, and the ways between hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from yrpd.deploying.inventory import Host
from yrpd.deploying.preflight import findings, npus
from yrpd.deploying.preflight import host_survey as surveying
from yrpd.deploying.preflight.findings import Finding
from yrpd.deploying.preflight.host_survey import Survey
from yrpd.deploying.preflight.situation import Situation, held_ports, starting
from yrpd.deploying.spec import ContainerSpec
from yrpd.errors import EnvironmentFailure

MEBI = 1 << 20
DISK_RESERVE_BYTES = 1 << 30  # logs and writable layers


def inspect_inside(situation: Situation, hosts: Sequence[Host]) -> list[Finding]:
    """Return what stands in the way on hosts that have the image.

    Args:
        situation: What is wanted.
        hosts: Those to look at.
    """
    specs = {host.name: wanted for host, wanted in starting(situation) if host in hosts}
    looked = [host for host in hosts if host.name in specs]
    if not looked:
        return []
    held = {host.name: held_ports(situation, host) for host in looked}
    model = f"/models/{situation.folder.rstrip('/').rsplit('/', 1)[-1]}"
    asked = [
        (
            host,
            specs[host.name],
            [port for spec in specs[host.name] for port in spec.ports if port not in held[host.name]],
        )
        for host in looked
    ]
    found: list[Finding] = []
    surveys: list[Survey] = []
    for host, survey in zip(
        looked, surveying.look_at_all(situation.clients, asked, situation.image.id, model), strict=True
    ):
        if isinstance(survey, EnvironmentFailure):
            found.append(Finding("survey", host.name, survey.message.rstrip("."), f"docker -H {host.engine} info"))
        else:
            surveys.append(survey)
            found += _of_host(situation, host, survey, specs[host.name])
    # A host that starts the endpoint alone is looked at without the model.
    sees = {name for name, each in specs.items() if any(mount.target == model for one in each for mount in one.mounts)}
    files = {survey.host: survey.report["files"] for survey in surveys if survey.host in sees}
    found += findings.different_models(situation.folder, files)
    if all(each.severity == "warning" for each in found) and len(looked) > 1 and not any(held.values()):
        found += _ways(situation, looked, specs)
    return found


def _of_host(situation: Situation, host: Host, survey: Survey, specs: Sequence[ContainerSpec]) -> Iterator[Finding]:
    report = survey.report
    yield from findings.clock_findings(host.name, float(report["time"]), survey.before, survey.after)
    for port, why in report["busy_ports"].items():
        reason = "its address is not one of this host" if why == "EADDRNOTAVAIL" else "something listens there"
        yield Finding(
            "address" if why == "EADDRNOTAVAIL" else "port-in-use",
            host.name,
            f"port {port} of {host.address} cannot be listened on: {reason}",
            f"ss -ltnp 'sport = :{port}'  # on {host.name}; or correct the inventory",
        )
    if report["files"]:
        fix = f"copy the model's folder to {host.name} again"
        yield from findings.incomplete_model(host.name, situation.folder, report["files"], report["index"], fix)
    if int(report["disk_free"]) < DISK_RESERVE_BYTES:
        told = (
            f"containers have {int(report['disk_free']) // MEBI} MiB of disk left, {DISK_RESERVE_BYTES // MEBI} needed"
        )
        yield Finding("disk", host.name, told, f"docker -H {host.engine} system df")
    spill = situation.inventory.datasystem.spill
    if spill and report["spill_free"] is not None and int(report["spill_free"]) < spill.size_mb * MEBI:
        told = f"{spill.directory} has {int(report['spill_free']) // MEBI} MiB free of the {spill.size_mb} MiB to spill"
        yield Finding(
            "spill", host.name, told, "lower datasystem.spill.size_mb in the inventory, or name another directory"
        )
    pool = situation.inventory.datasystem.memory_mb
    starts_worker = any(spec.role == "worker" for spec in specs)
    if starts_worker:
        yield from findings.page_findings(host.name, int(report["page_bytes"]))
    if starts_worker and int(report["memory_available"]) < pool * MEBI:
        yield Finding(
            "memory-in-use",
            host.name,
            f"{int(report['memory_available']) // MEBI} MiB of memory are free, the pool may grow to {pool} MiB",
            "free memory there, or lower datasystem.memory_mb in the inventory",
            "warning",
        )
    if any(spec.devices for spec in specs):
        yield from npus.node_findings(host.name, report["nodes"])
        yield from npus.smi_findings(host.name, report["npu_smi"])
        yield from npus.plugin_findings(host.name, report["plugin"])
        yield from npus.hccl_findings(host.name, report["hccl_busy"])
        yield from npus.hccn_findings(host.name, report["hccn"], report["hccn_tool"])
        yield from npus.link_findings(host.name, report["links"])


def _ways(situation: Situation, hosts: Sequence[Host], specs: Mapping[str, list[ContainerSpec]]) -> Iterator[Finding]:
    inventory = situation.inventory
    serving = {host.name for host in inventory.serving_hosts()}
    if not serving <= {host.name for host in hosts}:
        return
    try:
        ways = surveying.try_ways(situation.clients, hosts, situation.image.id, specs, needed(situation, hosts))
    except EnvironmentFailure as error:
        yield Finding("ways", hosts[0].name, error.message.rstrip("."), "invoke deploy --dry-run")
        return
    for host, unreachable in ways.items():
        for address, port, why in unreachable:
            problem = f"it cannot reach {address}:{port}: {why}"
            yield Finding("unreachable", host, problem, f"open port {port} between the hosts")


def needed(situation: Situation, hosts: Sequence[Host]) -> dict[str, list[tuple[str, int]]]:
    """Return what each host will connect to on others: etcd, all workers, the endpoint P and D, and D the endpoint."""
    inventory = situation.inventory
    by_name = {host.name: host for host in hosts}
    etcd, router = by_name.get(inventory.etcd.host), inventory.router.host
    by_yr = inventory.datasystem.started_by == "yr"
    master = [(etcd.address, inventory.datasystem.master_port)] if etcd and by_yr else []
    workers = [(host.address, inventory.datasystem.port) for host in inventory.serving_hosts()]
    wanted: dict[str, list[tuple[str, int]]] = {}
    for host in hosts:
        targets = [(etcd.address, inventory.etcd.port)] if etcd else []
        targets += [*master, *workers]
        if host.name == router:
            targets += [
                (by_name[each.host].address, each.port) for _, _, each in inventory.instances() if each.host in by_name
            ]
        elif router in by_name and any(each.host == host.name for each in inventory.decode):
            targets.append((by_name[router].address, inventory.endpoint.prefill_port))
        wanted[host.name] = [target for target in targets if target[0] != host.address]
    return wanted
