"""A complete lock has whatever its packages require, extras included; the project's own is one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.wheels.completeness import require_complete
from yrpd.wheels.locks import Lock, Locked
from yrpd.wheels.wheelfile import write_wheel

ROOT = Project.here().root


def _wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    extras = sorted({one for line in requires for one in re.findall(r"extra == '(\w+)'", line)})
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {one}" for one in extras] + [f"Requires-Dist: {one}" for one in requires]
    path = folder / f"{name}-{version}-py3-none-any.whl"
    inside = f"{name}-{version}.dist-info"
    files = {
        f"{inside}/METADATA": "\n".join([*lines, "", "Text"]),
        f"{inside}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        # What a wheel carries inside does not count.
        f"{name}/_vendor/d-2.dist-info/METADATA": "Metadata-Version: 2.1\nName: d\nVersion: 2\nRequires-Dist: e\n",
    }
    write_wheel(path, {file: text.encode() for file, text in files.items()})
    return path


class Prove:
    """Proves a lock of wheels that are made here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[Locked] = []
        self.wheels: list[Path] = []

    def lock(self, name: str, version: str = "1", *requires: str) -> None:
        """Add a package."""
        self.wheels.append(_wheel(self.folder, name, version, *requires))
        self.entries.append(Locked(name, version, frozenset({"0" * 64})))

    def gap(self, machine: str = "x86_64", python: tuple[int, int] = (3, 11)) -> str:
        """Return what the error says, or nothing when the lock is complete."""
        lock = Lock("some", tuple(self.entries), "0" * 64)
        try:
            require_complete(lock, self.wheels, self.folder, python=python, platform=f"{machine}-manylinux_2_36")
        except ConfigurationError as error:
            return str(error)
        return ""


@pytest.fixture
def made(tmp_path: Path) -> Prove:
    return Prove(tmp_path)


def test_the_tools_lock_has_all_that_its_packages_require(tmp_path: Path) -> None:
    def resolve(lock: str, *further: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "some.txt").write_text(re.sub(r" *(\\\n)?\s*--hash=\S+", "", lock))
        # What is installed is all that there is.
        command = [find_uv_bin(), "pip", "install", "--dry-run", "--offline", "--no-index", "--no-config", "--no-cache"]
        command += ["--python", sys.executable, "-r", str(tmp_path / "some.txt"), *further]
        command += ["-r", str(ROOT / "pyproject.toml"), "-r", str(ROOT / "requirements.in")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    whole = resolve(lock)
    assert (whole.returncode, "Would make no changes" in whole.stderr) == (0, True), whole.stderr
    # The extra in docker[ssh] is what asks for paramiko.
    (tmp_path / "without").write_text("paramiko<0\n")
    without = resolve(re.sub(r"^paramiko==(.*\\\n)*.*\n", "", lock, flags=re.M), "-c", str(tmp_path / "without"))
    assert without.returncode != 0
    assert "docker[ssh]" in without.stderr


def test_what_is_missing_is_named_with_who_requires_it(made: Prove) -> None:
    made.lock("a", "1", "b>=2")
    gap = made.gap()
    assert gap.startswith("some.lock is not complete: Because ")
    assert "a depend on b>=2" in gap
    assert gap.endswith("next: PYTHONPATH=scripts python -m yrpd.wheels.locks")


def test_a_version_that_is_refused_is_a_gap(made: Prove) -> None:
    made.lock("a", "1", "b>=2")
    made.lock("b", "1.9")
    assert "a depend on b>=2" in made.gap()


def test_a_version_before_a_release_counts_as_it_does_for_pip_with_a_lock(made: Prove) -> None:
    made.lock("a", "1", "b>=2")
    made.lock("b", "2.1rc1")
    assert made.gap() == ""


def test_an_extra_counts_from_where_it_is_asked_for(made: Prove) -> None:
    made.lock("coverage", "7", "tomli; extra == 'toml'")
    made.lock("plain", "7", "coverage>=7")
    assert made.gap() == ""
    (made.folder / "some.in").write_text("coverage[toml]  # why\n")
    assert "tomli was not found" in made.gap()
    (made.folder / "some.in").unlink()
    made.lock("asking", "7", "coverage[toml]>=7")
    assert "tomli was not found" in made.gap()


def test_an_extra_that_names_another_extra_of_the_same_package_is_followed(made: Prove) -> None:
    made.lock("a", "1", "a[b]; extra == 'all'", "c; extra == 'b'")
    (made.folder / "some.in").write_text("a[all]\n")
    assert "c was not found" in made.gap()


def test_what_the_lock_was_made_for_has_to_be_there(made: Prove) -> None:
    made.lock("a")
    (made.folder / "some.in").write_text("a\nb\n")
    assert "b was not found" in made.gap()


@pytest.mark.parametrize(
    ("marker", "machine", "python", "counts"),
    [
        ("python_version < '3.12'", "x86_64", (3, 11), True),
        ("python_version < '3.12'", "x86_64", (3, 13), False),
        # Debian 12's Python is 3.11.2: a lock for 3.11 has to do for it too.
        ("python_full_version < '3.11.3'", "x86_64", (3, 11), True),
        ("platform_machine == 'aarch64'", "x86_64", (3, 11), False),
        ("platform_machine == 'aarch64'", "aarch64", (3, 11), True),
        ("sys_platform == 'win32'", "x86_64", (3, 11), False),
    ],
)
def test_a_marker_decides_for_the_python_that_the_wheels_are_for(
    marker: str, machine: str, python: tuple[int, int], counts: bool, made: Prove
) -> None:
    made.lock("a", "1", f"b; {marker}")
    assert bool(made.gap(machine, python)) == counts


def test_an_override_stands_in_for_what_packages_require(made: Prove) -> None:
    made.lock("vllm", "1", "torch==2+cpu", "triton")
    made.lock("torch", "2")
    assert made.gap() != ""
    (made.folder / "some.overrides").write_text('torch==2\ntriton; sys_platform == "never"\n')
    assert made.gap() == ""
    (made.folder / "some.overrides").write_text('torch==3\ntriton; sys_platform == "never"\n')
    assert "torch==3" in made.gap()
