"""``invoke build`` and ``invoke image*``."""

from __future__ import annotations

from typing import Any

from yrpd.cli import resolve_flavour, resolve_pin
from yrpd.project import Project
from yrpd.reporting import Reporter
from yrpd.tasks.declaring import command, hosts_file

_IMAGE = "An image on the engine, by name or id."


@command()
def build(
    project: Project, reporter: Reporter, flavour: str = "", pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Rebuild the patched tree and import the connector out of it."""
    from yrpd.building import commands

    return commands.build(
        project=project, reporter=reporter, flavour=resolve_flavour(flavour), pin=resolve_pin(pin), dry_run=dry_run
    )


@command(default=True, openyuanrong="A wheel of openyuanrong to install in place of the locked one.")
def make(
    project: Project,
    reporter: Reporter,
    flavour: str = "",
    pin: str = "",
    engine: str = "",
    openyuanrong: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make the container image of a flavour."""
    from yrpd.building import commands

    return commands.image(
        project=project,
        reporter=reporter,
        flavour=resolve_flavour(flavour),
        pin=resolve_pin(pin),
        engine=engine,
        openyuanrong=openyuanrong,
        dry_run=dry_run,
    )


@command()
def save(
    project: Project, reporter: Reporter, release: str = "", flavour: str = "", pin: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Write the image's tarball into its release folder, compressed and hashed on the way."""
    from yrpd.releasing import commands

    return commands.save(
        project=project,
        reporter=reporter,
        flavour=resolve_flavour(flavour),
        pin=resolve_pin(pin),
        release=release,
        dry_run=dry_run,
    )


@command(
    pull="From the registry that it was pushed to, instead of the tarball.",
    tarball="From this archive of the image, by another tool, instead of the release's.",
)
def load(
    project: Project,
    reporter: Reporter,
    release: str = "",
    host: str = "",
    hosts: str = "",
    pull: bool = False,
    tarball: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Bring a release's image to a host; layers that the host has are not sent."""
    from yrpd.releasing import commands

    return commands.load(
        project=project,
        reporter=reporter,
        flavour=resolve_flavour(flavour),
        pin=resolve_pin(pin),
        release=release,
        host=host,
        hosts_file=hosts_file(hosts, flavour),
        pull=pull,
        tarball=tarball,
        dry_run=dry_run,
    )


@command(to="Repository without a tag.")
def push(
    project: Project,
    reporter: Reporter,
    to: str = "",
    release: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Push a release's image to a registry, and record the digest that it has there."""
    from yrpd.releasing import commands

    return commands.push(
        project=project,
        reporter=reporter,
        flavour=resolve_flavour(flavour),
        pin=resolve_pin(pin),
        to=to,
        release=release,
        dry_run=dry_run,
    )


@command(tarball="A saved image.", image=_IMAGE, container="A container on the engine, by name or id.")
def verify(
    project: Project,
    reporter: Reporter,
    release: str = "",
    tarball: str = "",
    image: str = "",
    container: str = "",
    host: str = "",
    hosts: str = "",
    flavour: str = "",
    pin: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Prove the chain from the series to a tarball, an image or a container, or name the broken link."""
    from yrpd.releasing import commands

    return commands.verify(
        project=project,
        reporter=reporter,
        flavour=resolve_flavour(flavour),
        pin=resolve_pin(pin),
        release=release,
        tarball=tarball,
        image=image,
        container=container,
        host=host,
        hosts_file=hosts_file(hosts, flavour),
        dry_run=dry_run,
    )


@command(image=_IMAGE)
def inspect(
    project: Project, reporter: Reporter, release: str = "", image: str = "", flavour: str = "", pin: str = ""
) -> dict[str, Any]:
    """Show the layers of a release or an image: size, content, what changes each. Changes nothing."""
    from yrpd.releasing import commands

    return commands.inspect(
        project=project,
        reporter=reporter,
        flavour=resolve_flavour(flavour),
        pin=resolve_pin(pin),
        release=release,
        image=image,
    )


@command()
def lock(
    project: Project, reporter: Reporter, flavour: str = "", pin: str = "", engine: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """Ask the registry once for the digest of the npu image's base, and record it in release.toml."""
    from yrpd.building import commands

    return commands.lock(
        project=project, reporter=reporter, flavour=resolve_flavour(flavour), pin=pin, engine=engine, dry_run=dry_run
    )
