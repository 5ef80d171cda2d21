"""A thousand patches: nothing is quadratic, no argument list is too long, and the order stays."""

from __future__ import annotations

import subprocess

from tests.integration.patching.conftest import Tiny
from workshop.bench import patching as figures
from yrpd.documents.series import load_series
from yrpd.reporting import Reporter

COUNT = 1000
MESSAGE = "Change number {0:04}\n\nWhy: because\nUpstream: no\nRemoval: later\n"


def commit_many(tiny: Tiny) -> None:
    """Put a thousand commits on the work tree at once: each adds a line to one of ten files."""
    stream = []
    texts = dict.fromkeys(range(10), "")
    for number in range(COUNT):
        texts[number % 10] += f"line {number}\n"
        message, text = MESSAGE.format(number), texts[number % 10]
        stream += [
            "commit refs/heads/series",
            f"author A <a@x.invalid> {1767225600 + number} +0000",
            f"committer A <a@x.invalid> {1767225600 + number} +0000",
            f"data {len(message)}\n{message}",
            *(["from refs/heads/series^0"] if number == 0 else []),
            f"M 100644 inline many/{number % 10}.txt",
            f"data {len(text)}\n{text}",
        ]
    subprocess.run(
        ["git", "-C", str(tiny.tree), "fast-import", "--quiet"], input="\n".join(stream) + "\n", text=True, check=True
    )
    subprocess.run(["git", "-C", str(tiny.tree), "reset", "--quiet", "--hard"], check=True)


def test_a_thousand_patches_are_exported_applied_and_checked_and_come_back_the_same(tiny: Tiny) -> None:
    commit_many(tiny)
    document = tiny.run("export")
    names = load_series(tiny.patches).names
    assert len(document["patches"]) == len(names) == COUNT + 2
    assert list(names[2:]) == [f"change-number-{number:04}.patch" for number in range(COUNT)]
    assert tiny.run("patch")["tree"] == document["tree"]
    assert tiny.run("patch")["state"] == "unchanged"
    assert tiny.run("check")["passed"]


def test_the_figures_command_measures_every_command_and_leaves_nothing(tiny: Tiny) -> None:
    before = tiny.files()
    project = tiny.project
    (project.root / "tasks.py").write_text(
        "from invoke import task\n\n\n@task\ndef patch(c, pin='', dry_run=False):\n    pass\n"
    )
    document = figures.measure(project=project, reporter=Reporter(as_json=True), rounds=1)
    assert [figure["name"] for figure in document["figures"]] == [
        "cold apply",
        "no-op apply",
        "no-op apply, as a command",
        "check",
        "export",
    ]
    assert all(figure["seconds"] > 0 for figure in document["figures"])
    assert document["figures"][0]["ratio"] > 0
    assert tiny.files() == before
