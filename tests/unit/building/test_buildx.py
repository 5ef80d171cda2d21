"""buildx's command line as data, and its output read: a program that replays recorded lines stands in for it."""

from __future__ import annotations

import base64
import itertools
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from yrpd.building.buildx_engine import INSTALL, Progress, build_command, find_buildx, image_of, run
from yrpd.building.context import Context
from yrpd.building.engines import open_engine
from yrpd.building.layers import Layer
from yrpd.docker.connection import read_stream
from yrpd.errors import ConfigurationError, EnvironmentFailure, ImageError
from yrpd.reporting import Reporter

LAYER = Layer("cpu", "yrpd-x", "1-", {"base": "b"}, {"title": "a title"})


def _line(**status: Any) -> str:
    return json.dumps(status) + "\n"


STEP = {"digest": "sha256:1", "name": "[2/2] RUN make"}
BUILDING = [
    _line(vertexes=[{**STEP, "started": "2026-01-01T00:00:00Z"}]),
    _line(logs=[{"vertex": "sha256:1", "stream": 1, "data": base64.b64encode(b"compiling\n").decode()}]),
    _line(statuses=[{"id": "x", "vertex": "sha256:1", "current": 1, "total": 2}]),
]
DONE = _line(vertexes=[{**STEP, "started": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:00:01Z"}])
FAILED = _line(vertexes=[{**STEP, "error": "process did not complete: exit code: 3"}])


def _program(folder: Path, lines: list[str], code: int) -> list[str]:
    """A program that takes the context and then prints recorded lines."""
    (folder / "lines").write_text("".join(lines))
    path = folder / "docker"
    path.write_text(f"#!/bin/sh\ncat > {folder}/context.tar\ncat {folder}/lines >&2\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return [str(path)]


def _context() -> Context:
    context = Context()
    context.add_bytes("Dockerfile", b"FROM scratch\n")
    return context


def test_the_command_line_has_no_network_no_attestation_and_fixed_times() -> None:
    command = build_command("docker", "unix:///x.sock", LAYER, "Dockerfile", {"BASE": "b:1"}, "/m.json")
    assert command[:5] == ["docker", "--host", "unix:///x.sock", "buildx", "build"]
    assert {"--network=none", "--load", "--provenance=false", "--sbom=false", "--progress=rawjson"} <= set(command)
    assert f"--tag={LAYER.image}" in command
    assert command[-1] == "-"
    pairs = set(itertools.pairwise(command))
    assert ("--build-arg", "BASE=b:1") in pairs
    assert ("--build-arg", "SOURCE_DATE_EPOCH=0") in pairs
    assert {("--label", f"{key}={value}") for key, value in LAYER.all_labels.items()} <= pairs


def test_the_same_layer_gives_the_same_command_line() -> None:
    arguments = {"B": "2", "A": "1"}
    again = dict(reversed(arguments.items()))
    first, second = (build_command("docker", "a", LAYER, "f", one, "m") for one in (arguments, again))
    assert first == second


def test_steps_and_what_they_print_become_lines_each_once() -> None:
    lines: list[str] = []
    read_stream(Progress().events([*BUILDING, BUILDING[0], DONE]), lines.append, what="building x")
    assert lines == ["started: [2/2] RUN make", "compiling", "done: [2/2] RUN make"]


def test_a_cached_step_is_said_to_be_cached() -> None:
    cached = _line(vertexes=[{**STEP, "cached": True, "completed": "2026-01-01T00:00:01Z"}])
    assert list(Progress().events([cached])) == [{"stream": "cached: [2/2] RUN make\n"}]


def test_documents_over_many_lines_are_read_as_if_each_was_one_line() -> None:
    spread = [f"{one}\n" for line in (*BUILDING, DONE) for one in json.dumps(json.loads(line), indent=2).split("\n")]
    assert list(Progress().events(["text\n", *spread])) == list(Progress().events(["text\n", *BUILDING, DONE]))


def test_what_is_no_status_is_text() -> None:
    assert list(Progress().events(["a line\n", "[1]\n"])) == [{"stream": "a line\n"}, {"stream": "[1]\n"}]


def test_the_context_is_fed_and_the_lines_are_read(tmp_path: Path) -> None:
    lines: list[str] = []
    read_stream(run(_program(tmp_path, [*BUILDING, DONE], 0), _context()), lines.append, what="building x")
    assert (tmp_path / "context.tar").read_bytes() == b"".join(_context().chunks())
    assert lines[-1] == "done: [2/2] RUN make"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([*BUILDING, FAILED, "ERROR: failed to solve\n"], r"\[2/2\] RUN make: process did not complete: exit code: 3"),
        (["ERROR: cannot reach the engine\n"], "failed: cannot reach the engine"),
        ([], "buildx ended with code 1"),
    ],
)
def test_a_buildx_that_fails_is_an_error_with_its_reason(tmp_path: Path, lines: list[str], why: str) -> None:
    with pytest.raises(ImageError, match=why):
        read_stream(run(_program(tmp_path, lines, 1), _context()), lambda _: None, what="building x")


def test_a_buildx_that_does_not_read_its_context_does_not_hang(tmp_path: Path) -> None:
    command = _program(tmp_path, [], 1)
    Path(command[0]).write_text("#!/bin/sh\necho 'ERROR: no such option'\nexit 1\n")
    context = _context()
    context.add_bytes("large", bytes(4 << 20))
    with pytest.raises(ImageError, match="no such option"):
        read_stream(run(command, context), lambda _: None, what="building x")


def test_the_image_is_what_the_metadata_file_names() -> None:
    made = json.dumps({"containerimage.config.digest": "sha256:2", "containerimage.digest": "sha256:3"})
    assert image_of(made) == "sha256:2"
    assert image_of("{}") == image_of("no json") == image_of("[]") == ""


@pytest.mark.parametrize(
    "script", [None, "#!/bin/sh\necho \"docker: 'buildx' is not a docker command.\" >&2\nexit 1\n"]
)
def test_without_buildx_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    if script is not None:
        path = Path(_program(tmp_path, [], 1)[0])
        path.write_text(script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    with pytest.raises(EnvironmentFailure, match="buildx was asked for") as caught:
        find_buildx(Reporter())
    assert caught.value.next_command == INSTALL


def test_an_engine_that_there_is_not_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there are: sdk, buildx"):
        open_engine("podman", Reporter(), tmp_path / "log")
