"""What is left when all is taken away: nothing. The last module, since the others look at what runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.running import Run, command, tail


def test_cleaning_leaves_nothing_behind(report: dict[str, Any], invoke: Callable[..., Run]) -> None:
    cleaned = invoke("deploy.clean", "lab.down")
    assert cleaned.code == 0, tail(cleaned)
    assert not Path("/run/yrpd-lab").exists()
    assert not Path("/var/lib/yrpd-lab").exists()
    assert "yrpd-lab" not in command("ip", "netns", "list").out
    assert "10.77.0." not in command("ip", "-4", "address").out
    assert "yrpd-lab" not in Path("/proc/self/mounts").read_text(encoding="utf-8")
