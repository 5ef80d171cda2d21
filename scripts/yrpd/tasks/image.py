"""``invoke build`` and ``invoke image*``."""

from __future__ import annotations

from yrpd.options import FLAVOUR, HOST, HOSTS, PIN, RELEASE, Command, Option

_IMAGE = Option("image", "An image on the engine, by name or id.")
_HERE = {"hosts": "it works on this machine's engine"}

COMMANDS = (
    Command(
        "build",
        "Rebuild the patched tree and import the connector out of it.",
        "yrpd.building.commands:build",
        (FLAVOUR, PIN),
        refuses=_HERE,
    ),
    Command(
        "image.make",
        "Make the container image of a flavour.",
        "yrpd.commands.image:make",
        (
            FLAVOUR,
            PIN,
            Option("openyuanrong", "A wheel of openyuanrong to install in place of the locked one."),
            Option("datasystem", "npu: a wheel of openyuanrong-datasystem for both client and worker."),
        ),
        refuses=_HERE,
        default=True,
    ),
    Command(
        "image.lock",
        "Ask the registry once for the digest of the npu image's base, and record it in release.toml.",
        "yrpd.building.commands:lock",
        (FLAVOUR, PIN),
        refuses=_HERE,
    ),
    Command(
        "image.save",
        "Write the image's tarball into its release folder, compressed and hashed on the way.",
        "yrpd.releasing.commands:save",
        (RELEASE, FLAVOUR, PIN),
        refuses=_HERE,
    ),
    Command(
        "image.load",
        "Bring a release's image to a host; layers that the host has are not sent.",
        "yrpd.commands.image:load",
        (RELEASE, HOST, HOSTS, FLAVOUR, PIN),
    ),
    Command(
        "image.verify",
        "Prove the chain from the series to a tarball, an image or a container, or name the broken link.",
        "yrpd.commands.image:verify",
        (
            RELEASE,
            Option("tarball", "The release's tarball, where it is elsewhere."),
            _IMAGE,
            Option("container", "A container on the engine, by name or id."),
            HOST,
            HOSTS,
            FLAVOUR,
            PIN,
        ),
    ),
)
