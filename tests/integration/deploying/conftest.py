"""A real engine, and an image that holds nothing: containers borrow this machine's /usr, read-only."""

from __future__ import annotations

import io
import socket
import tarfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docker import DockerClient

from yrpd.deploying.hosts.removal import remove_all
from yrpd.deploying.spec import ContainerSpec, HttpProbe, Mount, Volume
from yrpd.reporting import Reporter

HOST = "here"
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{"health": "true"}')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def image(client: DockerClient) -> Iterator[str]:
    """Import an image of three symbolic links and an empty /usr; return its id."""
    yield from imported(client)


@pytest.fixture(scope="module")
def newer_image(client: DockerClient) -> Iterator[str]:
    """The same image with a folder more; return its id."""
    yield from imported(client, "newer")


def imported(client: DockerClient, *more: str) -> Iterator[str]:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("usr", "tmp", "run", "sbin", *more):  # the engine puts its init into sbin
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name in ("bin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
    repository = f"yrpd-test-{uuid.uuid4().hex[:8]}"
    client.api.import_image_from_data(content.getvalue(), repository=repository, tag="1")
    yield str(client.images.get(f"{repository}:1").id)
    client.images.remove(f"{repository}:1", force=True)


@pytest.fixture
def clients(client: DockerClient) -> dict[str, DockerClient]:
    return {HOST: client}


@pytest.fixture
def deployment(clients: dict[str, DockerClient], reporter: Reporter) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    remove_all(clients, name, 2, reporter)


@pytest.fixture
def reporter() -> Reporter:
    return Reporter()


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture
def make_spec(image: str, deployment: str, free_port: Callable[[], int]) -> Callable[..., ContainerSpec]:
    """Make a spec of a small HTTP server that stops at once when told; any field can be given."""

    def make(**fields: Any) -> ContainerSpec:
        role = fields.get("role", "etcd")
        port = fields.pop("port", None) or free_port()
        given: dict[str, Any] = {
            "host": HOST,
            "engine": "",
            "deployment": deployment,
            "role": role,
            "name": f"{deployment}-{role}",
            "image": image,
            "image_id": image,
            "argv": ("python3", "-c", SERVER, str(port)),
            "probe": HttpProbe(f"http://127.0.0.1:{port}/", contains=('"health":"true"',), deadline_s=20),
            "ports": (port,),
            "mounts": (Mount("/usr", "/usr"),),
            "volumes": (Volume(f"{deployment}-shared", "/run"),),
            "stop_seconds": 2,
        }
        return ContainerSpec(**{**given, **fields})

    return make
