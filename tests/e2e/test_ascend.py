"""The npu flavour, whole: ``invoke patch build image deploy deploy.verify`` on two stand-ins of Ascend hosts.

The base image, the hosts' devices and drivers, and the NPU itself are stand-ins; vLLM, vllm-ascend with its scheduler
and workers, the DataSystem with its client and device plugin, Docker and its device rules are real.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import docker
import pytest

from tests.e2e.ascend import base, hosts
from tests.e2e.ascend.checkout import CANN, NAME, Checkout
from tests.e2e.running import INVOKE, Run, command, tail
from tests.integration.images import remove_images
from yrpd.building.image_engine import ImageEngine
from yrpd.building.layers import Layer
from yrpd.building.npu_base import with_digest
from yrpd.commands import image
from yrpd.deploying.hosts import transfer
from yrpd.deploying.hosts.engines import connect as connect_to
from yrpd.docker.connection import connect
from yrpd.documents.image_record import load_image_record
from yrpd.documents.manifest import read_manifest
from yrpd.documents.patched import Patched, load_patched
from yrpd.documents.release_folder import STANDALONE, ReleaseFolder
from yrpd.project import Project
from yrpd.releasing.verifying import verify_folder, verify_image
from yrpd.reporting import Reporter


@dataclass(frozen=True)
class Made:
    """The npu image that was made from the stand-in, and what the tasks said."""

    client: docker.DockerClient
    patched: Patched
    checkout: Checkout
    refused: Run
    run: Run

    @property
    def document(self) -> dict[str, Any]:
        """The image's record."""
        (record,) = (self.checkout.root / "dist").glob("image-npu*.json")
        loaded: dict[str, Any] = json.loads(record.read_text())
        return loaded

    def inside(self, *words: str) -> str:
        """Run a command in a container of the image."""
        output = self.client.containers.run(self.document["id"], list(words), network_mode="none", remove=True)
        return bytes(output).decode("utf-8", "replace")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The image, made by the commands in a checkout of its own; it goes with the module, as the base does."""
    here, folder = Project.here(), tmp_path_factory.mktemp("npu")
    _, patched = load_patched(here)
    image.make(project=here, reporter=Reporter(), flavour="cpu")
    client = connect()
    runtimes = client.images.list(filters={"label": "yrpd.layer=runtime"})
    layer = Layer("base", f"yrpd-test-{uuid.uuid4().hex[:12]}", "base-", {"stand-in": "npu"}, {})
    engine = ImageEngine(client, Reporter(), folder / "stand-in.log")
    try:
        runtime = next(image.tags[0] for image in runtimes if image.tags)
        context = base.stand_in(patched, Path("/usr/bin/git"), folder)
        identity = engine.build(layer, context, "Dockerfile", {"BASE": runtime})
        checkout = Checkout(folder / "checkout", here.cache)
        checkout.edit(NAME, f'name = "{layer.repository}"')
        file = checkout.root / "release.toml"
        file.write_text(with_digest(file.read_text(), patched.name, f"sha256:{'0' * 64}", identity))
        refused = checkout.invoke("patch", "build", "image")
        checkout.edit(CANN, 'cann = "8.5.0"')
        run = checkout.invoke("patch", "build", "image")
        assert run.code == 0, tail(run)
        yield Made(client, patched, checkout, refused, run)
    finally:
        remove_images(client, layer.repository)
        client.close()


@pytest.fixture(scope="module")
def deployed(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """What ``deploy deploy.verify`` says on the hosts, which are taken away afterwards."""
    folder = tmp_path_factory.mktemp("hosts")
    mounts = hosts.write_hosts(folder / "overlay", hosts.driver_libraries(folder / "lib64", made.patched.name))
    lab = hosts.lab_file(folder / "lab.toml")
    try:
        up = command(INVOKE, "lab.up", "--hosts", str(lab), "--overlay", str(folder / "overlay"))
        assert up.code == 0, tail(up)
        # By ssh this would take minutes, which nothing here is about.
        transfer.move(made.client, hosts.from_here(), load_image_record(Project(made.checkout.root), "npu"), Reporter())
        with hosts.reached_by_ssh(folder / "home") as engines:
            inventory = hosts.write_inventory(folder / "hosts.toml", engines, mounts)
            variables = {"HOME": str(folder / "home"), "YRPD_HOSTS": str(inventory)}
            run = made.checkout.invoke("patch", "build", "image", "deploy", "deploy.verify", **variables)
            if run.code:
                print(tail(made.checkout.invoke("deploy.logs", "--tail", "60", **variables)))
            yield run
    finally:
        down = command(INVOKE, "lab.down", "--name", hosts.LAB)
        assert down.code == 0, tail(down)


def test_with_the_tutorials_cann_the_image_is_refused_on_this_machine(made: Made) -> None:
    assert made.refused.code == 6, tail(made.refused)
    assert "has no device plugin" in made.refused.err
    assert "--datasystem FILE" in made.refused.err


def test_the_series_is_applied_by_git_am_and_the_tree_is_the_locks(made: Made) -> None:
    assert made.document["labels"]["yrpd.tree"] == made.patched.tree
    assert "kernel rebuild: not needed" in made.run.out + made.run.err
    found = made.inside("sh", "-c", "ls /vllm-workspace/vllm-ascend/vllm_ascend/distributed/yuanrong")
    assert "connector.py" in found.split()


def test_the_compiled_kernels_of_the_base_are_kept_byte_for_byte(made: Made) -> None:
    for name in base.KERNELS:
        assert made.inside("cat", f"/vllm-workspace/vllm-ascend/{name}") == f"compiled {name}\n"
    assert made.inside("cat", "/vllm-workspace/vllm-ascend/vllm_ascend/_build_info.py") == base.BUILD_INFO


def test_it_is_installed_by_develop_under_its_own_version_and_what_the_base_had_is_gone(made: Made) -> None:
    ask = "import importlib.metadata as m; print(*[d.version for d in m.distributions(name='vllm-ascend')])"
    assert made.inside("python3", "-c", ask).strip() == made.patched.version


def test_torch_npu_of_the_base_is_there_and_cannot_be_imported_without_a_driver(made: Made) -> None:
    with pytest.raises(docker.errors.ContainerError, match="Failed to load the backend extension: torch_npu"):
        made.inside("python3", "-c", "import torch")


def test_openyuanrong_the_datasystem_and_envoy_answer(made: Made) -> None:
    assert made.inside("yr", "--version") == "yr version: 9.9.9\n"
    assert "0.8.1" in made.inside("dscli", "--version")
    assert "etcd Version" in made.inside("etcd", "--version")
    assert "1.40.0" in made.inside("envoy", "--version")
    assert "/opt/yuanrong/" in made.inside("python3", "-c", "import yr.datasystem as d; print(d.__file__)")


def test_wheels_series_scratch_and_git_state_are_not_left_in_it(made: Made) -> None:
    left = "ls -d /wheelhouse /vllm-workspace/vllm-ascend/.git /root/.cache 2>/dev/null || true"
    assert made.inside("sh", "-c", left) == ""


def test_its_release_folder_is_whole_and_the_chain_holds_to_the_image(made: Made) -> None:
    folder = ReleaseFolder(made.checkout.root / "dist" / made.document["release"])
    manifest = read_manifest(folder)
    links = [
        *verify_folder(folder, manifest),
        *verify_image(made.client, folder, manifest, str(made.document["image"])),
    ]
    assert [f"{one.name}: {one.detail}" for one in links if not one.passed] == []
    assert links[-1].name == "tree -> image"
    assert (manifest.flavour, manifest.tree) == ("npu", made.patched.tree)
    assert manifest.versions["torch-npu"] == "2.7.1.dev20250724"
    assert (folder.path / STANDALONE).is_file()


def test_what_serves_was_started_by_the_bases_entry_point_with_a_device_of_its_own(deployed: Run) -> None:
    assert deployed.code == 0, tail(deployed)
    look = "grep -l ATB_HOME_PATH=.*cxx_abi_ /proc/[0-9]*/environ; ls /dev | grep davinci"
    for host, role in zip(hosts.from_here(), ("prefill", "decode"), strict=True):
        with closing(connect_to(host)) as client:
            code, output = client.containers.get(f"{hosts.LAB}-{role}-0").exec_run(["sh", "-c", look])
        assert code == 0, output
        said = cast(bytes, output)
        assert b"/environ" in said
        assert said.split()[-2:] == [b"davinci0", b"davinci_manager"]


def test_what_is_deployed_on_two_hosts_is_verified_whole(made: Made, deployed: Run) -> None:
    assert deployed.code == 0, tail(deployed)
    report = json.loads((made.checkout.root / "dist" / "verify.json").read_text())
    checks = report["checks"]
    assert [check["name"] for check in checks if not check["passed"]] == []
    assert len(checks) == 51
