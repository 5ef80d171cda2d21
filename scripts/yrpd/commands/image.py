"""``invoke image``, ``image.load`` and ``image.verify``, which need more than one stage."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from yrpd.building import commands as building
from yrpd.deploying.hosts import engines
from yrpd.deploying.inventory import load_inventory
from yrpd.docker.connection import connect, timeout_seconds
from yrpd.documents.image_record import record_file
from yrpd.documents.patched import load_patched
from yrpd.errors import ConfigurationError
from yrpd.project import Project, write_json
from yrpd.release import Flavour
from yrpd.releasing import commands as releasing
from yrpd.releasing.making import provide_release
from yrpd.reporting import Reporter


def make(
    *, project: Project, reporter: Reporter, flavour: Flavour, pin: str = "", dry_run: bool = False, **options: str
) -> dict[str, Any]:
    """Make the container image of a flavour and its release folder, unless they are there.

    A release that is there is never changed: another image, or another state of this project, is another release.

    Raises:
        YrpdError: With its exit code: 2 no patched tree, 3 a wheel is not the locked one, 6 the engine refused or
            failed, 8 no engine answers.
    """
    document = building.image(project=project, reporter=reporter, flavour=flavour, pin=pin, dry_run=dry_run, **options)
    if dry_run:
        return document
    _, patched = load_patched(project, pin)
    with closing(connect()) as client:
        folder = provide_release(project, patched, document, client, reporter)
    released = {**document, "release": folder.name}
    write_json(record_file(project, flavour, patched.name), released)
    return released


def load(
    *, reporter: Reporter, host: str = "", hosts_file: Path, dry_run: bool = False, **options: Any
) -> dict[str, Any]:
    """Bring a release's image to an engine of the inventory, or to this machine's; see ``releasing.commands.load``.

    Raises:
        YrpdError: 2 no such host; 6 the tarball is not the release's, or the engine failed; 8 it does not answer.
    """
    engine_of = _engine_of(host, hosts_file)
    done = releasing.load(reporter=reporter, engine_of=engine_of, dry_run=dry_run, **options)
    if dry_run:
        reporter.say(f"    on {host or 'this machine'}")
    return {"host": host, **done}


def verify(*, host: str = "", hosts_file: Path, dry_run: bool = False, **options: Any) -> dict[str, Any]:
    """Prove the chain from the series to what is named, on an engine of the inventory or on this machine's.

    Raises:
        YrpdError: 2 no such host, 6 there is no release, 8 no engine answers, 9 a link does not hold.
    """
    return releasing.verify(engine_of=_engine_of(host, hosts_file), dry_run=dry_run, **options)


def _engine_of(host: str, hosts_file: Path) -> releasing.Connect:
    """Return what connects to a host's engine, or to this machine's when no host is named; nothing is asked yet.

    Args:
        host: A host of the inventory, or empty.
        hosts_file: The inventory.

    Raises:
        ConfigurationError: The inventory has no such host.
    """
    if not host:
        return connect
    inventory = load_inventory(hosts_file)
    for one in inventory.hosts:
        if one.name == host:
            return lambda: engines.connect(one, timeout_s=timeout_seconds())
    names = ", ".join(one.name for one in inventory.hosts)
    raise ConfigurationError(f"{hosts_file} has no host {host!r}; it has: {names}.", next_command="invoke deploy.plan")
