"""The command lines of etcd and worker with certificates, on the real programs."""

from __future__ import annotations

import shutil
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import pytest
import trustme

from workshop import datasystem
from yrpd.errors import EnvironmentFailure
from yrpd.serving import command_lines
from yrpd.serving.command_lines import Certificates


@dataclass(frozen=True)
class Guarded:
    """An etcd that refuses whoever has no certificate of its authority."""

    address: str
    health: str
    server: Certificates
    client: Certificates


def write(ca: trustme.CA, name: str, folder: Path) -> Certificates:
    issued = ca.issue_cert(name)
    files = Certificates(*(str(folder / f"{name}-{part}.pem") for part in ("ca", "certificate", "key")))
    ca.cert_pem.write_to_path(files.ca)
    issued.cert_chain_pems[0].write_to_path(files.certificate)
    issued.private_key_pem.write_to_path(files.key)
    return files


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    assert shutil.which("etcd"), "etcd is not on PATH: apt-get install etcd-server"
    monkeypatch.setattr(command_lines, "ETCD_DATA", str(tmp_path / "etcd"))
    ca = trustme.CA()
    server, client = write(ca, "127.0.0.1", tmp_path), write(ca, "worker.example", tmp_path)
    port, peer, metrics = datasystem.free_ports(3)
    argv = command_lines.etcd("e", "127.0.0.1", port, peer, server, metrics)
    health = f"http://127.0.0.1:{metrics}/health"
    daemon = datasystem.Daemon("etcd", f"127.0.0.1:{port}", argv, tmp_path / "etcd.log", lambda: answers(health))
    daemon.start()
    try:
        yield Guarded(daemon.address, health, server, client)
    finally:
        daemon.stop()


def flags(files: Certificates) -> list[str]:
    return [
        "enable_etcd_auth=true",
        f"etcd_ca={files.ca}",
        f"etcd_cert={files.certificate}",
        f"etcd_key={files.key}",
        "node_timeout_s=3",
    ]


def ask(url: str, context: ssl.SSLContext | None = None) -> str:
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if context else [])
    )
    with opener.open(url, timeout=5) as answer:
        return bytes(answer.read()).decode()


def answers(url: str) -> bool:
    try:
        return bool(ask(url))
    except OSError:
        return False


def test_a_worker_with_its_certificate_becomes_ready_and_one_without_does_not(
    guarded: Guarded, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Short names: a socket's path has at most 107 characters, and the worker's is deep in its folder.
    known, unknown = tmp_path_factory.mktemp("k"), tmp_path_factory.mktemp("u")
    with datasystem.worker(known, guarded.address, 128, flags(guarded.client)) as worker:
        assert worker.address.startswith("127.0.0.1:")
    with (
        pytest.raises(EnvironmentFailure, match=r"did not get ready|ended at start"),
        datasystem.worker(unknown, guarded.address, 128, start_seconds=10),
    ):
        pytest.fail("a worker without a certificate reached etcd")


def test_etcd_answers_health_without_a_certificate_and_nothing_else(guarded: Guarded) -> None:
    assert '"health":"true"' in ask(guarded.health)
    client = ssl.create_default_context(cafile=guarded.client.ca)
    with pytest.raises((URLError, OSError, ssl.SSLError)):
        ask(f"https://{guarded.address}/health", client)
    client.load_cert_chain(guarded.client.certificate, guarded.client.key)
    assert '"health":"true"' in ask(f"https://{guarded.address}/health", client)
