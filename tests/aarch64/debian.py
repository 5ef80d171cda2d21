"""A Debian root of aarch64: packages of the release that images stand on, unpacked and not installed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from yrpd.building.debian import mirror_of
from yrpd.errors import EnvironmentFailure

#: What Python, the wheels' libraries and vLLM's look for processors need; apt adds what they depend on.
PACKAGES = ("python3", "libstdc++6", "libgomp1", "libnuma1")
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def unpack(cache: Path, suite: str) -> Path:
    """Unpack the root, unless just these packages were unpacked before.

    apt proves the list of packages by the archive's signature, and each package by the list's hash.

    Args:
        cache: Folder that keeps roots, by the hashes of their packages.
        suite: The release's name.

    Returns:
        The root.

    Raises:
        EnvironmentFailure: This machine's apt has no archive of the suite.
        subprocess.CalledProcessError: apt failed; its words are on stderr.
    """
    lists = cache / "aarch64" / "apt"
    apt = _apt(lists, suite)
    subprocess.run([*apt, "update"], check=True, stdout=sys.stderr)
    install = [*apt, "install", "--yes", "--no-install-recommends"]
    wanted = subprocess.run([*install, "--print-uris", *PACKAGES], check=True, capture_output=True).stdout
    root = cache / "aarch64" / f"root-{hashlib.sha256(wanted).hexdigest()[:16]}"
    if root.exists():
        return root
    print(f"--> unpacking Debian {suite} for aarch64", file=sys.stderr)
    subprocess.run([*install, "--download-only", *PACKAGES], check=True, stdout=sys.stderr)
    partial = root.with_name(f"{root.name}.{os.getpid()}")
    for package in sorted((lists / "cache" / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(partial)], check=True)
    shutil.rmtree(lists)
    try:
        partial.rename(root)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return root


def _apt(folder: Path, suite: str) -> list[str]:
    """Return apt's command line for another machine, with lists, cache and installed packages (none) of its own."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    mirror = mirror_of(suite)
    if not mirror:
        raise EnvironmentFailure(f"apt knows no archive of {suite} here.", next_command="apt-get update")
    source = f"deb [signed-by={_KEYS}] {mirror} {suite} main\n"
    (folder / "sources.list").write_text(source, encoding="utf-8")
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }
    return ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
