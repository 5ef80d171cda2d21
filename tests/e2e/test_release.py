"""A copied release folder alone: it brings the image, deploys on the lab, verifies, and goes back by one release."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.e2e.inventories import lab_inventory
from tests.e2e.running import ROOT, Run, command, tail

# Without the packages that this Python has: no site folder, no variable of the environment.
BARE_PYTHON = (str(Path(sys.executable).resolve()), "-IS")


@pytest.fixture
def deploy(quickstart: Run, invoke: Callable[..., Run], tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Run ``deploy.pyz`` of a copied release folder, for a user who has nothing else; its hosts run nothing before."""
    assert quickstart.code == 0, tail(quickstart)
    saved = invoke("image.save", "--json")
    assert saved.code == 0, tail(saved)
    release = shutil.copytree(ROOT / "dist" / saved.document["release"], tmp_path / "release")
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": "", "XDG_STATE_HOME": ""}

    def run(*words: str) -> Run:
        return command(*BARE_PYTHON, str(release / "deploy.pyz"), *words, "--json", environment=home, cwd=tmp_path)

    hosts = str(lab_inventory(tmp_path / "hosts.toml"))
    assert invoke("deploy.clean").code == 0
    yield run
    assert run("clean", "--hosts", hosts).code == 0


def test_a_release_folder_alone_deploys_verifies_and_goes_back(deploy: Callable[..., Run], tmp_path: Path) -> None:
    first = str(lab_inventory(tmp_path / "hosts.toml"))
    changed = str(lab_inventory(tmp_path / "changed.toml", tables={"endpoint": {"retry_after_s": 7}}))
    host2 = docker.DockerClient(base_url="unix:///run/yrpd-lab/host2/docker.sock")
    image = deploy("plan", "--hosts", first).document["image"]
    host2.images.remove(image["id"], force=True)

    deployed = deploy("deploy", "--hosts", first)
    assert deployed.code == 0, tail(deployed)
    assert deployed.document["image_moved_to"] == ["host2"]
    assert host2.images.get(image["reference"]).id == image["id"]

    verified = deploy("verify", "--hosts", first)
    assert verified.code == 0, tail(verified)
    assert verified.document["pictures"]
    assert verified.document["hits"]["loaded_blocks"] > 0

    again = deploy("deploy", "--hosts", changed)
    assert again.code == 0, tail(again)
    assert [each["name"] for each in again.document["changes"] if each["action"] != "keep"] == ["yrpd-endpoint"]
    back = deploy("rollback", "--hosts", changed)
    assert (back.code, back.document["state"]) == (0, "rolled back"), tail(back)
    assert deploy("status", "--hosts", first).document["healthy"]
