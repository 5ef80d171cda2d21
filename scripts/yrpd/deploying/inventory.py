"""The model of ``hosts.toml`` and ``lab.toml``: where to deploy what, validated once, then plain frozen objects."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from yrpd.deploying.options import check_environment, check_options
from yrpd.errors import ConfigurationError
from yrpd.toml_lines import line_of

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Dtype = Literal["float32", "bfloat16", "float16"]
Scheduler = Literal["vllm", "ascend"]
Policy = Literal[
    "random", "round_robin", "cache_aware", "power_of_two", "consistent_hash", "sticky_least_loaded"
]  # kv_aware needs KV events, which this deployment does not publish

ENGINE_SCHEMES = ("unix://", "ssh://", "tcp://")


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path")
    if ":" in path or ".." in path.split("/"):
        raise ValueError("must not contain ':' or '..'")
    return path


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Host(_Table):
    """One machine with a Docker engine.

    Attributes:
        name: What the inventory calls it.
        engine: Its Docker engine: ``unix:///path``, ``ssh://user@host`` or ``tcp://host:port``.
        address: The address that the other hosts and the clients reach it at; services bind to it and nothing else.
        devices: Numbers of its NPU devices (``/dev/davinci<N>``); empty on a host without NPUs.
        device_nodes: More device nodes that every container with an NPU gets.
        driver_mounts: Driver files and folders that every container with an NPU gets, read-only.
    """

    name: Name
    engine: str
    address: str
    devices: tuple[Annotated[int, Field(ge=0, le=63)], ...] = ()
    device_nodes: tuple[AbsolutePath, ...] = ()
    driver_mounts: tuple[AbsolutePath, ...] = ()

    @field_validator("engine")
    @classmethod
    def _engine_is_reachable_by_name(cls, engine: str) -> str:
        scheme = next((known for known in ENGINE_SCHEMES if engine.startswith(known)), None)
        if scheme is None or len(engine) == len(scheme):
            raise ValueError("must be unix:///path, ssh://user@host or tcp://host:port")
        if scheme == "unix://" and not engine.startswith("unix:///"):
            raise ValueError("a unix:// engine needs an absolute path, unix:///path")
        return engine

    @field_validator("address")
    @classmethod
    def _address_is_one_of_the_host(cls, address: str) -> str:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError as error:
            raise ValueError("must be an IP address (the services bind to it)") from error
        if parsed.is_unspecified or parsed.is_multicast:
            raise ValueError("must be an address of this host, not a wildcard: peers are told this address")
        if parsed.version != 4:
            raise ValueError("must be an IPv4 address")
        return address

    @field_validator("devices")
    @classmethod
    def _devices_differ(cls, devices: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(devices)) != len(devices):
            raise ValueError("names a device twice")
        return devices


class Model(_Table):
    """The model that P and D serve.

    Attributes:
        path: Its folder on every host; a relative path is one of this project's (then the hosts are this machine).
        served_name: The name in requests.
        dtype: What it computes in; explicit, since verification derives its tolerance from it.
        max_model_len: Longest prompt and answer together, in tokens.
        block_size: Tokens of one KV block.
        options: More ``vllm serve`` options for P and D, without the leading dashes.
    """

    path: str
    served_name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,200}$|^/[A-Za-z0-9._/-]+$")]
    dtype: Dtype
    max_model_len: Annotated[int, Field(ge=32, le=10_000_000)]
    block_size: Literal[16, 32, 64, 128] = 128
    options: dict[str, Any] = {}

    @field_validator("path")
    @classmethod
    def _path_is_plain(cls, path: str) -> str:
        if not path or ":" in path or "," in path or ".." in path.split("/"):
            raise ValueError("must be a folder, without ':', ',' or '..'")
        return path

    @field_validator("options")
    @classmethod
    def _options_are_free(cls, options: dict[str, Any]) -> dict[str, Any]:
        return check_options(options)


class Instance(_Table):
    """One vLLM, prefill or decode.

    Attributes:
        host: Which host it runs on.
        port: Its HTTP port there.
        tensor_parallel: NPUs it is spread over; the same for all, since KV objects are one per block and rank.
        cores: CPU cores it is bound to in the cpu flavour, such as ``0`` or ``0-3``; empty leaves it to vLLM.
    """

    host: str
    port: Port
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    cores: Annotated[str, StringConstraints(pattern=r"^(\d+(-\d+)?(,\d+(-\d+)?)*)?$")] = ""


class DataSystem(_Table):
    """openYuanrong's DataSystem: one worker on every host that serves.

    Attributes:
        memory_mb: The worker's memory pool on each host.
        port: The worker's port on each host.
    """

    memory_mb: Annotated[int, Field(ge=64, le=16_777_216)]
    port: Port = 31501


class Etcd(_Table):
    """The DataSystem's directory.

    Attributes:
        host: Which host it runs on.
        port: Client port.
        peer_port: Peer port.
    """

    host: str
    port: Port = 22440
    peer_port: Port = 22441


class Connector(_Table):
    """Settings of the KV connector, equal on P and D; what is not given is the connector's own default.

    Attributes:
        connect_timeout_ms: For reaching the worker.
        lookup_timeout_ms: For asking which blocks are there; a scheduler step waits for it.
        request_timeout_ms: For one call that moves blocks.
        load_timeout_ms: For all blocks of one request; then they are computed.
        sync_save_timeout_ms: How long a prefill's answer waits for its blocks to be published.
        probe_interval_ms: How often a worker that is out of reach is tried again.
        breaker_failures: Failures after which it counts as out of reach.
        min_load_blocks: Fewer blocks than this are computed rather than loaded.
        ttl_seconds: How long a block lives; 0 is until it is evicted.
        checksum: How a block's bytes are checked.
    """

    connect_timeout_ms: PositiveInt | None = None
    lookup_timeout_ms: PositiveInt | None = None
    request_timeout_ms: PositiveInt | None = None
    load_timeout_ms: PositiveInt | None = None
    sync_save_timeout_ms: PositiveInt | None = None
    probe_interval_ms: PositiveInt | None = None
    breaker_failures: PositiveInt | None = None
    min_load_blocks: PositiveInt | None = None
    ttl_seconds: NonNegativeInt | None = None
    checksum: Literal["sum64", "crc32", "none"] | None = None

    def settings(self) -> tuple[tuple[str, int | str], ...]:
        """Return what is given, by name."""
        return tuple(sorted(self.model_dump(exclude_none=True).items()))


class Router(_Table):
    """The endpoint.

    Attributes:
        host: Which host it runs on.
        port: The endpoint's port.
        metrics_port: Prometheus.
        policy: How it chooses among several P and several D.
        health_interval_s: How often it asks P and D; short, because there is no failover between two checks.
    """

    host: str
    port: Port = 9000
    metrics_port: Port = 29000
    policy: Policy = "round_robin"
    health_interval_s: Annotated[int, Field(ge=1, le=300)] = 2


class Containers(_Table):
    """What all containers share.

    Attributes:
        restart: Docker's restart policy.
        stop_seconds: Grace between SIGTERM and SIGKILL.
        shm_mb: ``/dev/shm`` of P and D (messages between ranks; the KV pool is not in it).
        kvcache_gib: KV cache of a P or D in the cpu flavour.
        capabilities: Linux capabilities added to P and D; all others are dropped.
        environment: More environment variables of P and D.
    """

    restart: Literal["no", "on-failure", "unless-stopped", "always"] = "no"
    stop_seconds: Annotated[int, Field(ge=1, le=600)] = 60
    shm_mb: Annotated[int, Field(ge=64, le=1_048_576)] = 1024
    kvcache_gib: Annotated[int, Field(ge=1, le=4096)] = 1
    capabilities: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Z_]+$")], ...] = ()
    environment: dict[str, str] = {}

    @field_validator("environment")
    @classmethod
    def _environment_is_free(cls, environment: dict[str, str]) -> dict[str, str]:
        return check_environment(environment)


class Deadlines(_Table):
    """How long each role may take to become ready, in seconds."""

    etcd: Annotated[int, Field(ge=1)] = 60
    worker: Annotated[int, Field(ge=1)] = 120
    vllm: Annotated[int, Field(ge=1)] = 900
    router: Annotated[int, Field(ge=1)] = 120


class Inventory(_Table):
    """All of an inventory file.

    Attributes:
        name: The deployment's name; containers and volumes carry it.
        scheduler: vLLM's own scheduler, or vllm-ascend's AscendScheduler (both with recovery from failed loads).
        hosts: The machines.
        model: What is served.
        prefill: The P instances.
        decode: The D instances.
        datasystem: The workers.
        connector: What connects P and D to them.
        etcd: Their directory.
        router: The endpoint.
        containers: What all containers share.
        deadlines: How long each role may take.
    """

    name: Name
    scheduler: Scheduler = "vllm"
    hosts: Annotated[tuple[Host, ...], Field(min_length=1)]
    model: Model
    prefill: Annotated[tuple[Instance, ...], Field(min_length=1)]
    decode: Annotated[tuple[Instance, ...], Field(min_length=1)]
    datasystem: DataSystem
    connector: Connector = Connector()
    etcd: Etcd
    router: Router
    containers: Containers = Containers()
    deadlines: Deadlines = Deadlines()

    def host(self, name: str) -> Host:
        """Return a host by name (validation has made sure that it is there)."""
        return next(host for host in self.hosts if host.name == name)

    def serving_hosts(self) -> tuple[Host, ...]:
        """Return the hosts that run a P or a D, in the file's order: each has a DataSystem worker."""
        used = {instance.host for instance in (*self.prefill, *self.decode)}
        return tuple(host for host in self.hosts if host.name in used)

    def ports(self) -> Iterator[tuple[str, int, str]]:
        """Yield every port that will be listened on: host name, port, what for."""
        yield self.etcd.host, self.etcd.port, "etcd.port"
        yield self.etcd.host, self.etcd.peer_port, "etcd.peer_port"
        for host in self.serving_hosts():
            yield host.name, self.datasystem.port, "datasystem.port"
        for kind, instances in (("prefill", self.prefill), ("decode", self.decode)):
            for index, instance in enumerate(instances):
                yield instance.host, instance.port, f"{kind}.{index}.port"
        yield self.router.host, self.router.port, "router.port"
        yield self.router.host, self.router.metrics_port, "router.metrics_port"

    @model_validator(mode="after")
    def _hosts_differ(self) -> Self:
        for field in ("name", "engine", "address"):
            values = [getattr(host, field) for host in self.hosts]
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"two hosts have the same {field} {twice!r}")
        return self

    @model_validator(mode="after")
    def _roles_name_hosts(self) -> Self:
        known = {host.name for host in self.hosts}
        named = [("etcd.host", self.etcd.host), ("router.host", self.router.host)]
        named += [(f"prefill.{index}.host", each.host) for index, each in enumerate(self.prefill)]
        named += [(f"decode.{index}.host", each.host) for index, each in enumerate(self.decode)]
        for field, name in named:
            if name not in known:
                raise ValueError(f"{field}: there is no host {name!r}; there are: {', '.join(sorted(known))}")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        seen: dict[tuple[str, int], str] = {}
        for host, port, field in self.ports():
            if (host, port) in seen:
                raise ValueError(f"{field}: port {port} on {host} is already taken by {seen[(host, port)]}")
            seen[(host, port)] = field
        return self

    @model_validator(mode="after")
    def _shards_match(self) -> Self:
        sizes = {instance.tensor_parallel for instance in (*self.prefill, *self.decode)}
        if len(sizes) > 1:
            raise ValueError(
                f"tensor_parallel differs between P and D ({', '.join(map(str, sorted(sizes)))}): a KV object holds "
                "one rank's heads, so all instances need the same"
            )
        return self

    @model_validator(mode="after")
    def _model_fits_blocks(self) -> Self:
        if self.model.max_model_len < self.model.block_size:
            raise ValueError("model.max_model_len is smaller than one block, so nothing could ever be shared")
        return self


