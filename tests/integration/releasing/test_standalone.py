"""A release folder alone, copied to an empty place: a Python and nothing else deploys from it on a real engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.errors import ImageNotFound

from tests.integration.images import remove_images
from tests.integration.one_host import one_host
from yrpd.deploying.spec import DEPLOYMENT
from yrpd.docker.connection import candidates
from yrpd.documents.release_folder import PROVENANCE, STANDALONE, TARBALL, parse_checksums
from yrpd.releasing import saving
from yrpd.releasing.verifying import verify_folder

from .conftest import Released, quiet

# Without the packages that this Python has: no site folder, no variable of the environment.
BARE_PYTHON = (str(Path(sys.executable).resolve()), "-IS")


@dataclass(frozen=True)
class Site:
    """A machine that has a release folder, an inventory and a home of its own.

    Attributes:
        release: The copied folder.
        work: Where commands are typed.
        home: The user's.
        name: The deployment's.
    """

    release: Path
    work: Path
    home: Path
    name: str

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``deploy.pyz`` with nothing in its environment but a home."""
        command = [*BARE_PYTHON, str(self.release / STANDALONE), *words]
        return subprocess.run(
            command, cwd=self.work, env={"HOME": str(self.home)}, capture_output=True, text=True, timeout=300
        )

    def document(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run with ``--json`` and return the document."""
        done = self.run(*words, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def complete(released: Released) -> Released:
    """The release with its tarball."""
    saving.save(released.client, released.folder, quiet())
    return released


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One user for most tests: what the first run unpacked is there for the others."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def site(complete: Released, home: Path, tmp_path: Path) -> Site:
    for name in ("work", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "config.json").write_text('{"hidden_size": 8}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    release = tmp_path / "carried" / complete.folder.name
    shutil.copytree(complete.folder.path, release)
    name = f"test-{uuid.uuid4().hex[:8]}"
    (tmp_path / "work" / "hosts.toml").write_text(one_host(name, candidates()[0], tmp_path / "model"))
    return Site(release, tmp_path / "work", home, name)


@pytest.fixture
def absent(complete: Released) -> DockerClient:
    """An engine that has neither the image nor a layer of it."""
    remove_images(complete.client, complete.repository)
    return complete.client


def test_the_folder_is_whole_with_it(complete: Released) -> None:
    manifest = complete.manifest
    assert manifest.deploy is not None
    assert {f"cp3{minor}-{machine}" for minor in (11, 12, 13) for machine in ("x86_64", "aarch64")} == {
        *manifest.deploy.targets
    }
    sums = parse_checksums(complete.folder.read("SHA256SUMS").decode())
    assert sums[STANDALONE] == manifest.deploy.sha256
    subjects = {one["name"] for one in json.loads(complete.folder.read(PROVENANCE))["subject"]}
    assert {STANDALONE, TARBALL} <= subjects
    assert [one for one in verify_folder(complete.folder, manifest) if not one.passed] == []


def test_a_plan_needs_a_python_and_the_folder(site: Site, complete: Released) -> None:
    document = site.document("plan")
    assert document["image"] == {"reference": complete.manifest.image, "id": complete.manifest.id}
    roles = [one["role"] for one in document["containers"]]
    assert sorted(roles) == ["decode", "endpoint", "etcd", "prefill", "worker"]
    manifests = site.run("plan", "--format", "kubernetes")
    assert manifests.returncode == 0
    assert complete.manifest.image in manifests.stdout


def test_first_runs_at_the_same_time_unpack_once(site: Site, tmp_path: Path) -> None:
    fresh = replace(site, home=tmp_path / "home")
    with ThreadPoolExecutor(2) as pool:
        codes = [each.returncode for each in pool.map(lambda _: fresh.run("plan"), range(2))]
    assert codes == [0, 0]
    assert len(list((fresh.home / ".cache" / "yrpd").iterdir())) == 1


def test_preflight_takes_the_folders_tarball_for_a_host_without_the_image(site: Site, absent: DockerClient) -> None:
    assert site.document("deploy", "--dry-run")["findings"] == []
    (site.release / TARBALL).unlink()
    (finding,) = site.document("deploy", "--dry-run")["findings"]
    assert finding["id"] == "image-missing"
    assert f"has no {TARBALL}" in finding["message"]
    assert "invoke image.save" in finding["fix"]


def test_a_deployment_loads_the_image_and_leaves_the_folder_as_it_came(
    site: Site, complete: Released, absent: DockerClient
) -> None:
    # The image has a Python and no etcd, so that the first container fails: what was loaded stays, nothing else does.
    done = site.run("deploy")
    assert done.returncode == 7, done.stdout + done.stderr
    assert absent.images.get(complete.manifest.image).id == complete.manifest.id
    assert absent.containers.list(all=True, filters={"label": f"{DEPLOYMENT}={site.name}"}) == []
    log = Path(done.stderr.rpartition("next:  less ")[2].strip())
    assert log.is_relative_to(site.home)
    assert "etcd" in log.read_text()
    status = site.document("status")
    assert {one["health"] for one in status["containers"]} == {"absent"}
    assert site.run("logs").returncode == 0
    assert site.document("clean")["silent"] == []
    # Whoever checks the release afterwards finds it as it came.
    checked = subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=site.release, check=False)
    assert checked.returncode == 0
    assert {path.name for path in site.work.iterdir()} == {"hosts.toml"}


def test_a_tampered_tarball_reaches_no_engine(site: Site, complete: Released, absent: DockerClient) -> None:
    data = bytearray((site.release / TARBALL).read_bytes())
    data[len(data) // 2] ^= 1
    (site.release / TARBALL).write_bytes(data)
    done = site.run("deploy")
    assert done.returncode == 6, done.stdout + done.stderr
    assert "is not the release's" in done.stderr
    with pytest.raises(ImageNotFound):
        absent.images.get(complete.manifest.image)


def test_a_python_that_it_is_not_for_gets_a_sentence_and_exit_code_8(site: Site, tmp_path: Path) -> None:
    program = (
        "import runpy, sys; sys.version_info = (3, 9, 0); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [*BARE_PYTHON, "-c", program, str(site.release / STANDALONE), "plan"]
    done = subprocess.run(command, capture_output=True, text=True, env={"HOME": str(tmp_path)}, check=False)
    assert done.returncode == 8, done.stderr
    assert "this Python is cp39-" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(site: Site, tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("a file, where a folder should be")
    done = replace(site, home=tmp_path).run("plan")
    assert done.returncode == 8, done.stderr
    assert "XDG_CACHE_HOME=FOLDER python3" in done.stderr
