"""The model of ``release.toml``: validated once, then plain frozen objects."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from yrpd.errors import ConfigurationError

Flavour = Literal["npu", "cpu"]
GitId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")]
# Such as 8.2.RC1 or 8.5.0.
Cann = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+(\.\w+)*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def is_since_cann_8_5(cann: str) -> bool:
    """Return whether a CANN, such as ``8.2.RC1``, has the names that its libraries were given with 8.5.

    The device plugin of a DataSystem's client takes the names of before, or these.
    """
    major, minor = cann.split(".")[:2]
    return (int(major), int(minor)) >= (8, 5)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sdist(_Table):
    """A source distribution that holds the complete tagged tree.

    Attributes:
        project: Its name on the package index.
        file: The file's name.
        sha256: The file's hash.
        generated: Paths that packaging added and the tagged tree does not have.
    """

    project: str
    file: str
    sha256: Sha256
    generated: tuple[str, ...]


class FlavourChange(_Table):
    """What a pin's images of one flavour are made with, where that is not what the flavour's table says.

    Attributes:
        base: Base image (npu).
        base_digest: See :class:`FlavourTable`; npu only.
        base_id: See :class:`FlavourTable`; npu only.
        torch: torch's version in the image.
        torch_npu: torch-npu's version in the image; npu only.
        cann: CANN's version in the base image; npu only.
        runtime: Name of the lock in ``docker/`` that vLLM's environment is made from; cpu only.
    """

    base: str | None = None
    # Never inherited: the digest of another base would be a wrong one.
    base_digest: Digest = ""
    base_id: Digest = ""
    torch: str | None = None
    torch_npu: str | None = None
    cann: Cann | None = None
    runtime: str | None = None


class Pin(_Table):
    """One upstream state, named by content.

    Attributes:
        repository: Where git finds it.
        tag: The upstream tag; a name, not a proof.
        commit: The commit id; a known tag may go without, then the tree alone is the proof.
        tree: The commit's tree id.
        version: The upstream version (PEP 440).
        vllm: The vLLM version that it belongs to.
        sdist: The same tree on the package index.
        npu: How its npu images differ from the default pin's.
        cpu: How its cpu images differ from the default pin's.
    """

    repository: str
    tag: str
    commit: GitId | None = None
    tree: GitId
    version: str
    vllm: str
    sdist: Sdist
    npu: FlavourChange | None = None
    cpu: FlavourChange | None = None

    @property
    def state(self) -> str:
        """What names the upstream state for people: its commit, else its tag."""
        return f"commit {self.commit}" if self.commit else f"tag {self.tag}"


class FlavourTable(_Table):
    """What an image flavour is made from, for the default pin; another pin says what differs.

    Attributes:
        base: Base image (npu) or Debian release (cpu).
        base_digest: What the registry has for the base image; empty until ``invoke image.lock`` has asked; npu only.
        base_id: The base image's id on the engine that it was locked with; empty until then; npu only.
        torch: torch's version in the image.
        torch_npu: torch-npu's version in the image; npu only.
        cann: CANN's version in the base image; npu only.
        runtime: Name of the lock in ``docker/`` that vLLM's environment is made from; cpu only.
        soc_version: Ascend chip name that vllm-ascend's setup wants even where no kernel is compiled.
        dockerfile: Path of the Dockerfile.
    """

    base: str
    base_digest: Digest = ""
    base_id: Digest = ""
    torch: str
    torch_npu: str | None = None
    cann: Cann = "8.5.0"  # what the usual locks are for
    runtime: str = "runtime-cpu"
    soc_version: str
    dockerfile: str


class ReleaseTable(_Table):
    """Name and revision of this release."""

    name: str
    revision: int
    default_pin: str


class OpenYuanrong(_Table):
    """Versions of openYuanrong's parts.

    Attributes:
        datasystem: The DataSystem's.
        datasystem_before_cann_8_5: The last one whose device plugin an older CANN can load.
    """

    datasystem: str
    datasystem_before_cann_8_5: str


class Release(_Table):
    """All of ``release.toml``.

    Attributes:
        release: Name and revision.
        pins: Upstream states that this release is made for.
        known: Upstream states that the series can be carried to; one is a pin as soon as it has a series.
        flavours: What images are made from.
        openyuanrong: Versions of openYuanrong.
    """

    release: ReleaseTable
    pins: dict[str, Pin]
    known: dict[str, Pin] = {}
    flavours: dict[Flavour, FlavourTable]
    openyuanrong: OpenYuanrong

    @model_validator(mode="after")
    def _pins_have_commits(self) -> Self:
        for name, pin in self.pins.items():
            if pin.commit is None:
                raise ValueError(f"pins.{name}.commit is missing; only a known tag may go without")
        return self

    def pin(self, name: str = "") -> tuple[str, Pin]:
        """Return a pin by name.

        Args:
            name: A table under ``[pins]`` or ``[known]``; empty means the default pin.

        Returns:
            The pin's name and the pin.

        Raises:
            ConfigurationError: There is no such pin.
        """
        wanted = name or self.release.default_pin
        states = self.upstream
        if wanted not in states:
            known = ", ".join(sorted(states))
            message = f"release.toml has no pin {wanted!r}; it has: {known}."
            raise ConfigurationError(message, next_command=f"invoke patch --pin {self.release.default_pin}")
        return wanted, states[wanted]

    def flavour(self, name: str, flavour: Flavour) -> FlavourTable:
        """Return what a pin's images of a flavour are made from.

        Args:
            name: The pin's name.
            flavour: ``npu`` or ``cpu``.

        Raises:
            ConfigurationError: The pin is not the default one, and does not say what its images are made from.
        """
        table = self.flavours[flavour]
        change: FlavourChange | None = getattr(self.upstream[name], flavour)
        if change is None and name != self.release.default_pin:
            message = f"release.toml does not say what {flavour} images of {name} are made from: base, torch, lock."
            raise ConfigurationError(message, next_command=f'add [pins."{name}".{flavour}] to release.toml')
        return table.model_copy(update=change.model_dump(exclude_none=True)) if change else table

    def datasystem_variant(self, name: str, flavour: Flavour) -> str:
        """Return what the names of the DataSystem's locks end with for a pin's images; empty for the usual ones.

        Raises:
            ConfigurationError: See :meth:`flavour`.
        """
        since = is_since_cann_8_5(self.flavour(name, flavour).cann)
        return "" if since else f"-{self.openyuanrong.datasystem_before_cann_8_5}"

    def image_record(self, flavour: Flavour, name: str = "") -> str:
        """Return the name of the record in ``dist/`` that ``invoke image`` leaves; empty means the default pin.

        Raises:
            ConfigurationError: There is no such pin.
        """
        wanted, _ = self.pin(name)
        of_pin = "" if wanted == self.release.default_pin else f"-{wanted}"
        return f"image-{flavour}{of_pin}.json"

    @property
    def upstream(self) -> dict[str, Pin]:
        """Every upstream state, pins first; a pin wins over a known tag of the same name."""
        return {**self.pins, **{name: pin for name, pin in self.known.items() if name not in self.pins}}

    def patched_version(self, name: str) -> str:
        """Return the version of the patched tree, such as ``0.10.0rc1+yuanrong.1``."""
        return f"{self.upstream[name].version}+yuanrong.{self.release.revision}"


def load_release(path: Path) -> Release:
    """Read and validate ``release.toml``.

    Raises:
        ConfigurationError: The file is missing, is not TOML, or a field is wrong (the field is named).
    """
    try:
        with path.open("rb") as stream:
            return Release.model_validate(tomllib.load(stream))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} does not exist.", next_command="git checkout -- release.toml") from error
    except tomllib.TOMLDecodeError as error:
        message = f"{path.name} is not valid TOML: {error}."
        raise ConfigurationError(message, next_command="git diff release.toml") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{path.name}: {where}: {first['msg']} (found {first.get('input')!r})."
        raise ConfigurationError(message, next_command="git diff release.toml") from error
