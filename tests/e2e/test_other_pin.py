"""The pins beside the default one, on the hosts of the quickstart: their own image, deployment and verification."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.running import Run, tail
from yrpd.project import Project
from yrpd.release import load_release

RELEASE = load_release(Project.here().release_file)
OTHERS = [pin for pin in RELEASE.pins if pin != RELEASE.release.default_pin]


@pytest.mark.parametrize("pin", OTHERS)
def test_on_another_pin_the_endpoint_answers_like_that_pins_vllm(
    quickstart: Run, invoke: Callable[..., Run], pin: str
) -> None:
    assert quickstart.code == 0, tail(quickstart)
    chosen = {"YRPD_PIN": pin}
    made = invoke("patch", "build", "image", "deploy", environment=chosen)
    assert made.code == 0, tail(made)
    verified = invoke("deploy.verify", "--json", environment=chosen)
    assert verified.code == 0, tail(verified)
    report = verified.document
    assert RELEASE.upstream[pin].version in report["image"]["reference"]
    assert report["pictures"]
    assert report["hits"]["saved_blocks"] >= report["hits"]["loaded_blocks"] > 0
