"""Runs inside an image, by its ``python3``: prints every Python distribution and system package as one JSON document.

It imports nothing but the standard library, and reads only what package managers wrote down.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import cast

# Environments that are not on this interpreter's path: Envoy's, the DataSystem's.
FURTHER = (
    "opt/*",
    "opt/*/lib*/python3*/site-packages",
    "usr/lib*/python3*/*-packages",
    "usr/local/lib*/python3*/*-packages",
)
UNKNOWN = ("", "UNKNOWN")


def distributions() -> Iterator[dict[str, str]]:
    """Yield name, version, licence and folder of every Python distribution."""
    places = {Path(entry).resolve() for entry in sys.path if entry and Path(entry).is_dir()}
    for pattern in FURTHER:
        places |= {path.resolve() for path in Path("/").glob(pattern) if path.is_dir()}
    for one in metadata.distributions(path=[str(place) for place in places]):
        found = cast(Message, one.metadata)
        name, version = found.get("Name"), found.get("Version")
        if name and version:
            licence = licence_of(found.get("License-Expression"), found.get("License"), found.get_all("Classifier"))
            yield {"name": name, "version": version, "licence": licence, "folder": str(one.locate_file("")).rstrip("/")}


def licence_of(expression: str | None, text: str | None, classifiers: list[str] | None) -> str:
    """Return what a package's metadata says of its licence; empty when it says nothing."""
    if expression:
        return expression
    if text and text not in UNKNOWN and "\n" not in text and len(text) < 100:
        return text.strip()
    named = [one.rpartition(" :: ")[2] for one in classifiers or () if one.startswith("License ::")]
    return " AND ".join(sorted(set(named)))


def system() -> tuple[str, str]:
    """Return the distribution's id and version."""
    fields = {}
    path = Path("/etc/os-release")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        key, _, value = line.partition("=")
        fields[key] = value.strip('"')
    return fields.get("ID", ""), fields.get("VERSION_ID", "")


def debian_packages() -> Iterator[dict[str, str]]:
    """Yield what dpkg has installed; licences are the short names of machine-readable copyright files (DEP-5)."""
    status = Path("/var/lib/dpkg/status")
    for block in status.read_text(encoding="utf-8", errors="replace").split("\n\n") if status.exists() else ():
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name = fields["Package"]
            copyright_file = Path("/usr/share/doc") / name / "copyright"
            text = copyright_file.read_text(encoding="utf-8", errors="replace") if copyright_file.exists() else ""
            licences = sorted(set(re.findall(r"^License: *(\S.*)$", text, re.MULTILINE)))
            row = {"name": name, "version": fields["Version"], "arch": fields["Architecture"]}
            yield {**row, "licence": "; ".join(licences)}


def rpm_packages() -> Iterator[dict[str, str]]:
    """Yield what rpm has installed."""
    query = ["rpm", "-qa", "--queryformat", r"%{NAME}\t%{VERSION}-%{RELEASE}\t%{ARCH}\t%{LICENSE}\n"]
    if not Path("/usr/bin/rpm").exists():
        return
    done = subprocess.run(query, check=True, capture_output=True, text=True)
    for line in sorted(done.stdout.splitlines()):
        name, version, arch, licence = line.split("\t")
        yield {"name": name, "version": version, "arch": arch, "licence": licence}


def main() -> None:
    """Print the document."""
    name, version = system()
    packages = [*debian_packages(), *rpm_packages()]
    document = {"system": name, "system_version": version, "python": [*distributions()], "packages": packages}
    # Engines cut a log's lines at 16 KiB.
    sys.stdout.write(json.dumps(document, indent=0))


if __name__ == "__main__":
    main()
