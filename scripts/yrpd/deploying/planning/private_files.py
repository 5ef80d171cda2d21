"""Certificates, keys and secrets: files of the hosts that containers see read-only, and their place inside. Pure.

A plan holds the paths alone; the contents are read inside the containers.
"""

from __future__ import annotations

from yrpd.deploying.inventory import Inventory
from yrpd.deploying.spec import Mount
from yrpd.serving import command_lines
from yrpd.serving.command_lines import SECRETS, Certificates

CURVE = f"{SECRETS}/curve"
CLIENT_KEYS = ("client_public_key", "client_private_key", "server_public_key")
INSIDE = Certificates(f"{SECRETS}/ca.pem", f"{SECRETS}/certificate.pem", f"{SECRETS}/key.pem")


def _mounted(ca: str, certificate: str, key: str) -> tuple[Mount, ...]:
    targets = (INSIDE.ca, INSIDE.certificate, INSIDE.key)
    return tuple(Mount(source, target) for source, target in zip((ca, certificate, key), targets, strict=True))


def etcd_certificates(inventory: Inventory) -> tuple[tuple[Mount, ...], Certificates | None]:
    """Return etcd's own certificate files: how they come in, and where they are; nothing without TLS."""
    tls = inventory.etcd.tls
    return (_mounted(tls.ca, tls.certificate, tls.key), INSIDE) if tls else ((), None)


def worker_flags(inventory: Inventory) -> dict[str, str]:
    """Return the DataSystem worker's flags beyond addresses and memory."""
    table = inventory.datasystem
    flags = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in table.options.items()
    }
    flags["log_dir"] = command_lines.WORKER_LOGS
    if table.spill:
        flags |= command_lines.spill_flags(table.spill.size_mb)
    if table.encryption:
        flags |= {"enable_curve_zmq": "true", "curve_key_dir": CURVE}
    if inventory.etcd.tls:
        flags |= {"enable_etcd_auth": "true", "etcd_ca": INSIDE.ca}
        flags |= {"etcd_cert": INSIDE.certificate, "etcd_key": INSIDE.key}
    return flags


def worker_mounts(inventory: Inventory) -> tuple[Mount, ...]:
    """Return the worker's files and folders of the host."""
    table, tls = inventory.datasystem, inventory.etcd.tls
    mounts = _mounted(tls.ca, tls.client_certificate, tls.client_key) if tls else ()
    if table.spill:
        mounts += (Mount(table.spill.directory, command_lines.SPILL, read_only=False),)
    if table.encryption:
        mounts += (Mount(table.encryption.key_folder, CURVE),)
    return mounts


def endpoint_files(inventory: Inventory) -> tuple[tuple[Mount, ...], dict[str, str]]:
    """Return the mounts of the endpoint, and its settings that name them."""
    wanted: dict[str, str | None] = {
        "client_keys": inventory.secrets.endpoint_api_keys,
        "engine_key": inventory.secrets.vllm_api_key,
        "certificate": inventory.endpoint.tls.certificate if inventory.endpoint.tls else None,
        "key": inventory.endpoint.tls.key if inventory.endpoint.tls else None,
    }
    given = {name: source for name, source in wanted.items() if source}
    mounts = tuple(Mount(source, f"{SECRETS}/{name}") for name, source in given.items())
    return mounts, {name: f"{SECRETS}/{name}" for name in given}


def vllm_secrets(inventory: Inventory) -> tuple[tuple[Mount, ...], dict[str, str]]:
    """Return the mounts of P and D, and the variables that they read out of them."""
    mounts: tuple[Mount, ...] = ()
    files: dict[str, str] = {}
    key = inventory.secrets.vllm_api_key
    own = {"VLLM_API_KEY": key} if key else {}
    for name, source in (*own.items(), *sorted(inventory.secrets.environment.items())):
        target = f"{SECRETS}/{name.lower()}"
        mounts, files = (*mounts, Mount(source, target)), {**files, name: target}
    if encryption := inventory.datasystem.encryption:
        mounts += tuple(Mount(getattr(encryption, key), f"{SECRETS}/{key}") for key in CLIENT_KEYS)
    return mounts, files


def key_variables(inventory: Inventory) -> dict[str, str]:
    """Return the variables that name the connector's key files."""
    if inventory.datasystem.encryption is None:
        return {}
    return {f"YUANRONG_DS_{key.upper()}_FILE": f"{SECRETS}/{key}" for key in CLIENT_KEYS}
