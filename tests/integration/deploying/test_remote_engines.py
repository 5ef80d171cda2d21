"""Engines of other machines: through a real sshd, and through a real dockerd's TLS port."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import pytest
import trustme
from docker import DockerClient

from tests.integration.deploying.conftest import HOST
from tests.integration.sshd import Ssh, make_key, sshd, wait_for_port
from yrpd.deploying.hosts.engines import connect
from yrpd.deploying.hosts.removal import remove_all
from yrpd.deploying.inventory import Host, Tls
from yrpd.deploying.reconcile import decide
from yrpd.deploying.rollout.rollout import Rollout
from yrpd.deploying.spec import ContainerSpec
from yrpd.errors import EnvironmentFailure
from yrpd.reporting import Reporter

SESSIONS = 10  # MaxSessions, sshd_config(5)


def remote(engine: str, tls: Tls | None = None) -> Host:
    return Host(name=HOST, engine=engine, address="127.0.0.1", tls=tls)


@pytest.fixture
def ssh(tmp_path: Path, engine: str, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ssh]:
    """An sshd that lets one key in; paramiko finds key and known host in a home of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with sshd(tmp_path / "server", tmp_path / "home", engine, free_port()) as server:
        yield server


def roll_out(client: DockerClient, spec: ContainerSpec, logs: Path) -> None:
    rollout = Rollout({HOST: client}, spec.deployment, logs, Reporter())
    rollout.run(decide([spec], []))


def test_a_container_is_deployed_and_removed_through_ssh(
    ssh: Ssh, make_spec: Callable[..., ContainerSpec], tmp_path: Path, client: DockerClient
) -> None:
    spec = make_spec()
    through = connect(remote(ssh.engine))
    try:
        roll_out(through, spec, tmp_path)
        assert client.containers.get(spec.name).status == "running"
        removed = remove_all({HOST: through}, spec.deployment, 2, Reporter())
    finally:
        through.close()
    assert [each["name"] for each in removed["containers"]] == [spec.name]
    assert client.containers.list(all=True, filters={"name": spec.name}) == []


def test_more_is_asked_at_once_than_sshd_gives_one_connection_sessions(ssh: Ssh) -> None:
    together = Barrier(SESSIONS + 5)
    held = []

    def ask(through: DockerClient) -> str:
        held.append(through.events(decode=True))  # keeps its session as long as it is there
        together.wait(60)
        return str(through.version()["ApiVersion"])

    through = connect(remote(ssh.engine))
    try:
        with ThreadPoolExecutor(together.parties) as pool:
            answers = list(pool.map(ask, [through] * together.parties))
    finally:
        through.close()
    assert len(answers) == together.parties
    assert len(set(answers)) == 1


def test_a_host_key_that_changed_is_refused(ssh: Ssh, tmp_path: Path) -> None:
    other = make_key(tmp_path, "other").with_suffix(".pub").read_text(encoding="utf-8")
    known = ssh.home / "known_hosts"
    known.write_text(f"{known.read_text(encoding='utf-8').split()[0]} {other}", encoding="utf-8")
    with pytest.raises(EnvironmentFailure, match="does not answer"):
        connect(remote(ssh.engine))


def test_a_key_that_the_host_does_not_know_is_refused(ssh: Ssh) -> None:
    for file in ("id_ed25519", "id_ed25519.pub"):
        (ssh.home / file).unlink()
    make_key(ssh.home, "id_ed25519")
    with pytest.raises(EnvironmentFailure, match="does not answer"):
        connect(remote(ssh.engine))


@dataclass(frozen=True)
class TlsEngine:
    """A dockerd that only answers to certificates of one authority."""

    engine: str
    tls: Tls
    folder: Path


@pytest.fixture(scope="module")
def tls_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsEngine]:
    files = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(files / "ca.pem"))
    for name, certificate in (("server", authority.issue_cert("127.0.0.1")), ("client", authority.issue_cert("me"))):
        certificate.private_key_pem.write_to_path(str(files / f"{name}-key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(files / f"{name}.pem"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # containerd's socket has to fit into 104 characters.
    with tempfile.TemporaryDirectory(prefix="yrpd-tls-") as folder:
        line = ["dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
        line += ["--pidfile", f"{folder}/pid", "-H", f"tcp://127.0.0.1:{port}", "--bridge=none", "--iptables=false"]
        line += ["--tlsverify", "--tlscacert", str(files / "ca.pem"), "--tlscert", str(files / "server.pem")]
        line += ["--tlskey", str(files / "server-key.pem")]
        with (files / "dockerd.log").open("wb") as log:
            server = subprocess.Popen(line, stdout=log, stderr=log)
        tls = Tls(ca=str(files / "ca.pem"), certificate=str(files / "client.pem"), key=str(files / "client-key.pem"))
        try:
            wait_for_port(port, server)
            yield TlsEngine(f"tcp://127.0.0.1:{port}", tls, files)
        finally:
            server.terminate()
            server.wait(60)
            # Where a container of it was on the host's network.
            subprocess.run(["umount", f"{folder}/exec/netns/default"], check=False, capture_output=True)


def test_an_engine_behind_tls_answers_to_our_certificate(
    tls_engine: TlsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What others trust on this machine is not asked.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
    client = connect(remote(tls_engine.engine, tls_engine.tls))
    try:
        assert client.version()["Version"]
        assert client.containers.list(all=True) == []
    finally:
        client.close()


def test_certificates_of_another_authority_are_refused_on_both_sides(tls_engine: TlsEngine) -> None:
    stranger = trustme.CA()
    stranger.cert_pem.write_to_path(str(tls_engine.folder / "other-ca.pem"))
    issued = stranger.issue_cert("me")
    issued.private_key_pem.write_to_path(str(tls_engine.folder / "other-key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tls_engine.folder / "other.pem"))
    other = {name: str(tls_engine.folder / f"other{end}.pem") for name, end in (("certificate", ""), ("key", "-key"))}
    with pytest.raises(EnvironmentFailure, match="does not answer"):
        connect(remote(tls_engine.engine, tls_engine.tls.model_copy(update=other)))
    distrusting = tls_engine.tls.model_copy(update={"ca": str(tls_engine.folder / "other-ca.pem")})
    with pytest.raises(EnvironmentFailure, match="certificate verify failed"):
        connect(remote(tls_engine.engine, distrusting))
