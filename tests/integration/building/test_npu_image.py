"""The whole Dockerfile.npu on a stand-in for the tutorial's image: same folders and tools, vLLM's CPU build in it."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from git import Repo
from rich.console import Console

from tests.emulated_npu import cann, device
from tests.integration.building.npu_container import serving
from tests.integration.images import remove_images
from workshop.models import ensure_models, model_python, models_folder
from yrpd.building.context import Context
from yrpd.building.image_engine import ImageEngine
from yrpd.building.layers import Layer
from yrpd.building.npu_base import with_digest
from yrpd.commands import image
from yrpd.documents.manifest import read_manifest
from yrpd.documents.patched import Patched, load_patched
from yrpd.documents.release_folder import STANDALONE, ReleaseFolder
from yrpd.errors import ImageError
from yrpd.project import Project
from yrpd.releasing.verifying import verify_folder, verify_image
from yrpd.reporting import Reporter

KERNELS = ("vllm_ascend/vllm_ascend_C.cpython-311-x86_64-linux-gnu.so", "vllm_ascend/lib/libcust_opapi.so")
BUILD_INFO = "__soc_version__ = 'ASCEND910B1'\n__sleep_mode_enabled__ = False\n"
# What the tutorial's image has and the runtime image has not: git, pip, the pinned tree with compiled kernels, which
# pip installed editable as vllm-ascend's Dockerfiles do, torch-npu, which torch and transformers import, CANN's user.
STAND_IN = """ARG BASE
FROM ${BASE}
LABEL yrpd.stage=stand-in
COPY git /usr/bin/git
COPY tree /vllm-workspace/vllm-ascend
COPY torch_npu /opt/vllm/lib/python3.11/site-packages
COPY cann /usr/local/Ascend/ascend-toolkit/latest/x86_64-linux
COPY wheels /tmp/wheels
RUN python3 -m ensurepip && ln -s pip3 /opt/vllm/bin/pip && useradd --uid 1000 HwHiAiUser && chmod 755 /usr/bin/git \
    && python3 -m pip install --no-index --no-deps /tmp/wheels/* && rm -r /tmp/wheels \
    && cd /vllm-workspace/vllm-ascend && cp vllm_ascend/_build_info.py /tmp \
    && COMPILE_CUSTOM_KERNELS=0 SOC_VERSION=ASCEND910B1 SETUPTOOLS_SCM_PRETEND_VERSION=0.10.0rc1 VLLM_PLUGINS= \
       TORCH_DEVICE_BACKEND_AUTOLOAD=0 \
       python3 -m pip install --no-index --no-deps --no-build-isolation -e . \
    && mv /tmp/_build_info.py vllm_ascend/
"""
# CANN's own version file. The tutorial's image has 8.2.RC1, for which no DataSystem is published on x86-64.
CANN = "package_name=Ascend-cann-toolkit\nversion=8.5.0\narch=x86_64\nos=linux\n"
# The real wheel: its files, under the version that the tutorial's image has. Without a driver it cannot be imported.
TORCH_NPU = "torch-npu==2.7.1 --hash=sha256:f785e2e2c75d4e4dc80c33e6f389d333deed021c7a015b91aa839df4fcec75de"
# setuptools is what CPython 3.11.13's ensurepip brings, which the published image is made with; wheel is what it builds
# editable wheels with.
BUILD_TOOLS = ("setuptools==65.5.0", "wheel==0.45.1")


@dataclass(frozen=True)
class Made:
    """The npu image that was made from the stand-in, and what the task said."""

    client: docker.DockerClient
    patched: Patched
    document: dict[str, Any]
    said: str
    folder: ReleaseFolder

    def run(self, *command: str) -> str:
        """Run a command in a container of the image."""
        output = self.client.containers.run(self.document["id"], list(command), network_mode="none", remove=True)
        return bytes(output).decode("utf-8", "replace")


def _download(folder: Path, *requirements: str) -> list[Path]:
    """Return the wheels of some requirements, without what they require."""
    folder.mkdir()
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    options = ("download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder))
    command = [sys.executable, "-m", "pip", *options, "-r", str(folder / "requirements.txt")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return sorted(folder.glob("*.whl"))


def _stand_in(patched: Patched, machine_git: Path, scratch: Path) -> Context:
    context = Context()
    stream = io.BytesIO()
    with Repo(patched.worktree) as repository:
        repository.archive(stream, patched.pin.tree, format="tar")
    context.add_archive("tree", stream.getvalue())
    for name in KERNELS:
        context.add_bytes(f"tree/{name}", f"compiled {name}\n".encode())
    context.add_bytes("tree/vllm_ascend/_build_info.py", BUILD_INFO.encode())
    (wheel,) = _download(scratch / "torch-npu", TORCH_NPU)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename.replace("torch_npu-2.7.1.dist-info", "torch_npu-2.7.1.dev20250724.dist-info")
            content = archive.read(member)
            if name.endswith(".dist-info/METADATA"):
                assert content.count(b"\nVersion: 2.7.1\n") == 1
                content = content.replace(b"\nVersion: 2.7.1\n", b"\nVersion: 2.7.1.dev20250724\n")
            if not member.is_dir():
                context.add_bytes(f"torch_npu/{name}", content)
    for one in _download(scratch / "wheels", *BUILD_TOOLS):
        context.add_file(f"wheels/{one.name}", one)
    context.add_bytes("cann/ascend_toolkit_install.info", CANN.encode())
    context.add_file("git", machine_git)
    context.add_bytes("Dockerfile", STAND_IN.encode())
    return context


@pytest.fixture(scope="module")
def made(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The image, made as ``invoke image --flavour npu`` makes it; both images go with the module."""
    here, folder = Project.here(), tmp_path_factory.mktemp("npu")
    _, patched = load_patched(here)
    image.make(project=here, reporter=Reporter(), flavour="cpu")
    runtimes = client.images.list(filters={"label": "yrpd.layer=runtime"})
    base = Layer("base", f"yrpd-test-{uuid.uuid4().hex[:12]}", "base-", {"stand-in": "npu"}, {})
    engine = ImageEngine(client, Reporter(), folder / "stand-in.log")
    reporter = Reporter()
    reporter.console = Console(file=io.StringIO(), width=300)
    try:
        runtime = next(image.tags[0] for image in runtimes if image.tags)
        identity = engine.build(base, _stand_in(patched, Path("/usr/bin/git"), folder), "Dockerfile", {"BASE": runtime})
        root = folder / "checkout"
        root.mkdir()
        for name in ("build", "docker", "patches", "scripts", "connector_src", "requirements.lock"):
            (root / name).symlink_to(here.root / name)
        text = here.release_file.read_text()
        name = 'name = "vllm-ascend-yuanrong"'
        assert name in text
        own = text.replace(name, f'name = "{base.repository}"')
        own = with_digest(own, patched.name, f"sha256:{'0' * 64}", identity)
        (root / "release.toml").write_text(own)
        with pytest.raises(ImageError, match="has no device plugin") as refused:
            image.make(project=Project(root), reporter=Reporter(), flavour="npu")
        assert "--datasystem FILE" in refused.value.next_command
        assert not client.images.list(name=base.repository, filters={"label": "yrpd.layer=npu"}), "nothing was built"
        assert own.count('cann = "8.2.RC1"') == 1
        (root / "release.toml").write_text(own.replace('cann = "8.2.RC1"', 'cann = "8.5.0"'))
        document = image.make(project=Project(root), reporter=reporter, flavour="npu")
        release = ReleaseFolder(root / "dist" / document["release"])
        said = str(reporter.console.file.getvalue())  # type: ignore[attr-defined]
        yield Made(client, patched, document, said, release)
    finally:
        remove_images(client, base.repository)


def test_the_series_is_applied_by_git_am_and_the_tree_is_the_locks(made: Made) -> None:
    assert made.document["state"] == "built"
    assert made.document["labels"]["yrpd.tree"] == made.patched.tree
    assert "kernel rebuild: not needed" in made.said
    found = made.run("sh", "-c", "ls /vllm-workspace/vllm-ascend/vllm_ascend/distributed/yuanrong")
    assert "connector.py" in found.split()


def test_the_compiled_kernels_of_the_base_are_kept_byte_for_byte(made: Made) -> None:
    for name in KERNELS:
        assert made.run("cat", f"/vllm-workspace/vllm-ascend/{name}") == f"compiled {name}\n"
    assert made.run("cat", "/vllm-workspace/vllm-ascend/vllm_ascend/_build_info.py") == BUILD_INFO


def test_it_is_installed_by_develop_under_its_own_version(made: Made) -> None:
    ask = "import importlib.metadata as m; print(m.version('vllm_ascend'))"
    assert made.run("python3", "-c", ask).strip() == made.patched.version


def test_what_the_base_had_installed_is_gone(made: Made) -> None:
    ask = "import importlib.metadata as m; print([d.version for d in m.distributions(name='vllm-ascend')])"
    assert made.run("python3", "-c", ask).strip() == f"['{made.patched.version}']"


def test_torch_npu_of_the_base_is_there_and_cannot_be_imported_without_a_driver(made: Made) -> None:
    ask = ["python3", "-c", "import torch"]
    with pytest.raises(docker.errors.ContainerError, match="Failed to load the backend extension: torch_npu"):
        made.run(*ask)


def test_openyuanrong_the_datasystem_and_the_router_answer(made: Made) -> None:
    assert made.run("yr", "--version") == "yr version: 9.9.9\n"
    assert "0.8.1" in made.run("dscli", "--version")
    assert "etcd Version" in made.run("etcd", "--version")
    assert "usage" in made.run("vllm-router", "--help").lower()
    assert "/opt/yuanrong/" in made.run("python3", "-c", "import yr.datasystem as d; print(d.__file__)")


def test_wheels_series_scratch_and_git_state_are_not_left_in_it(made: Made) -> None:
    assert (
        made.run("sh", "-c", "ls -d /wheelhouse /vllm-workspace/vllm-ascend/.git /root/.cache 2>/dev/null || true")
        == ""
    )


def test_its_release_folder_is_whole_and_the_chain_holds_to_the_image(made: Made) -> None:
    manifest = read_manifest(made.folder)
    links = [
        *verify_folder(made.folder, manifest),
        *verify_image(made.client, made.folder, manifest, str(made.document["image"])),
    ]
    assert [f"{one.name}: {one.detail}" for one in links if not one.passed] == []
    assert links[-1].name == "tree -> image"
    assert (manifest.flavour, manifest.tree) == ("npu", made.patched.tree)
    assert manifest.versions["torch-npu"] == "2.7.1.dev20250724"
    assert (made.folder.path / STANDALONE).is_file()


def test_it_serves_with_the_emulated_npu_mounted_in(made: Made) -> None:
    project, dice = Project.here(), random.Random("npu image")
    ensure_models(project, Reporter(as_json=True), made.patched.name)
    library = device.build(model_python(project, made.patched.name), project.cache)
    prompt = [dice.randrange(20, 700) for _ in range(3 * 128 + 40)]
    question = {"model": "model", "prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 1}
    libraries, model = cann.build(project.cache), models_folder(project) / "qwen2"
    with serving(made.client, made.document["id"], library, libraries, model) as served:
        first = json.loads(served.ask("/v1/completions", question))["choices"]
        served.ask("/reset_prefix_cache", {})
        before = served.counters()
        again = json.loads(served.ask("/v1/completions", question))["choices"]
        after = served.counters()
    assert before["saved_blocks"] == 3
    assert after["loaded_blocks"] - before["loaded_blocks"] == 3
    assert again[0]["text"] == first[0]["text"]
    assert again[0]["logprobs"]["tokens"] == first[0]["logprobs"]["tokens"]
