"""Dockerfiles: what the classic builder accepts, and what this project promises about them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, cast

import pytest
from dockerfile_parse import DockerfileParser

from yrpd.building.cpu_image import ENDPOINT, OPENYUANRONG, VLLM
from yrpd.building.npu_image import build_arguments
from yrpd.documents.patched import Patched
from yrpd.project import Project
from yrpd.release import load_release

PROJECT = Project.here()
NAMES = ("Dockerfile.cpu", "Dockerfile.npu")
CLASSIC = {"ARG", "FROM", "LABEL", "COPY", "ENV", "RUN", "WORKDIR"}


def _steps(name: str) -> list[tuple[str, str]]:
    with (PROJECT.docker / name).open("rb") as stream:
        # The stubs say text; the parser itself reads bytes.
        parser = DockerfileParser(fileobj=cast(IO[str], stream))
        return [(step["instruction"], step["value"]) for step in parser.structure if step["instruction"] != "COMMENT"]


def _text(name: str) -> str:
    return (PROJECT.docker / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_classic_builder_accepts_it(name: str) -> None:
    assert {instruction for instruction, _ in _steps(name)} <= CLASSIC
    for instruction, value in _steps(name):
        assert not re.search(r"(^|\s)--(mount|link|chmod|security|network|parents|exclude)\b", value), value
        assert "<<" not in value, "here-documents are BuildKit's"
        if instruction == "COPY":
            assert re.fullmatch(r"(--from=\w+ )?\S+ /\S*", value), value
    assert not re.match(r"#\s*(syntax|escape|check)\s*=", _text(name))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched_while_it_builds(name: str) -> None:
    for instruction, value in _steps(name):
        assert instruction != "ADD"
        assert not re.search(r"\b(curl|wget|apt-get|yum|dnf|git clone|git fetch)\b", value), value
        for install in re.findall(r"pip install [^&;]*", value):
            assert "--no-index" in install
            assert "--require-hashes" in install


@pytest.mark.parametrize("name", NAMES)
def test_the_base_is_given_and_every_stage_is_marked_for_cleaning(name: str) -> None:
    steps = _steps(name)
    assert steps[0][0] == "ARG"
    for position, (instruction, value) in enumerate(steps):
        if instruction == "FROM":
            assert value.startswith("${")
            assert steps[position + 1][0] == "LABEL"
            assert steps[position + 1][1].startswith("yrpd.stage=")


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.npu"])
def test_it_ends_with_the_import_test_and_the_programs_that_containers_run(name: str) -> None:
    instruction, value = _steps(name)[-1]
    assert instruction == "RUN"
    assert "import_connector.py /vllm-workspace/vllm-ascend ${VERSION}" in value
    assert "for name in vllm yr dscli etcd envoy; do command -v $name || exit 1; done" in value


def test_the_cpu_images_own_layers_have_no_time_of_the_build() -> None:
    steps = _steps("Dockerfile.cpu")
    # COPY gives a folder that it makes the time of the build; those that come with their content keep theirs.
    assert [value for instruction, value in steps if instruction == "COPY"] == ["root /"]
    runs = [value for instruction, value in steps if instruction == "RUN"]
    assert len(runs) == 1
    assert "-newer /tmp/before" in runs[0]
    assert runs[0].endswith("touch --date=@0 /tmp")


@pytest.mark.parametrize("name", NAMES)
def test_the_wheels_stay_in_a_stage_that_is_thrown_away(name: str) -> None:
    steps = _steps(name)
    last_stage = max(position for position, (instruction, _) in enumerate(steps) if instruction == "FROM")
    assert not [value for _, value in steps[last_stage:] if "wheelhouse" in value]


def test_the_npu_image_is_the_tutorials_with_the_series_applied_proved_and_rebuilt_in_it() -> None:
    steps = _steps("Dockerfile.npu")
    assert steps[0] == ("ARG", "BASE"), "a default would be a tag, which can be moved"
    runs = [value for instruction, value in steps if instruction == "RUN"]
    assert "check_cann.sh ${CANN}" in runs[1]
    assert "apply_series.sh /vllm-workspace/vllm-ascend /opt/yrpd/series ${PIN_TREE} ${RESULT_TREE}" in runs[2]
    assert "rebuild.sh /vllm-workspace/vllm-ascend ${VERSION} ${SOC_VERSION} ${KERNELS}" in runs[3]
    assert "torch-npu" in runs[4]


def test_every_argument_of_the_npu_image_is_given() -> None:
    release = load_release(PROJECT.release_file)
    name, pin = release.pin()
    patched = Patched(name, pin, Path("t"), release.patched_version(name), "c" * 40, "d" * 40, "e" * 64, (), ())
    asked = {value.partition("=")[0] for instruction, value in _steps("Dockerfile.npu") if instruction == "ARG"}
    given = build_arguments(release, patched, "sha256:base")
    assert asked == set(given)
    assert all(given.values())
    assert given["KERNELS"] == "keep"


def test_the_endpoint_never_shares_an_environment_with_vllm() -> None:
    assert len({VLLM, ENDPOINT, OPENYUANRONG}) == 3
    assert "/opt/endpoint" in _text("Dockerfile.npu")


def test_the_shipped_scripts_are_plain_sh_that_stops_at_the_first_failure() -> None:
    for name in ("apply_series.sh", "rebuild.sh"):
        text = _text(name)
        assert text.startswith("#!/bin/sh\n")
        assert "\nset -eu\n" in text
