"""What stands in the way of a deployment, and what only deserves a word. Pure."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from yrpd.errors import EnvironmentFailure

Severity = Literal["error", "warning"]
CLOCK_TOLERANCE_S = 5.0
# The DataSystem worker's jemalloc is compiled for pages of this size and ends the process on any larger one.
WORKER_PAGE_BYTES = 4096
NAMED_FILES = 3
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
DENIED = (os.strerror(errno.EACCES), os.strerror(errno.EPERM))


@dataclass(frozen=True)
class Finding:
    """Something that stands in the way, or deserves a word.

    Attributes:
        id: What kind of thing; stays the same from release to release.
        host: Where.
        problem: One sentence.
        fix: What to type next.
        severity: ``error`` keeps from deploying, ``warning`` is said.
    """

    id: str
    host: str
    problem: str
    fix: str
    severity: Severity = "error"

    def document(self) -> dict[str, str]:
        """Return the finding as JSON values."""
        return {"id": self.id, "host": self.host, "severity": self.severity, "message": self.problem, "fix": self.fix}


def demand_nothing_in_the_way(findings: Sequence[Finding]) -> None:
    """Raise one error for all findings that keep from deploying.

    Raises:
        EnvironmentFailure: There are such findings.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    first = errors[0]
    message = f"{first.host}: {first.problem}."
    if len(errors) > 1:
        message = f"{len(errors)} things stand in the way, nothing was changed. The first: {message}"
    raise EnvironmentFailure(
        message,
        next_command=first.fix,
        detail="\n".join(f"[{each.id}] {each.host}: {each.problem}; {each.fix}" for each in findings),
        document={
            "error": message,
            "exit_code": EnvironmentFailure.exit_code,
            "next": first.fix,
            "findings": [each.document() for each in findings],
        },
    )


def incomplete_model(
    host: str, folder: str, files: Mapping[str, Any], index: str | None, fix: str
) -> Iterator[Finding]:
    """Yield a finding when the model's index names files that are not there, or files are empty or cannot be read."""
    closed = sorted(f"{name} ({why})" for name, (_, why) in files.items() if why in DENIED)
    if closed:
        yield Finding(
            "model-unreadable",
            host,
            f"containers cannot read {', '.join(closed[:NAMED_FILES])} in {folder}",
            f"on {host}: chmod -R a+rX {folder}, and with SELinux: chcon -Rt container_file_t {folder}",
        )
        return
    if "." not in files and not any(name.endswith(WEIGHTS) for name in files):  # it is mounted, without weights
        yield Finding("model", host, f"the model folder {folder} has no weights ({', '.join(WEIGHTS)})", fix)
    try:
        named = set(json.loads(index or "{}")["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        named = set()
    missing = sorted(named - files.keys())
    empty = sorted(name for name, (size, _) in files.items() if size == 0 and name.endswith((".safetensors", ".json")))
    for kind, names in (("lacks", missing), ("has nothing in", empty)):
        if names:
            more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
            yield Finding(
                "model-incomplete", host, f"the model in {folder} {kind} {', '.join(names[:NAMED_FILES])}{more}", fix
            )


def different_models(folder: str, files: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield a finding for every host whose model's files are not those of the first host.

    Args:
        folder: The model's folder.
        files: Host to its files: path to size and digest.
    """
    hosts = list(files)
    for host in hosts[1:]:
        first, other = files[hosts[0]], files[host]
        differing = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        if differing:
            told = (
                f"{folder} is not the model that {hosts[0]} has: {', '.join(differing[:NAMED_FILES])}"
                f"{' and more' if len(differing) > NAMED_FILES else ''}; blocks of one would be wrong for the other"
            )
            yield Finding("model-differs", host, told, f"copy {folder} from {hosts[0]} to {host}")


def clock_findings(host: str, clock: float, before: float, after: float) -> Iterator[Finding]:
    """Yield a finding when a host's clock, read between two readings of ours, lies outside of them.

    Args:
        host: Where.
        clock: Its clock, in seconds.
        before: Our clock before it was asked.
        after: Our clock after it had answered.
    """
    skew = max(before - clock, clock - after, 0.0)
    if skew > CLOCK_TOLERANCE_S:
        told = f"its clock is {skew:.0f} s {'behind' if clock < before else 'ahead'}; leases and logs would disagree"
        yield Finding("clock", host, told, f"chronyc makestep  # on {host}")


def page_findings(host: str, page_bytes: int) -> Iterator[Finding]:
    """Yield a finding when the kernel's pages are larger than the DataSystem worker was compiled for.

    Args:
        host: Where.
        page_bytes: Size of a page of memory there, in bytes.
    """
    if page_bytes > WORKER_PAGE_BYTES:
        told = (
            f"its kernel has pages of {page_bytes >> 10} KiB; the DataSystem worker runs on pages of "
            f"{WORKER_PAGE_BYTES >> 10} KiB alone"
        )
        yield Finding("page-size", host, told, f"boot a kernel with 4 KiB pages on {host}   (getconf PAGESIZE tells)")