def load_inventory(path: Path) -> Inventory:
    """Read and validate an inventory file.

    Raises:
        ConfigurationError: The file is missing, is not TOML, or a field is wrong; file, line and field are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Inventory.model_validate(tomllib.loads(text))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"The inventory {path} does not exist.", next_command="invoke deploy --hosts hosts.toml"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The inventory {path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{path.name} is not valid TOML: {error}.", next_command=f"invoke deploy.plan --hosts {path.name}"
        ) from error
    except ValidationError as error:
        raise ConfigurationError(
            _explain(path.name, text, error), next_command=f"invoke deploy.plan --hosts {path.name}"
        ) from error


def _explain(file: str, text: str, error: ValidationError) -> str:
    first = error.errors()[0]
    loc = first["loc"]
    problem = str(first["msg"]).removeprefix("Value error, ")
    if not loc and ": " in problem and " " not in problem.split(": ", 1)[0]:
        field, problem = problem.split(": ", 1)
        loc = tuple(int(part) if part.isdigit() else part for part in field.split("."))
    if first["type"] == "extra_forbidden":
        problem = "there is no such field"
    elif first["type"] == "missing":
        problem = "is missing"
    elif loc and not isinstance(first.get("input"), dict | list):
        problem += f" (found {first.get('input')!r})" if first["loc"] else ""
    line = line_of(text, loc)
    where = f"{file}, line {line}" if line else file
    field = ".".join(str(part) for part in loc)
    return f"{where}: {field}: {problem}." if field else f"{where}: {problem}."
