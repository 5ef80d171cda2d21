# SPDX-License-Identifier: Apache-2.0
"""Settings of the connector: ``kv_connector_extra_config``, the tutorial's environment variables, and credentials.

Every field is validated once, at start. Credentials come from files or the environment, never from the command line,
and never appear in ``repr`` or in logs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

SAVE_MODES = ("auto", "sync-last", "async")
TRANSPORTS = ("auto", "host", "npu")
CHECKSUMS = ("sum64", "crc32", "none")
WEIGHTS_DIGESTS = ("sampled", "full")
ROLES = ("kv_producer", "kv_consumer", "kv_both")
_NAME = re.compile(r"[A-Za-z0-9._:/+=-]{0,128}")

#: Credential -> environment variable that holds it. ``<NAME>_FILE`` names a file instead, which wins.
_SECRET_ENV = {
    "token": "YUANRONG_DS_TOKEN",
    "client_public_key": "YUANRONG_DS_CLIENT_PUBLIC_KEY",
    "client_private_key": "YUANRONG_DS_CLIENT_PRIVATE_KEY",
    "server_public_key": "YUANRONG_DS_SERVER_PUBLIC_KEY",
    "access_key": "YUANRONG_DS_ACCESS_KEY",
    "secret_key": "YUANRONG_DS_SECRET_KEY",
    "tenant_id": "YUANRONG_DS_TENANT_ID",
}


class ConfigError(ValueError):
    """A setting is missing, unknown or out of range; the message names the setting."""


@dataclass(frozen=True)
class Address:
    """Where a DataSystem worker listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port`` or ``[v6]:port``.

        Raises:
            ConfigError: The text is neither.
        """
        match = re.fullmatch(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>\d{1,5})", text.strip())
        if match is None:
            raise ConfigError(f"worker_address: expected 'host:port' or '[ipv6]:port', got {text!r}")
        port = int(match["port"])
        if not 0 < port < 65536:
            raise ConfigError(f"worker_address: port {port} is not in 1..65535")
        return cls(match["v6"] or match["host"], port)

    def __str__(self) -> str:
        """Return the text that ``parse`` reads."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Credentials:
    """What the DataSystem asks of a client; empty strings where it asks nothing."""

    token: str = field(default="", repr=False)
    client_public_key: str = field(default="", repr=False)
    client_private_key: str = field(default="", repr=False)
    server_public_key: str = field(default="", repr=False)
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    tenant_id: str = field(default="", repr=False)

    def as_kwargs(self) -> dict[str, str]:
        """Return the credentials that are set, named as the DataSystem clients name them."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}


@dataclass(frozen=True)
class ConnectorConfig:
    """All settings of one engine's connector. Times are in milliseconds, sizes in bytes.

    The table with the meaning of each is in ``docs/connector.md``.
    """

    role: str
    worker_address: Address
    tag: str = ""
    transport: str = "auto"
    model_id: str = ""
    weights_id: str = ""
    weights_digest: str = "sampled"
    reset_forgets: bool = True
    load: bool = True
    save_mode: str = "auto"
    save_output: bool = False
    min_load_blocks: int = 1
    ttl_seconds: int = 0
    checksum: str = "sum64"
    batch_bytes: int = 128 << 20
    load_threads: int = 2
    copy_threads: int = 2
    connect_timeout_ms: int = 2000
    lookup_timeout_ms: int = 500
    lookup_cache_ms: int = 1000
    request_timeout_ms: int = 2000
    load_timeout_ms: int = 10000
    sync_save_timeout_ms: int = 5000
    hazard_timeout_ms: int = 200
    retry_failed_ms: int = 30000
    probe_interval_ms: int = 2000
    poll_ms: int = 5
    breaker_failures: int = 1
    load_queue_timeout_ms: int = 10000
    announce: bool = True
    metrics: bool = True
    worker_resource_log: str = ""
    credentials: Credentials = field(default_factory=Credentials)

    @property
    def saves(self) -> bool:
        """Whether this engine writes blocks."""
        return self.role != "kv_consumer"

    @property
    def saves_before_answer(self) -> bool:
        """Whether a prefill's answer waits (bounded) until its blocks are published."""
        if self.save_mode == "auto":
            return self.role == "kv_producer"
        return self.save_mode == "sync-last"

    @classmethod
    def from_extra(
        cls, extra: Mapping[str, Any], role: str, environ: Mapping[str, str] | None = None
    ) -> ConnectorConfig:
        """Validate ``kv_connector_extra_config``.

        Args:
            extra: The dictionary given to vLLM.
            role: ``kv_producer``, ``kv_consumer`` or ``kv_both``; vLLM refuses any other.
            environ: Environment to read ``DS_WORKER_ADDR``, ``USING_PREFIX_CONNECTOR`` and credentials from.

        Raises:
            ConfigError: A key is unknown, missing, of the wrong type or out of range.
        """
        env = os.environ if environ is None else environ
        known = {f.name: f for f in fields(cls)}
        secret_files = {f"{name}_file" for name in _SECRET_ENV}
        unknown = sorted(set(extra) - (set(known) - {"role", "credentials"}) - secret_files)
        if unknown:
            raise ConfigError(f"kv_connector_extra_config: unknown key {unknown[0]!r}")
        values: dict[str, Any] = {k: v for k, v in extra.items() if k not in secret_files and k != "worker_address"}
        for name, value in values.items():
            _check_type(name, value, known[name].default)
        if "load" not in values and role == "kv_producer" and env.get("USING_PREFIX_CONNECTOR", "").strip() == "0":
            # The tutorial's switch: a prefill engine without multi-level prefix matching writes, and never reads.
            values["load"] = False
        address = str(extra.get("worker_address") or env.get("DS_WORKER_ADDR") or "")
        if not address:
            raise ConfigError("worker_address: set it in kv_connector_extra_config or in DS_WORKER_ADDR")
        config = cls(role=role, worker_address=Address.parse(address), credentials=_credentials(extra, env), **values)
        config._check_values()
        return config

    def _check_values(self) -> None:
        for name, allowed in (("transport", TRANSPORTS), ("save_mode", SAVE_MODES), ("checksum", CHECKSUMS),
                              ("weights_digest", WEIGHTS_DIGESTS)):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("tag", "weights_id"):
            if not _NAME.fullmatch(getattr(self, name)):
                raise ConfigError(f"{name}: at most 128 characters of A-Z a-z 0-9 . _ : / + = -")
        for name in ("connect_timeout_ms", "lookup_timeout_ms", "request_timeout_ms", "load_timeout_ms",
                     "sync_save_timeout_ms", "probe_interval_ms", "poll_ms", "breaker_failures", "min_load_blocks",
                     "load_threads", "copy_threads", "batch_bytes",
                     "load_queue_timeout_ms"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("ttl_seconds", "lookup_cache_ms", "hazard_timeout_ms", "retry_failed_ms"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: must not be negative, got {getattr(self, name)}")
        if not self.load and not self.saves:
            raise ConfigError("load: a kv_consumer that does not load does nothing; remove the connector instead")


def _check_type(name: str, value: Any, default: Any) -> None:
    expected = type(default)
    if type(value) is not expected:  # bool is an int, so isinstance would let `load_threads: true` pass
        raise ConfigError(f"{name}: expected {expected.__name__}, got {type(value).__name__}")


def _credentials(extra: Mapping[str, Any], env: Mapping[str, str]) -> Credentials:
    found: dict[str, str] = {}
    for name, variable in _SECRET_ENV.items():
        path = extra.get(f"{name}_file") or env.get(f"{variable}_FILE")
        if path:
            try:
                found[name] = Path(str(path)).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{name}_file: cannot read {path}: {type(error).__name__}") from None
        elif env.get(variable):
            found[name] = env[variable]
    return Credentials(**found)
