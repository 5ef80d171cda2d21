"""``[datasystem]``, ``[etcd]`` and ``[connector]``: where KV blocks live, and how P and D reach them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from yrpd.deploying.inventory.fields import AbsolutePath, Port, Table
from yrpd.deploying.inventory.reserved import check_worker_flags


class Spill(Table):
    """Where a worker puts blocks that no longer fit its memory.

    Attributes:
        directory: A folder on every host, on a fast disk; the worker alone writes there.
        size_mb: The most it may take.
    """

    directory: AbsolutePath
    size_mb: Annotated[int, Field(ge=64, le=1_073_741_824)]


class Encryption(Table):
    """CURVE keys (ZeroMQ's) that encrypt what workers and their clients say to each other; files on every host.

    Attributes:
        key_folder: The worker's key files.
        client_public_key: P's and D's public key.
        client_private_key: P's and D's private key.
        server_public_key: The worker's public key.
    """

    key_folder: AbsolutePath
    client_public_key: AbsolutePath
    client_private_key: AbsolutePath
    server_public_key: AbsolutePath


class DataSystem(Table):
    """openYuanrong's DataSystem: one worker on every host that serves.

    Attributes:
        started_by: ``dscli`` beside an etcd of our own, or ``yr start`` as in the tutorial: the host of ``[etcd]`` is
            the master and has etcd, the DataSystem's master and a worker in one container, the others have a worker.
        master_port: Port of the DataSystem's master, with ``yr``.
        memory_mb: The worker's memory pool on each host.
        port: The worker's port on each host.
        spill: Where blocks go that no longer fit; not given, they are evicted.
        encryption: Keys for what workers and clients say to each other; not given, it is plain.
        options: More flags of the worker, without the leading dashes.
    """

    started_by: Literal["dscli", "yr"] = "dscli"
    master_port: Port = 12123
    memory_mb: Annotated[int, Field(ge=64, le=16_777_216)]
    port: Port = 31501
    spill: Spill | None = None
    encryption: Encryption | None = None
    options: dict[str, str | int | bool] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _options_are_free(cls, options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        return check_worker_flags(options)


class EtcdTls(Table):
    """Certificates of etcd and of the workers that speak to it; files on the hosts.

    Attributes:
        ca: Who signed all of them; etcd refuses clients without a certificate of it.
        certificate: etcd's, valid for its host's address.
        key: etcd's private key.
        client_certificate: The workers'.
        client_key: The workers' private key.
    """

    ca: AbsolutePath
    certificate: AbsolutePath
    key: AbsolutePath
    client_certificate: AbsolutePath
    client_key: AbsolutePath


class Etcd(Table):
    """The DataSystem's directory.

    Attributes:
        host: Which host it runs on.
        port: Client port.
        peer_port: Peer port.
        metrics_port: With TLS, where health and metrics are answered in plain HTTP, since the client port refuses
            whoever has no certificate.
        tls: Certificates; not given, etcd speaks plain HTTP.
    """

    host: str
    port: Port = 22440
    peer_port: Port = 22441
    metrics_port: Port = 22442
    tls: EtcdTls | None = None

    @property
    def scheme(self) -> str:
        """How it is spoken to."""
        return "https" if self.tls else "http"


#: As the connector itself asks it.
ConnectorName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/+=-]{1,128}$")]


class Connector(Table):
    """Settings of the KV connector, equal on P and D; what is not given is the connector's own default.

    Attributes:
        connect_timeout_ms: For reaching the worker.
        lookup_timeout_ms: For asking which blocks are there; a scheduler step waits for it.
        lookup_cache_ms: How soon a waiting request is looked up again.
        request_timeout_ms: For one call that moves blocks.
        load_timeout_ms: For all blocks of one request; then they are computed.
        load_queue_timeout_ms: How long a load waits for a thread; then its blocks are computed.
        sync_save_timeout_ms: How long a prefill's answer waits for its blocks to be published.
        hazard_timeout_ms: How long a step waits for saves of blocks that it overwrites.
        retry_failed_ms: How long blocks are computed whose load ran into a deadline.
        probe_interval_ms: How often a worker that is out of reach is tried again.
        poll_ms: How often an idle engine looks at its loads.
        breaker_failures: Failures after which it counts as out of reach.
        min_load_blocks: Fewer blocks than this are computed rather than loaded.
        batch_bytes: Most bytes of a call; a thirtieth of the worker's pool at most.
        load_threads: Loads of different requests at a time.
        copy_threads: Threads that share the copying of a batch.
        save_mode: Whether a prefill's answer waits for its blocks.
        save_output: Whether blocks of generated tokens are saved, too.
        ttl_seconds: How long a block lives; 0 is until it is evicted.
        checksum: How a block's bytes are checked.
        tag: Separates the deployment's blocks from others' in the same DataSystem.
        weights_id: Stands for the weights where the engines cannot read the files that they load.
        weights_digest: How much of large weight files is read.
        reset_forgets: Whether ``reset_prefix_cache`` makes stored blocks unreachable, too.
        announce: Whether engines of one tag that cannot share say so.
    """

    connect_timeout_ms: PositiveInt | None = None
    lookup_timeout_ms: PositiveInt | None = None
    lookup_cache_ms: NonNegativeInt | None = None
    request_timeout_ms: PositiveInt | None = None
    load_timeout_ms: PositiveInt | None = None
    load_queue_timeout_ms: PositiveInt | None = None
    sync_save_timeout_ms: PositiveInt | None = None
    hazard_timeout_ms: NonNegativeInt | None = None
    retry_failed_ms: NonNegativeInt | None = None
    probe_interval_ms: PositiveInt | None = None
    poll_ms: PositiveInt | None = None
    breaker_failures: PositiveInt | None = None
    min_load_blocks: PositiveInt | None = None
    batch_bytes: PositiveInt | None = None
    load_threads: PositiveInt | None = None
    copy_threads: PositiveInt | None = None
    save_mode: Literal["auto", "sync-last", "async"] | None = None
    save_output: bool | None = None
    ttl_seconds: NonNegativeInt | None = None
    checksum: Literal["sum64", "crc32", "none"] | None = None
    tag: ConnectorName | None = None
    weights_id: ConnectorName | None = None
    weights_digest: Literal["sampled", "full"] | None = None
    reset_forgets: bool | None = None
    announce: bool | None = None

    def settings(self) -> tuple[tuple[str, int | str], ...]:
        """Return what is given, by name."""
        return tuple(sorted(self.model_dump(exclude_none=True).items()))

    @model_validator(mode="after")
    def _loads_outlast_their_calls(self) -> Self:
        if self.load_timeout_ms and self.request_timeout_ms and self.load_timeout_ms < self.request_timeout_ms:
            raise ValueError(
                f"load_timeout_ms {self.load_timeout_ms} is less than request_timeout_ms {self.request_timeout_ms}: "
                "no call could use its time"
            )
        return self
