"""An inventory of one host, this machine, for the tests that deploy little or nothing."""

from __future__ import annotations

import socket
from pathlib import Path

TABLES = """
name = "{name}"
[[hosts]]
name = "here"
engine = "{engine}"
address = "127.0.0.1"
[model]
path = "{model}"
served_name = "m"
dtype = "float32"
max_model_len = 128
[[prefill]]
host = "here"
port = {ports[0]}
[[decode]]
host = "here"
port = {ports[1]}
[datasystem]
memory_mb = 64
port = {ports[2]}
[etcd]
host = "here"
port = {ports[3]}
peer_port = {ports[4]}
[endpoint]
port = {ports[5]}
metrics_port = {ports[6]}
prefill_port = {ports[7]}
[router]
host = "here"
[deadlines]
etcd = 5
"""


def one_host(name: str, engine: str, model: Path | str) -> str:
    """Return the inventory's text, with ports that are free.

    Args:
        name: The deployment's.
        engine: Address of a Docker engine.
        model: The model folder on it.
    """
    return TABLES.format(name=name, engine=engine, model=model, ports=_free_ports(9))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
