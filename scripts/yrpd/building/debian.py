"""The cpu flavour's base: a small Debian root made by debootstrap, as a tar archive that docker imports.

No image registry is needed. The archive is kept in the cache by what was asked for; its own hash, with the version of
every package, is what the image's inputs name.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from yrpd.building.toolbox import find_tool, run_logged
from yrpd.documents.inputs import digest_of
from yrpd.errors import EnvironmentFailure
from yrpd.project import Project, hash_file, write_json
from yrpd.reporting import Reporter

# Raise it whenever the archive's content changes for the same packages.
RECIPE = 2
PACKAGES = (
    "ca-certificates",
    "etcd-server",  # openYuanrong's registry of workers
    "libgomp1",  # vLLM's CPU kernels
    "libnuma1",  # vLLM's binding of threads to cores
    "python3",
    "python3-venv",
)
# What an image does not need, or what is of this machine or moment; the engine writes the first three of etc itself.
EXCLUDED = (
    *("dev/*", "proc/*", "run/*", "sys/*", "tmp/*"),
    *("var/cache/apt/*", "var/cache/debconf/*", "var/cache/ldconfig/aux-cache", "var/lib/apt/lists/*"),
    *("var/lib/dpkg/*-old", "var/log/*.log", "var/log/apt/*"),
    *("usr/share/doc/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/man/*"),
    *("etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/machine-id", "etc/*-"),
)


@dataclass(frozen=True)
class Root:
    """A Debian root on disk.

    Attributes:
        archive: The tar archive.
        suite: The Debian release.
        sha256: Hash of the archive.
        packages: ``name=version`` of everything in it.
    """

    archive: Path
    suite: str
    sha256: str
    packages: tuple[str, ...]


def mirror_of(suite: str) -> str:
    """Return the archive address that this machine's apt uses for a suite; empty to let debootstrap choose."""
    wanted = ["Created-By: Packages", f"Codename: {suite}", "Component: main"]
    asked = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted], capture_output=True, text=True, check=False
    )
    return asked.stdout.partition("\n")[0]


def _bootstrap(folder: Path, suite: str, log: Path) -> tuple[str, ...]:
    if os.geteuid() != 0:
        message = "debootstrap needs root to make the base of the cpu image."
        raise EnvironmentFailure(message, next_command="sudo -E invoke image --flavour cpu")
    command = [find_tool("debootstrap"), "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, str(folder)]
    mirror = mirror_of(suite)
    if mirror:
        command.append(mirror)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    run_logged(command, log, what="debootstrap", environment=environment)
    query = ["dpkg-query", f"--admindir={folder}/var/lib/dpkg", "--show", "--showformat=${Package}=${Version}\\n"]
    listed = run_logged(query, log, what="dpkg-query", environment=environment)
    return tuple(sorted(listed.split()))


def write_archive(folder: Path, target: Path, latest: int, log: Path) -> None:
    """Write a root as a tar archive: sorted, no time later than ``latest``, owners as numbers.

    Args:
        folder: The root.
        target: The archive.
        latest: Files made by the installation itself get this time (seconds since 1970); packaged ones keep theirs,
            which compiled Python files name.
        log: Gets what tar says.

    Raises:
        BuildError: tar failed.
    """
    same = ["--format=gnu", "--sort=name", "--numeric-owner", f"--mtime=@{latest}", "--clamp-mtime"]
    left_out = ["--anchored", "--no-wildcards-match-slash", *(f"--exclude=./{each}" for each in EXCLUDED)]
    command = ["tar", "--create", f"--file={target}", *same, *left_out, f"--directory={folder}", "."]
    run_logged(command, log, what="tar", environment={**os.environ, "LC_ALL": "C"})


def _latest_packaged(folder: Path) -> int:
    """Return the newest time that the packages' own documentation brought; it is the same on every machine."""
    times = [int(path.stat().st_mtime) for path in folder.glob("usr/share/doc/*/changelog*.gz")]
    return max(times, default=0)


def request_of(suite: str) -> str:
    """Return the digest of what a root is asked to be."""
    return digest_of({"suite": suite, "packages": PACKAGES, "excluded": EXCLUDED, "recipe": RECIPE})


def cached_root(project: Project, suite: str) -> Root | None:
    """Return the root that was made for the same request before, when it is whole."""
    folder = project.cache / "base" / request_of(suite)[:16]
    try:
        record = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        root = Root(folder / "rootfs.tar", suite, str(record["sha256"]), tuple(record["packages"]))
        whole = root.archive.stat().st_size == record["size"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return root if whole else None


def provide_root(project: Project, suite: str, log: Path, reporter: Reporter) -> Root:
    """Return the Debian root, making it when it is not in the cache.

    Raises:
        BuildError: debootstrap failed; the log is named.
        EnvironmentFailure: debootstrap is missing, or this is not root.
    """
    cached = cached_root(project, suite)
    if cached is not None:
        return cached
    folder = project.cache / "base" / request_of(suite)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (
        reporter.step(f"debootstrap {suite}: the base of the cpu image"),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".root-", ignore_cleanup_errors=True) as scratch,
    ):
        root, archive = Path(scratch) / "root", Path(scratch) / "rootfs.tar"
        packages = _bootstrap(root, suite, log)
        write_archive(root, archive, _latest_packaged(root), log)
        record = {"sha256": hash_file(archive), "size": archive.stat().st_size, "packages": packages, "suite": suite}
        os.replace(archive, folder / "rootfs.tar")
        write_json(folder / "base.json", record)
        reporter.say(f"    {len(packages)} packages, {record['size']} bytes")
    return Root(folder / "rootfs.tar", suite, str(record["sha256"]), packages)
