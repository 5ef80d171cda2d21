"""Programs are found where a machine has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from yrpd.building.toolbox import find_tool
from yrpd.errors import EnvironmentFailure


def test_a_program_of_root_is_found_though_the_path_lacks_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert Path(find_tool("ldconfig")).parent in (Path("/usr/sbin"), Path("/sbin"))


def test_a_program_that_is_nowhere_is_named_with_the_next_command() -> None:
    with pytest.raises(EnvironmentFailure, match="The program no-such-program is missing") as caught:
        find_tool("no-such-program")
    assert caught.value.next_command == "bash scripts/quickstart.sh"
