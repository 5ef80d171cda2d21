"""Images and the hosts of an inventory: what is wrong in a command is said before anything is done or planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.deploying.inventories import GOOD
from yrpd.commands import image
from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.reporting import Reporter


@pytest.mark.parametrize("command", [image.load, image.verify])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_host_that_the_inventory_does_not_have_is_refused_also_in_a_dry_run(
    tmp_path: Path, command: object, dry_run: bool
) -> None:
    hosts = tmp_path / "hosts.toml"
    hosts.write_text(GOOD, encoding="utf-8")
    assert callable(command)
    with pytest.raises(ConfigurationError, match="has no host 'nope'; it has: ") as caught:
        command(
            project=Project(tmp_path),
            reporter=Reporter(),
            flavour="cpu",
            host="nope",
            hosts_file=hosts,
            dry_run=dry_run,
        )
    assert caught.value.exit_code == 2
