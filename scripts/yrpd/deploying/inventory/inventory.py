"""All of an inventory file, and what its tables demand of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from yrpd.deploying.inventory.endpoint import Endpoint, Router
from yrpd.deploying.inventory.fields import Name, Table
from yrpd.deploying.inventory.hosts import Host
from yrpd.deploying.inventory.instances import Containers, Instance, Model, Secrets
from yrpd.deploying.inventory.stores import Connector, DataSystem, Etcd

Scheduler = Literal["vllm", "ascend"]


class Deadlines(Table):
    """Seconds: for each role to become ready, and for a P or D to finish its requests before it is exchanged."""

    etcd: Annotated[int, Field(ge=1)] = 60
    worker: Annotated[int, Field(ge=1)] = 120
    vllm: Annotated[int, Field(ge=1)] = 900
    router: Annotated[int, Field(ge=1)] = 120
    drain: Annotated[int, Field(ge=1)] = 300


class Inventory(Table):
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
        endpoint: The one address that clients know.
        router: Where the endpoint runs, and how it chooses a P and a D.
        containers: What all containers share.
        secrets: Files whose contents only the containers see.
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
    endpoint: Endpoint = Endpoint()
    router: Router
    containers: Containers = Containers()
    secrets: Secrets = Secrets()
    deadlines: Deadlines = Deadlines()

    def host(self, name: str) -> Host:
        """Return a host by name (validation has made sure that it is there)."""
        return next(host for host in self.hosts if host.name == name)

    def serving_hosts(self) -> tuple[Host, ...]:
        """Return the hosts that run a P or a D, in the file's order: each has a DataSystem worker."""
        used = {instance.host for instance in (*self.prefill, *self.decode)}
        return tuple(host for host in self.hosts if host.name in used)

    def instances(self) -> Iterator[tuple[Literal["prefill", "decode"], int, Instance]]:
        """Yield every P, then every D: role, number within the role, instance."""
        for index, instance in enumerate(self.prefill):
            yield "prefill", index, instance
        for index, instance in enumerate(self.decode):
            yield "decode", index, instance

    def ports(self) -> Iterator[tuple[str, int, str]]:
        """Yield every port that will be listened on: host name, port, what for."""
        yield self.etcd.host, self.etcd.port, "etcd.port"
        yield self.etcd.host, self.etcd.peer_port, "etcd.peer_port"
        if self.etcd.tls:
            yield self.etcd.host, self.etcd.metrics_port, "etcd.metrics_port"
        if self.datasystem.started_by == "yr":
            yield self.etcd.host, self.datasystem.master_port, "datasystem.master_port"
        for host in self.serving_hosts():
            yield host.name, self.datasystem.port, "datasystem.port"
        for kind, index, instance in self.instances():
            yield instance.host, instance.port, f"{kind}.{index}.port"
        yield self.router.host, self.endpoint.port, "endpoint.port"
        yield self.router.host, self.endpoint.metrics_port, "endpoint.metrics_port"
        yield self.router.host, self.endpoint.prefill_port, "endpoint.prefill_port"

    @model_validator(mode="after")
    def _hosts_differ(self) -> Self:
        for field in ("name", "engine", "address"):
            values = [getattr(host, field) for host in self.hosts]
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(f"two hosts have the same {field} {twice[0]!r}")
        return self

    @model_validator(mode="after")
    def _roles_name_hosts(self) -> Self:
        known = {host.name for host in self.hosts}
        named = [("etcd.host", self.etcd.host), ("router.host", self.router.host)]
        named += [(f"{kind}.{index}.host", each.host) for kind, index, each in self.instances()]
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
    def _devices_are_the_hosts_and_differ(self) -> Self:
        taken: dict[tuple[str, int], str] = {}
        devices = {host.name: set(host.devices) for host in self.hosts}
        for kind, index, instance in self.instances():
            field = f"{kind}.{index}.devices"
            if instance.devices and len(instance.devices) != instance.npus:
                raise ValueError(
                    f"{field}: names {len(instance.devices)} NPU(s), tensor_parallel times data_parallel "
                    f"is {instance.npus}"
                )
            for device in instance.devices:
                if device not in devices[instance.host]:
                    raise ValueError(f"{field}: {instance.host} has no NPU {device} in its devices")
                if (instance.host, device) in taken:
                    raise ValueError(
                        f"{field}: NPU {device} of {instance.host} is already taken by {taken[instance.host, device]}"
                    )
                taken[(instance.host, device)] = field
        return self

    @model_validator(mode="after")
    def _yr_can_start_it(self) -> Self:
        if self.datasystem.started_by == "yr":
            if self.etcd.host not in {host.name for host in self.serving_hosts()}:
                raise ValueError("etcd.host: the master of `yr start` has a worker, so it must be a serving host")
            if self.etcd.tls or self.datasystem.encryption:
                raise ValueError('datasystem.started_by: certificates and keys are for "dscli"')
        return self

    @model_validator(mode="after")
    def _restarts_are_counted_on_failure(self) -> Self:
        if self.containers.restart_attempts and self.containers.restart != "on-failure":
            raise ValueError('containers.restart_attempts: only restart = "on-failure" counts its attempts')
        return self

    @model_validator(mode="after")
    def _model_fits_blocks(self) -> Self:
        if self.model.max_model_len < self.model.block_size:
            raise ValueError("model.max_model_len: is smaller than one block, so nothing could ever be shared")
        return self
