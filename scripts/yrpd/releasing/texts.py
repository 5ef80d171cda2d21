"""The file for people: release notes from the series' messages."""

from __future__ import annotations

from collections.abc import Sequence

from yrpd.documents.release_folder import STANDALONE
from yrpd.git.mail import parse_message
from yrpd.releasing.facts import ReleaseFacts

TRAILERS = ("Why", "Upstream", "Removal")


def render_notes(facts: ReleaseFacts) -> bytes:
    """Return the release notes: what was changed, why, and what makes each change go."""
    manifest, upstream = facts.manifest, facts.manifest.upstream
    versions = [[name, version] for name, version in sorted(manifest.versions.items())]
    parts = [
        f"# {manifest.release}",
        f"vllm-ascend {manifest.version}, flavour `{manifest.flavour}`, for {manifest.platform}: upstream "
        f"`{upstream.tag}` (tree `{upstream.tree}`) with {len(facts.patches)} patches. Image: `{manifest.image}`.",
        "## Changes to upstream",
        *map(_patch, facts.patches.values()),
        "## Versions",
        table(("part", "version"), [["vllm-ascend", manifest.version], *versions]),
        "## Check it",
        f"`sha256sum --check SHA256SUMS` proves the files, `invoke image.verify --release {manifest.release}` the "
        "whole chain from the series to a running container.",
        "## Deploy it",
        f"`python3 {STANDALONE} --hosts hosts.toml` in this folder, on any machine that reaches the hosts' engines.",
    ]
    return ("\n\n".join(parts) + "\n").encode()


def _patch(data: bytes) -> str:
    message = parse_message(data)
    trailers = message.trailers
    rows = [f"- {name}: {trailers[name]}" for name in TRAILERS if name in trailers]
    paragraphs = message.body.strip().split("\n\n")
    text = "\n\n".join(paragraphs[:-1] if trailers else paragraphs)
    return "\n\n".join(part for part in (f"### {message.subject}", text, "\n".join(rows)) if part)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])
