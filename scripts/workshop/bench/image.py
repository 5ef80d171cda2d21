"""What ``invoke image``, ``image.save`` and ``image.load`` cost, typed as people type them, in a copy of this checkout.

The engine that builds is this machine's; a second one, private and empty, stands for another host.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from workshop import lab
from workshop.bench.figures_of_a_run import Figure, Goal, document, table
from workshop.bench.statistics import estimate, measure, paired_ratio
from workshop.lab.layout import BUILDER, named_lab
from yrpd.cli import execute
from yrpd.docker import connection as engine
from yrpd.docker.sdk import DockerClient
from yrpd.errors import ImageError
from yrpd.git.repository import Repository
from yrpd.options import FLAVOUR, PIN
from yrpd.project import Project
from yrpd.release import load_release
from yrpd.reporting import Reporter

LAB = "yrpd-bench"
CHANGED = "connector_src/yuanrong/keys.py"
NOTHING_TO_DO, REBUILD, MOVED = Goal(2.0, False), Goal(15.0, False), Goal(5.0, False)
AGAINST_DOCKER = Goal(1.1, False)


class Checkout:
    """A copy of a checkout, in which a file is changed and commands are typed.

    Args:
        project: The original; wheels and roots are shared with it.
        folder: Where the copy is.
    """

    def __init__(self, project: Project, folder: Path) -> None:
        self.folder = folder
        listed = Repository(project.root).run("ls-files", "--cached", "--others", "--exclude-standard", "-z")
        names = os.fsdecode(listed).split("\0")
        for name in filter(None, names):
            if (project.root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(project.root / name, folder / name)
        # One pin for everything that is typed, so that only its series has to be written and its image made.
        self._pin, _ = load_release(project.release_file).pin(os.environ.get(PIN.variable, ""))
        chosen = {FLAVOUR.variable: "cpu", PIN.variable: self._pin, "YRPD_CACHE": str(project.cache)}
        self._environment = {**os.environ, **chosen}

    def invoke(self, *words: str, engine_address: str = "") -> dict[str, Any]:
        """Type ``invoke WORDS --json``, one task, and return its document.

        Raises:
            ImageError: It failed.
        """
        environment = dict(self._environment)
        if engine_address:
            environment["DOCKER_HOST"] = engine_address
        command = [sys.executable, "-m", "invoke", *words, "--json"]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ImageError(
                f"invoke {' '.join(words)} failed.", next_command="invoke image", detail=done.stderr[-2000:]
            )
        return dict(json.loads(done.stdout))

    def change_the_connector(self, number: int) -> None:
        """Change one file of the connector, and write it into the series."""
        path = self.folder / CHANGED
        path.write_text(f"{path.read_text(encoding='utf-8').rstrip()}\n# {number} {time.time_ns()}\n", encoding="utf-8")
        self.invoke("patch.export", "--pin", self._pin)


def timed(command: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that a command takes, by the clock and of processors (its own processes' alone)."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command()
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def second_engine(project: Project, reporter: Reporter) -> Iterator[str]:
    """Run an empty private engine for as long as the block runs, and give its address."""
    try:
        lab.builder(project=project, reporter=reporter, lab_name=LAB)
        yield named_lab(LAB).folders(BUILDER).engine
    finally:
        lab.down(project=project, reporter=reporter, lab_name=LAB)


def run(project: Project, reporter: Reporter, rounds: int, command: str) -> dict[str, Any]:
    """Measure, print the table and return the document."""
    parent = project.build / "bench"
    parent.mkdir(parents=True, exist_ok=True)
    made: list[str] = []
    with tempfile.TemporaryDirectory(dir=parent, prefix="image.") as scratch:
        checkout = Checkout(project, Path(scratch))
        try:
            with reporter.step("the release that another host has"):
                checkout.invoke("patch")
                base = checkout.invoke("image")
            figures = _nothing_to_do(checkout, rounds, reporter)
            with second_engine(project, reporter) as other:
                figures += _against_docker(checkout, base["image"], other, rounds, reporter)
                figures += _changed(checkout, other, rounds, reporter, made)
        finally:
            _remove(made)
    reporter.render(table(figures, "Images and releases (median, 95 % bootstrap interval)"))
    return document(
        figures,
        command,
        {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "load_average": os.getloadavg()[0],
            "image": base["image"],
        },
    )


def _nothing_to_do(checkout: Checkout, rounds: int, reporter: Reporter) -> list[Figure]:
    with reporter.step("invoke image with nothing to do"):
        samples = [timed(lambda: checkout.invoke("image")) for _ in range(rounds)]
    return [
        Figure("invoke image, nothing to do", "of", "clock", estimate([one for one, _ in samples]), "s", NOTHING_TO_DO),
        Figure("invoke image, nothing to do", "of", "processor", estimate([one for _, one in samples]), "s"),
    ]


def _against_docker(checkout: Checkout, image: str, other: str, rounds: int, reporter: Reporter) -> list[Figure]:
    def through_a_pipe(_: int) -> float:
        _empty(other)
        pipe = f"set -o pipefail; docker save {image} | docker -H {other} load"
        return timed(lambda: subprocess.run(["bash", "-c", pipe], check=True, capture_output=True))[0]

    def through_a_file(_: int) -> float:
        _empty(other)
        file = checkout.folder / "image.tar"
        script = f"set -e; docker save {image} -o {file}; docker -H {other} load -i {file}; rm {file}"
        return timed(lambda: subprocess.run(["bash", "-c", script], check=True, capture_output=True))[0]

    def ours(_: int) -> float:
        _empty(other)
        for tarball in (checkout.folder / "dist").glob("*/image.tar.zst"):
            tarball.unlink()

        def both() -> None:
            checkout.invoke("image.save")
            checkout.invoke("image.load", engine_address=other)

        return timed(both)[0]

    with reporter.step("save and load, against docker's"):
        arms = {"ours": ours, "pipe": through_a_pipe, "file": through_a_file}
        samples = measure(arms, rounds, warm_up=0)
    name = "image.save + image.load"
    return [
        Figure(name, "of", "clock", estimate(samples["ours"]), "s"),
        Figure(
            f"{name} / docker save | docker load",
            "of",
            "clock",
            paired_ratio(samples["ours"], samples["pipe"]),
            goal=AGAINST_DOCKER,
        ),
        Figure(
            f"{name} / docker save -o, docker load -i", "of", "clock", paired_ratio(samples["ours"], samples["file"])
        ),
    ]


def _changed(checkout: Checkout, other: str, rounds: int, reporter: Reporter, made: list[str]) -> list[Figure]:
    image, whole, moved = [], [], []
    if not _has_images(other):
        checkout.invoke("image.load", engine_address=other)
    with reporter.step("a change of the connector, built and brought to a host that has the release before"):
        for number in range(rounds):
            checkout.change_the_connector(number)
            applied, _ = timed(lambda: checkout.invoke("patch"))
            built, _ = timed(lambda: made.append(checkout.invoke("image")["image"]))
            image.append(built)
            whole.append(applied + built)
            checkout.invoke("image.save")
            moved.append(checkout.invoke("image.load", engine_address=other)["moved_bytes"] / 1e6)
    name = "connector-only change"
    return [
        Figure(f"{name}: invoke image", "of", "clock", estimate(image), "s", REBUILD),
        Figure(f"{name}: invoke patch image", "of", "clock", estimate(whole), "s", REBUILD),
        Figure(f"{name}: sent to a host with the base", "of", "bytes", estimate(moved), "MB", MOVED),
    ]


def _has_images(address: str) -> bool:
    with closing(DockerClient(base_url=address)) as client:
        return bool(client.images.list())


def _empty(address: str) -> None:
    """Remove all images of the private engine."""
    with closing(DockerClient(base_url=address)) as client:
        for image in client.images.list():
            client.images.remove(str(image.id), force=True)


def _remove(images: Sequence[str]) -> None:
    """Remove what was built for a figure."""
    with closing(engine.connect()) as client:
        for one in images:
            client.images.remove(one, force=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; the exit code is the error class's. A missed goal is a result and not an error."""
    parser = argparse.ArgumentParser(prog="bench_image.py", description="Benchmark of images (docs/bench/image.md)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each figure")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, all else on stderr")
    parser.add_argument("--verbose", action="store_true", help="a traceback on failure")
    options = parser.parse_args(arguments)
    command = f".venv/bin/python scripts/bench_image.py --rounds {options.rounds}"
    execute(
        lambda project, reporter: run(project, reporter, options.rounds, command),
        as_json=options.json,
        verbose=options.verbose,
    )
