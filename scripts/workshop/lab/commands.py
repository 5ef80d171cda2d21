"""The lab's commands: ``lab.up``, ``lab.down`` and ``lab.builder``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tenacity import RetryError, Retrying, retry_if_not_result, stop_after_delay, wait_fixed

from workshop.lab import machine
from workshop.lab.engine import engine_files, major_version
from workshop.lab.lab_record import Record, new_record, write_record
from workshop.lab.layout import BUILDER, DEFAULT_LAB, Lab, named_lab, read_lab, read_overlay
from workshop.lab.observe import Observation, answers, observe
from workshop.lab.plan import (
    Step,
    describe,
    newly_overlaid,
    overlapping_route,
    plan_disk,
    plan_engine,
    plan_network,
    plan_views,
)
from workshop.lab.reach import prove_reach
from workshop.lab.sweep import describe as describe_sweep
from workshop.lab.sweep import sweep
from workshop.models import ensure_models
from yrpd.errors import ConfigurationError, EnvironmentFailure
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.reporting import Reporter

READY_WITHIN_S = 60.0
LOG_TAIL_LINES = 15
_UP, _DOWN, _BUILDER = "invoke lab.up", "invoke lab.down", "invoke lab.builder"


def up(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    pin: str = "",
    dry_run: bool = False,
    disk_gb: int = 0,
    overlay: str = "",
) -> dict[str, Any]:
    """Bring the lab's hosts up: keep what is there, start again what died, make what is missing.

    Args:
        project: The checkout; the lab remembers it as its owner.
        reporter: Says what is done.
        hosts_file: Its hosts with an engine under ``/run/LAB/`` are the lab's.
        pin: Its ``cpu`` build makes the models; the default pin's when empty.
        dry_run: Only say what would be done.
        disk_gb: Give each new host a disk of its own of this size; 0 leaves all on the machine's.
        overlay: Folder of one folder a host; a new host sees its files over the machine's own, read-only. Empty is
            none.

    Returns:
        ``{lab, network, hosts: [{name, address, engine, state}], reach, steps, models}``.

    Raises:
        ConfigurationError: The hosts file is wrong, or the overlay has nothing for any host.
        EnvironmentFailure: This machine cannot hold the lab, or an engine does not come up.
        BuildError: The hosts are up, but the models to serve could not be made.
    """
    lab = read_lab(hosts_file)
    machine.require((*machine.PACKAGES, *(machine.DISK_PROGRAMS if disk_gb else ())), _UP)
    major = _engine_version()
    parts = tuple(host.name for host in lab.hosts)
    over = read_overlay(Path(overlay), lab) if overlay else {}
    if dry_run:
        seen = _look(lab, project, reporter, dry_run)
        return _said(lab, parts, _plan_up(lab, seen, project, major, disk_gb, over), reporter)
    with machine.held(lab, _UP):
        seen = _look(lab, project, reporter)
        steps = _plan_up(lab, seen, project, major, disk_gb, over)
        if kept := sorted(part for part in over if over[part] and part in seen.namespaces):
            reporter.say(f"    {', '.join(kept)}: there already, and sees what it saw; the overlay is for new hosts")
        _bring_up(lab, parts, seen, steps, project, reporter)
        with reporter.step("check that the hosts reach each other"):
            reached = prove_reach(lab)
    document = _document(lab, parts, steps)
    for host in document["hosts"]:
        reporter.say(f"    {host['name']} {host['address']} {host['engine']} {host['state']}")
    models = ensure_models(project, reporter, load_release(project.release_file).pin(pin)[0])
    return {**document, "reach": reached, "models": models}


def builder(project: Project, reporter: Reporter, dry_run: bool = False, lab_name: str = DEFAULT_LAB) -> dict[str, Any]:
    """Bring up a private build engine, for machines where no Docker engine answers; ``lab.down`` takes it away.

    Args:
        project: The checkout.
        reporter: Says what is done.
        dry_run: Only say what would be done.
        lab_name: The lab that it belongs to.

    Returns:
        ``{lab, engine, state, steps}``.

    Raises:
        EnvironmentFailure: This machine cannot run it, or it does not come up.
    """
    lab = named_lab(lab_name)
    machine.require(machine.PACKAGES, _BUILDER)
    major = _engine_version()
    if dry_run:
        return _said(
            lab, (BUILDER,), plan_engine(lab, BUILDER, _look(lab, project, reporter, dry_run), major=major), reporter
        )
    with machine.held(lab, _BUILDER):
        seen = _look(lab, project, reporter)
        steps = plan_engine(lab, BUILDER, seen, major=major)
        _bring_up(lab, (BUILDER,), seen, steps, project, reporter)
    document = _document(lab, (BUILDER,), steps)
    reporter.say(f"    build engine {document['engine']} {document['state']}")
    return document


def down(
    project: Project, reporter: Reporter, hosts_file: Path | None = None, dry_run: bool = False, lab_name: str = ""
) -> dict[str, Any]:
    """Remove a lab with all it made: containers, engines, images, namespaces, folders.

    Args:
        project: The checkout; another checkout's lab is left alone as long as that checkout exists and any of it runs.
        reporter: Says what is done.
        hosts_file: Names the lab, when ``lab_name`` does not.
        dry_run: Only say what would be done.
        lab_name: The lab; without it and a hosts file the shipped ``lab.toml``'s.

    Returns:
        ``{lab, state: "removed" | "nothing", steps}``.

    Raises:
        ConfigurationError: The hosts file describes no lab.
        EnvironmentFailure: Something of the lab stays, or it is another checkout's.
    """
    lab = named_lab(lab_name or _lab_of(hosts_file))
    machine.require(("ip", "umount"), _DOWN)
    seen = observe(lab)
    if seen.is_nothing:
        reporter.say(f"the lab {lab.name} is not there; nothing to do.")
        return {"lab": lab.name, "state": "nothing", "steps": []}
    _refuse_foreign(lab, seen, project)
    steps = describe_sweep(lab, seen)
    if dry_run:
        for step in steps:
            reporter.say(str(step["what"]))
        return {"lab": lab.name, "state": "planned", "steps": steps}
    with machine.held(lab, _DOWN):
        sweep(lab, reporter)
    reporter.say(f"the lab {lab.name} is removed.")
    return {"lab": lab.name, "state": "removed", "steps": steps}


def _lab_of(hosts_file: Path | None) -> str:
    """Return the name of the lab that a hosts file describes; taking a lab away needs no more of it."""
    if hosts_file is None:
        return DEFAULT_LAB
    try:
        return read_lab(hosts_file).name
    except ConfigurationError as error:
        error.next_command = f"{_DOWN} --name {DEFAULT_LAB}"
        raise


def _plan_up(
    lab: Lab, seen: Observation, project: Project, major: int, disk_gb: int, over: Mapping[str, Mapping[str, Path]]
) -> tuple[Step, ...]:
    """Return what is missing of the hosts, after checking that nothing else is in the way."""
    _refuse_foreign(lab, seen, project)
    if seen.record is not None and not set(seen.record.hosts) <= set(lab.hosts):
        there = ", ".join(f"{host.name} {host.address}" for host in seen.record.hosts)
        raise EnvironmentFailure(
            f"The lab {lab.name} has hosts that the hosts file does not have: {there}.",
            next_command=_down_command(lab),
        )
    route = overlapping_route(lab.network, seen.routes, lab.interface)
    if route is not None:
        raise EnvironmentFailure(
            f"The lab's subnet {lab.network} overlaps the route to {route.destination} through {route.interface}; "
            "give the hosts of a copy of lab.toml addresses of a free subnet.",
            next_command="cp lab.toml my-lab.toml && invoke lab.up --hosts my-lab.toml",
        )
    names = [host.name for host in lab.hosts]
    views = plan_views(lab, seen, over)
    new = newly_overlaid(seen, over)
    engines = [step for name in names for step in plan_engine(lab, name, seen, major=major, overlaid=name in new)]
    disks = [step for name in names for step in plan_disk(lab, name, seen, disk_gb)]
    return (*disks, *views, *plan_network(lab, seen), *engines)


def _bring_up(
    lab: Lab, parts: tuple[str, ...], seen: Observation, steps: tuple[Step, ...], project: Project, reporter: Reporter
) -> None:
    if not steps:
        reporter.say(f"{', '.join(parts)}: already up, kept.")
    fresh = seen.is_nothing
    try:
        _remember(lab, seen.record, project)
        if steps:
            with reporter.step(f"bring up {', '.join(parts)} of the lab {lab.name}"):
                for step in steps:
                    reporter.detail(step.what)
                    machine.execute(step)
        with reporter.step("wait until each engine answers"):
            for part in parts:
                _wait(lab, part)
    except BaseException:
        # A first attempt leaves nothing half done. Where there was a lab before, its images are worth keeping.
        if fresh:
            reporter.say("that did not work; taking away what was made.")
            sweep(lab, reporter)
        raise


def _remember(lab: Lab, record: Record | None, project: Project) -> None:
    if record is None:
        write_record(lab, new_record(lab, project.root))
    elif lab.hosts and record.hosts != lab.hosts:
        write_record(lab, Record(record.owner, record.made_at, lab.hosts, record.absent))


def _look(lab: Lab, project: Project, reporter: Reporter, dry_run: bool = False) -> Observation:
    """Look at the lab, after taking away what another checkout left of one that runs no more.

    Its containers would start with the engines, and serve what that checkout built.
    """
    seen = observe(lab)
    if seen.record is None or seen.record.owner == str(project.root) or seen.processes:
        return seen
    reporter.say(f"nothing runs of the lab that {seen.record.owner} brought up; what is left of it goes first.")
    if dry_run:
        return Observation(routes=seen.routes)
    sweep(lab, reporter)
    return observe(lab)


def _refuse_foreign(lab: Lab, seen: Observation, project: Project) -> None:
    record = seen.record
    if record is None or record.owner == str(project.root) or not Path(record.owner).is_dir() or not seen.processes:
        return
    raise EnvironmentFailure(
        f"The lab {lab.name} was brought up from another checkout, {record.owner}, at {record.made_at}.",
        next_command=f"cd {record.owner} && {_down_command(lab)}",
    )


def _down_command(lab: Lab) -> str:
    return _DOWN if lab.name == DEFAULT_LAB else f"{_DOWN} --name {lab.name}"


def _wait(lab: Lab, part: str) -> None:
    """Wait until a part's engine answers.

    Raises:
        EnvironmentFailure: It does not in time, or it ended; the end of its log is the detail.
    """
    folders = lab.folders(part)

    def settled() -> bool:
        return answers(folders.socket) or not _is_alive(lab, part)

    waiting = Retrying(stop=stop_after_delay(READY_WITHIN_S), wait=wait_fixed(0.2), retry=retry_if_not_result(bool))
    try:
        waiting(settled)
        why = "ended"
    except RetryError:
        why = f"does not answer within {READY_WITHIN_S:.0f} s"
    if answers(folders.socket):
        return
    files = engine_files(folders)
    raise EnvironmentFailure(
        f"The Docker engine of {part} {why}: {_last_complaint(files.dockerd_log)}.",
        next_command=_down_command(lab),
        detail="\n".join([*_tail(files.containerd_log), *_tail(files.dockerd_log)]),
    )


def _is_alive(lab: Lab, part: str) -> bool:
    file = engine_files(lab.folders(part)).dockerd
    # setsid and nsenter carry the same argument until they become dockerd.
    return any(str(file) in process.argv for process in observe(lab).processes)


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    except OSError:
        return []


def _last_complaint(log: Path) -> str:
    lines = _tail(log)
    return lines[-1].strip().rstrip(".") if lines else "it said nothing"


def _engine_version() -> int:
    return major_version(machine.run(("dockerd", "--version")))


def _said(lab: Lab, parts: tuple[str, ...], steps: tuple[Step, ...], reporter: Reporter) -> dict[str, Any]:
    for step in steps:
        reporter.say(step.what)
    if not steps:
        reporter.say(f"{', '.join(parts)}: already up, nothing to do.")
    return _document(lab, parts, steps)


def _document(lab: Lab, parts: tuple[str, ...], steps: tuple[Step, ...]) -> dict[str, Any]:
    begun = {part for part in parts for step in steps if step.what.startswith(f"{part}: ")}
    state = {part: "started" if part in begun else "kept" for part in parts}
    document: dict[str, Any] = {"lab": lab.name, "steps": [describe(step) for step in steps]}
    if parts == (BUILDER,):
        return {**document, "engine": lab.folders(BUILDER).engine, "state": state[BUILDER]}
    hosts = [
        {
            "name": host.name,
            "address": str(host.address),
            "engine": lab.folders(host.name).engine,
            "state": state[host.name],
        }
        for host in lab.hosts
    ]
    return {**document, "network": str(lab.network), "hosts": hosts}
