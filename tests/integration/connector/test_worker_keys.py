"""Workers and clients with CURVE keys, on the real programs: who has none of the right ones gets nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workshop import datasystem
from yrpd.serving import curve_keys

pytestmark = pytest.mark.vllm
pytest.importorskip("zmq")
KVClient = pytest.importorskip("yr.datasystem.kv_client").KVClient


def connected(address: str, keys: Path | None, server: Path) -> Any:
    """Return a client that has shown a worker its key pair."""
    host, port = address.rsplit(":", 1)
    shown = {}
    if keys:
        shown = {
            "client_public_key": (keys / "client.key").read_text(encoding="ascii"),
            "client_private_key": (keys / "client.key_secret").read_text(encoding="ascii"),
            "server_public_key": (server / "worker.key").read_text(encoding="ascii"),
        }
    client = KVClient(host, int(port), connect_timeout_ms=4000, **shown)
    client.init()
    return client


def test_keys_are_made_once_and_secrets_are_the_owners_alone(tmp_path: Path) -> None:
    curve_keys.make(tmp_path / "keys")
    files = {path.relative_to(tmp_path / "keys").as_posix(): path for path in (tmp_path / "keys").rglob("*.key*")}
    assert sorted(files) == [
        "client.key",
        "client.key_secret",
        "worker.key",
        "worker.key_secret",
        "worker_authorized_clients/client.key",
        "worker_authorized_clients/worker.key",
    ]
    assert {len(path.read_bytes()) for path in files.values()} == {40}
    assert {path.stat().st_mode & 0o777 for name, path in files.items() if "secret" in name} == {0o600}
    with pytest.raises(FileExistsError):
        curve_keys.make(tmp_path / "keys")


def test_workers_with_keys_share_objects_and_let_no_stranger_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Short names: a socket's path has at most 107 characters, and the worker's is deep in its folder.
    first, second, folder = (tmp_path_factory.mktemp(name) for name in ("a", "b", "k"))
    ours, strange = folder / "ours", folder / "strange"
    curve_keys.make(ours)
    curve_keys.make(strange)
    guarded = ["enable_curve_zmq=true", f"curve_key_dir={ours}"]
    with (
        datasystem.etcd(first) as etcd,
        datasystem.worker(first, etcd.address, 64, guarded) as one,
        datasystem.worker(second, etcd.address, 64, guarded) as other,
    ):
        connected(one.address, ours, ours).set("block", b"x" * 100_000)
        assert connected(other.address, ours, ours).get(["block"]) == [b"x" * 100_000]
        for keys in (strange, None):
            with pytest.raises(RuntimeError, match="has not responded"):
                connected(one.address, keys, ours)
