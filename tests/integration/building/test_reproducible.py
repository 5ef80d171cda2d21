"""Two checkouts, two users, two days: the same context, the same layers, the same image id."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker import DockerClient
from docker.errors import ImageNotFound

from tests.integration.images import remove_images
from tests.integration.patching.conftest import Tiny, add_series, git, make_tiny
from yrpd.project import Project
from yrpd.wheels.wheelfile import pure_metadata, write_wheel

HERE = Project.here()
NAME = "yrpd-test-reproducible"
# Runs in a checkout, as whoever made it, with that checkout's own code.
PROGRAM = """
import contextlib, hashlib, json, sys
from pathlib import Path
from yrpd.building.assembly import Part, Settings, image_archive
from yrpd.building.context import Context
from yrpd.building.cpu_image import ENVIRONMENT, final_context, plan_stack
from yrpd.building.debian import Root
from yrpd.building.environment import add_environment
from yrpd.building.openyuanrong import OpenYuanrong
from yrpd.documents.patched import load_patched
from yrpd.building.runtime import Locks
from yrpd.wheels.wheelhouse import Wheel
from yrpd.patching import commands
from yrpd.project import Project, hash_file
from yrpd.reporting import Reporter

root, wheel, target, name = Path.cwd(), Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
project = Project(root)
commands.patch(project=project, reporter=Reporter(as_json=True))
release, patched = load_patched(project)
context = final_context(project, patched, project.docker / "Dockerfile.cpu")
base = Root(root / "none", "bookworm", "a" * 64, ())
stack = plan_stack(project, release, patched, Locks.of(project, "runtime-cpu"), OpenYuanrong.of(project), base)

def layer(opened):
    files = Context()
    stored = Wheel("some", "1.0", hash_file(wheel), wheel)
    add_environment(files, "/opt/vllm", [stored], project, opened)
    return files.size, files.chunks()

with target.open("wb") as stream:
    for chunk in image_archive(name, [Part("layer", layer)], (), Settings(stack.final.all_labels, ENVIRONMENT)):
        stream.write(chunk)
print(json.dumps({
    "tree": patched.tree,
    "commit": patched.commit,
    "context": context.digest,
    "stream": hashlib.sha256(b"".join(context.chunks())).hexdigest(),
    "inputs": [one.digest for one in stack.layers],
    "image": hash_file(target),
}))
"""


@dataclass(frozen=True)
class Circumstances:
    """Where, by whom and when a checkout is made and used."""

    folder: str
    user: int
    umask: str
    clock: str
    environment: dict[str, str]


CASES = (
    Circumstances("one", 0, "022", "2026-11-22 10:00:00", {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "0"}),
    Circumstances(
        "two/deeper with a blank",
        54321,
        "077",
        "2031-02-28 23:59:30",
        {"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "4711"},
    ),
)


def _source(tiny: Tiny, wheel: Path) -> Path:
    """A repository with the small series and this project's own code and locks, and a wheel beside it."""
    source = tiny.project.root
    shutil.rmtree(tiny.project.build, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("scripts", "docker"):
        shutil.copytree(HERE.root / name, source / name, ignore=ignored)
    git(source, "init", "-q", "-b", "main")
    git(source, "add", "-A", "-f")
    git(source, "commit", "-q", "-m", "project")
    sets = "".join(
        f"V{n} = {{'a{n}', 'b', {n}, 'c'}}\ndef f{n}(x): return x in {{'p', 'q{n}', 'r'}}\n" for n in range(50)
    )
    files = {
        **pure_metadata("some", "1.0", "A wheel", "py3-none-any"),
        "some/__init__.py": sets.encode(),
        "some-1.0.dist-info/entry_points.txt": b"[console_scripts]\nsome = some:main\n",
    }
    write_wheel(wheel, files)
    return source


def _run(case: Circumstances, place: Path, source: Path, wheel: Path) -> dict[str, object]:
    """Clone the source as this user, at this time, and return what the program says there."""
    folder, target = place / case.folder, place / f"{case.user}.tar"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Whoever runs it owns everything, as git wants it.
    for path in (place, *place.rglob("*")):
        os.chown(path, case.user, case.user, follow_symlinks=False)
    # Another user who may still read this interpreter's own folders, wherever they are.
    rights = "+dac_override,+dac_read_search"
    become = ["setpriv", f"--reuid={case.user}", f"--regid={case.user}", "--clear-groups"]
    become += [f"--inh-caps={rights}", f"--ambient-caps={rights}"]
    script = 'umask "$1"; git clone -q "$2" "$3"; cd "$3"; PYTHONPATH="$3/scripts" exec "$4" -B -c "$5" "$6" "$7" "$8"'
    words = [case.umask, str(source), str(folder), sys.executable, PROGRAM, str(wheel), str(target), f"{NAME}:1"]
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "PATH"))}
    environment = {**kept, **case.environment, "HOME": str(place), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        [*become, "faketime", "-f", f"@{case.clock}", "sh", "-ec", script, "sh", *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert folder.stat().st_uid == case.user
    document: dict[str, object] = json.loads(done.stdout)
    return document


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may look into, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="yrpd-reproducible-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def results(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What each case says."""
    tiny = add_series(make_tiny(place, monkeypatch))
    wheel = place / "some-1.0-py3-none-any.whl"
    source = _source(tiny, wheel)
    return [_run(case, place, source, wheel) for case in CASES]


def test_folder_user_umask_clock_zone_locale_and_hash_seed_change_nothing(
    results: list[dict[str, object]], place: Path, client: DockerClient
) -> None:
    assert results[0] == results[1]
    made = []
    try:
        for case in CASES:
            remove_images(client, NAME)
            with pytest.raises(ImageNotFound):
                client.images.get(f"{NAME}:1")
            (image,) = client.images.load((place / f"{case.user}.tar").read_bytes())
            made.append((image.id, tuple(image.attrs["RootFS"]["Layers"])))
    finally:
        remove_images(client, NAME)
    assert made[0] == made[1]
