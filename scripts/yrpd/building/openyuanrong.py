"""openYuanrong's own environment in an image: which wheels, and what they are made from, as data.

It is apart from vLLM's: the ``openyuanrong`` and ``openyuanrong-datasystem`` packages share the module name ``yr`` and
cannot share a process, and ``yr`` needs both.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from yrpd.building.openyuanrong_wheel import NAME, RECIPE, prepare_wheel
from yrpd.building.prepared import provide_made
from yrpd.documents.inputs import digest_of
from yrpd.errors import ConfigurationError, ImageError
from yrpd.project import Project, hash_file
from yrpd.release import is_since_cann_8_5
from yrpd.reporting import Reporter
from yrpd.wheels.locks import NPU, OPENYUANRONG, Lock, read_lock
from yrpd.wheels.wheelhouse import X86_64, Target, Wheel, provide

LAUNCHER = "yr"


DATASYSTEM = "openyuanrong-datasystem"
_GIVE = {NAME: "invoke image --openyuanrong FILE", DATASYSTEM: "invoke image --flavour npu --datasystem FILE"}
# A name that the device plugin takes of CANN's libra.so: before 8.5, and since (P2P-Transfer/include/external/ra.h of
# the DataSystem's source).
_RA_NAMES = {False: b"\0ra_init\0", True: b"\0RaInit\0"}


@dataclass(frozen=True)
class OpenYuanrong:
    """What openYuanrong's environment is made from, and the DataSystem's client beside vLLM, npu flavour.

    Attributes:
        lock: Every wheel by hash.
        client: The client's, npu flavour.
        given: Wheels of the engineer's that take the locked ones' places, by project.
    """

    lock: Lock
    client: Lock
    given: Mapping[str, Wheel]

    @classmethod
    def of(cls, project: Project, variant: str = "", openyuanrong: str = "", datasystem: str = "") -> OpenYuanrong:
        """Read the locks, and look at the wheels that are given.

        Args:
            project: The checkout.
            variant: What the locks' names end with (``Release.datasystem_variant``).
            openyuanrong: Path of a wheel; empty for the locked one.
            datasystem: Path of a wheel; empty for the locked one.

        Raises:
            ConfigurationError: What is given is no wheel of that project.
        """
        paths = {NAME: openyuanrong, DATASYSTEM: datasystem}
        given = {name: _given(name, Path(path)) for name, path in paths.items() if path}
        lock, client = (read_lock(project.docker / f"{name}{variant}.lock") for name in (OPENYUANRONG, NPU))
        return cls(lock, client, given)

    @property
    def digest(self) -> str:
        """What the environment is made from, known without any locked wheel at hand."""
        given = self.given[NAME].sha256 if NAME in self.given else ""
        inputs: dict[str, object] = {"lock": self.lock.sha256, "recipe": RECIPE, "given": given}
        if DATASYSTEM in self.given:
            inputs["datasystem"] = self.given[DATASYSTEM].sha256
        return digest_of(inputs)


def _given(name: str, path: Path) -> Wheel:
    again = f"{_GIVE[name]}, with a wheel of {name}, or without the option for the locked one"
    try:
        found, version, _, _ = parse_wheel_filename(path.name)
        sha256 = hash_file(path)
    except (InvalidWheelFilename, OSError) as error:
        raise ConfigurationError(f"{path} is no wheel: {error}.", next_command=again) from error
    if found != name:
        raise ConfigurationError(f"{path} is a wheel of {found}, not of {name}.", next_command=again)
    return Wheel(name, str(version), sha256, path)


def client_wheels(
    project: Project, yuanrong: OpenYuanrong, cann: str, reporter: Reporter, machine: str
) -> tuple[Wheel, ...]:
    """Return the wheels of the DataSystem's client, npu flavour, after a look at its device plugin.

    Args:
        project: The checkout.
        yuanrong: What is wanted.
        cann: The base image's CANN, such as ``8.2.RC1``.
        reporter: Says what is done.
        machine: ``x86_64`` or ``aarch64``.

    Raises:
        ConfigurationError: The given wheel does not fit the image's Python or machine.
        PinMismatchError: A wheel is not the locked one.
        ImageError: No block would travel: the wheel has no device plugin, or one for another CANN.
    """
    wheels = _provide(project, yuanrong.client, yuanrong.given, reporter, machine)
    for wheel in wheels:
        if wheel.name == DATASYSTEM:
            check_plugin(wheel, cann, machine)
    return wheels


def check_plugin(wheel: Wheel, cann: str, machine: str) -> None:
    """Look whether CANN can load the device plugin of a DataSystem's wheel; without it every save fails, quietly.

    Raises:
        ImageError: The wheel has none, or one for another CANN.
    """
    with zipfile.ZipFile(wheel.path) as archive:
        plugins = [archive.read(name) for name in archive.namelist() if name.endswith("/libacl_plugin.so")]
    since = is_since_cann_8_5(cann)
    if any(_RA_NAMES[since] in plugin for plugin in plugins):
        return
    has = f"a device plugin for CANN {'before' if since else 'since'} 8.5" if plugins else "no device plugin"
    where = "" if since or machine != X86_64 else "; published wheels have one on aarch64, or for CANN 8.5 and later"
    message = f"{wheel.file} has {has}, the base has CANN {cann}: no block would travel{where}."
    raise ImageError(message, next_command=f"{_GIVE[DATASYSTEM]}, with a build of the DataSystem for CANN {cann}")


def openyuanrong_wheels(
    project: Project, yuanrong: OpenYuanrong, reporter: Reporter, machine: str = X86_64
) -> tuple[Wheel, ...]:
    """Return every wheel of the environment, ready to install without a network.

    Args:
        project: The checkout.
        yuanrong: What is wanted.
        reporter: Says what is done.
        machine: ``x86_64`` or ``aarch64``.

    Raises:
        ConfigurationError: The given wheel does not fit the image's Python or machine.
        PinMismatchError: A wheel is not the locked one.
        BuildError: The repair failed.
    """
    wheels = _provide(project, yuanrong.lock, yuanrong.given, reporter, machine)
    return tuple(_prepared(project, one, reporter) if one.name == NAME else one for one in wheels)


def _provide(
    project: Project, lock: Lock, given: Mapping[str, Wheel], reporter: Reporter, machine: str
) -> tuple[Wheel, ...]:
    for one in given.values():
        _, _, _, tags = parse_wheel_filename(one.file)
        if tags.isdisjoint(Target(machine).tags):
            message = f"{one.file} does not fit the image's Python on {machine}."
            raise ConfigurationError(message, next_command=f"{_GIVE[one.name]}, with a wheel whose tags fit")
    return tuple(given.get(one.name, one) for one in provide(project, lock, reporter, Target(machine)))


def _prepared(project: Project, source: Wheel, reporter: Reporter) -> Wheel:
    def prepared(published: Path, target: Path) -> None:
        with reporter.step(f"repair {source.file}: its libraries are to find each other"):
            reporter.say(f"    {prepare_wheel(published, target)} repaired")

    return provide_made(project, source, {"recipe": RECIPE}, prepared)
