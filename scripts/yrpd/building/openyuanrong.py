"""openYuanrong's own environment in an image: which wheels, and what they are made from, as data.

It is apart from vLLM's: the ``openyuanrong`` and ``openyuanrong-datasystem`` packages share the module name ``yr`` and
cannot share a process, and ``yr`` needs both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from yrpd.building.openyuanrong_wheel import NAME, RECIPE, prepare_wheel
from yrpd.building.prepared import provide_made
from yrpd.documents.inputs import digest_of
from yrpd.errors import ConfigurationError
from yrpd.project import Project, hash_file
from yrpd.reporting import Reporter
from yrpd.wheels.locks import OPENYUANRONG, Lock, read_lock
from yrpd.wheels.wheelhouse import (
    X86_64,
    Target,
    Wheel,
    provide,
)

LAUNCHER = "yr"


@dataclass(frozen=True)
class OpenYuanrong:
    """What openYuanrong's environment is made from.

    Attributes:
        lock: Every wheel by hash.
        given: A wheel of the engineer's that takes the locked one's place, with its hash; ``None`` for the locked one.
    """

    lock: Lock
    given: Wheel | None = None

    @classmethod
    def of(cls, project: Project, given: str = "") -> OpenYuanrong:
        """Read the lock, and look at the wheel that is given.

        Args:
            project: The checkout.
            given: Path of a wheel; empty for the locked one.

        Raises:
            ConfigurationError: What is given is no wheel of openyuanrong.
        """
        return cls(read_lock(project.docker / f"{OPENYUANRONG}.lock"), _given(Path(given)) if given else None)

    @property
    def digest(self) -> str:
        """What the environment is made from, known without any locked wheel at hand."""
        given = self.given.sha256 if self.given else ""
        return digest_of({"lock": self.lock.sha256, "recipe": RECIPE, "given": given})


def _given(path: Path) -> Wheel:
    again = "invoke image --openyuanrong FILE, with a wheel of openyuanrong, or without the option for the locked one"
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        sha256 = hash_file(path)
    except (InvalidWheelFilename, OSError) as error:
        raise ConfigurationError(f"{path} is no wheel: {error}.", next_command=again) from error
    if name != NAME:
        raise ConfigurationError(f"{path} is a wheel of {name}, not of {NAME}.", next_command=again)
    return Wheel(NAME, str(version), sha256, path)


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
    if yuanrong.given is not None:
        _check_fit(yuanrong.given, machine)
    wheels = provide(project, yuanrong.lock, reporter, Target(machine))
    published = yuanrong.given or next(one for one in wheels if one.name == NAME)
    others = tuple(one for one in wheels if one.name != NAME)
    return (*others, _prepared(project, published, reporter))


def _check_fit(given: Wheel, machine: str) -> None:
    _, _, _, tags = parse_wheel_filename(given.file)
    if tags.isdisjoint(Target(machine).tags):
        raise ConfigurationError(
            f"{given.file} does not fit the image's Python on {machine}.",
            next_command="invoke image --openyuanrong FILE, with a wheel whose tags fit",
        )


def _prepared(project: Project, source: Wheel, reporter: Reporter) -> Wheel:
    def prepared(published: Path, target: Path) -> None:
        with reporter.step(f"repair {source.file}: its libraries are to find each other"):
            reporter.say(f"    {prepare_wheel(published, target)} repaired")

    return provide_made(project, source, {"recipe": RECIPE}, prepared)
