"""The base's archive: what is of this machine or moment does not get into it."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from yrpd.building.debian import write_archive

LATEST = 1_600_000_000


def _root(folder: Path, *, clock: int) -> Path:
    for name in ("etc", "usr/share/doc/x", "var/log", "var/lib/dpkg", "var/cache/apt", "usr/bin", "run", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    (folder / "usr/bin/tool").write_text("tool")
    os.utime(folder / "usr/bin/tool", (LATEST - 5, LATEST - 5))
    (folder / "bin").symlink_to("usr/bin")
    os.link(folder / "usr/bin/tool", folder / "usr/bin/same")
    for name in (
        "etc/hostname",
        "etc/machine-id",
        "var/log/dpkg.log",
        "usr/share/doc/x/y",
        "var/lib/dpkg/status-old",
        "etc/passwd-",
    ):
        (folder / name).write_text(str(clock))
    (folder / "etc/generated").write_text("generated")
    os.utime(folder / "etc/generated", (clock, clock))
    return folder


def test_two_roots_made_at_different_times_give_the_same_archive(tmp_path: Path) -> None:
    archives = []
    for number, clock in enumerate((1_700_000_000, 1_800_000_000)):
        root = _root(tmp_path / str(number), clock=clock)
        write_archive(root, tmp_path / f"{number}.tar", LATEST, tmp_path / "log")
        archives.append((tmp_path / f"{number}.tar").read_bytes())
    assert archives[0] == archives[1]


def test_files_of_packages_keep_their_time_and_links_stay_links(tmp_path: Path) -> None:
    root = _root(tmp_path / "root", clock=1_700_000_000)
    write_archive(root, tmp_path / "root.tar", LATEST, tmp_path / "log")
    with tarfile.open(tmp_path / "root.tar") as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
    assert members["usr/bin/tool"].mtime == LATEST - 5
    assert members["etc/generated"].mtime == LATEST
    assert members["bin"].issym()
    assert {members["usr/bin/tool"].islnk(), members["usr/bin/same"].islnk()} == {True, False}
    assert members["tmp"].mode == 0o1777
    assert not {"etc/hostname", "etc/machine-id", "var/log/dpkg.log", "usr/share/doc/x", "etc/passwd-"} & set(members)
    assert {"var/log", "usr/share/doc", "run"} <= set(members)
