"""From an inventory and an image to container specs: a pure function, the same for two hosts and for two hundred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from yrpd.deploying.inventory import Host, Instance, Inventory
from yrpd.deploying.planning import placement, private_files, vllm_settings
from yrpd.deploying.spec import START_ORDER, ContainerSpec, FileProbe, HttpProbe, Mount, Probe, Role, Volume
from yrpd.documents.image_record import ImageRecord
from yrpd.serving import cluster, command_lines, envoy, pairing

# Reads model files whatever their owner; all other capabilities of root are dropped.
VLLM_CAPABILITIES = ("DAC_READ_SEARCH",)
# Lets the worker raise the priority of its own I/O threads, without which a busy host makes saves and loads late.
WORKER_CAPABILITIES = ("SYS_NICE",)
# Nobody, on Debian and openEuler alike: what needs no device and reads no file of the host.
NOBODY = 65534


@dataclass(frozen=True)
class Site:
    """What the plan takes from the place it is made at.

    Attributes:
        model_folder: The model's folder on the hosts, absolute.
        cores: CPU cores of this machine; bounds the bindings of hosts whose engine is on this machine.
    """

    model_folder: str
    cores: int


def _user(mounts: tuple[Mount, ...]) -> str:
    """Return nobody's numbers, and the image's user where there are keys that only the host's root may read."""
    return "" if mounts else f"{NOBODY}:{NOBODY}"


def plan(inventory: Inventory, image: ImageRecord, site: Site) -> tuple[ContainerSpec, ...]:
    """Return every container of a deployment, in start order.

    Args:
        inventory: Where to deploy what.
        image: What every container runs.
        site: What is particular to this machine.

    Raises:
        ConfigurationError: The flavour and the inventory do not fit, such as no NPU for an npu image.
    """
    if image.flavour == "cpu":
        placement.demand_one_rank_each(inventory)
    devices = placement.assign_devices(inventory) if image.flavour == "npu" else {}
    factory = _Factory(inventory, image, site, devices)
    etcd, workers = factory.stores()
    vllms = [
        factory.vllm(role, index, instance, workers[instance.host]) for role, index, instance in inventory.instances()
    ]
    others = [each for each in workers.values() if each is not etcd]
    specs = [etcd, *others, *vllms, factory.endpoint()]
    return tuple(sorted(specs, key=lambda spec: START_ORDER[spec.role]))


def reference(
    inventory: Inventory, image: ImageRecord, site: Site, port: int, *, in_turn: bool = False
) -> ContainerSpec:
    """Return the container of plain vLLM that verification compares with: no connector, no cache, no scheduler of ours.

    Args:
        inventory: What is deployed.
        image: What it runs.
        site: What is particular to this machine.
        port: Where it listens.
        in_turn: It takes the last D's place, with the D's NPUs; else it has NPUs that no instance uses.

    Raises:
        ConfigurationError: No host has room for it.
    """
    last = inventory.decode[-1]
    host = last.host if in_turn else placement.reference_host(inventory, image.flavour)
    devices: tuple[int, ...] = ()
    if image.flavour == "npu":
        free = placement.assign_devices(inventory)["decode", len(inventory.decode) - 1] if in_turn else ()
        devices = tuple(free or placement.spare_devices(inventory)[host])[: last.tensor_parallel]
    instance = last.model_copy(update={"host": host, "port": port, "cores": "", "data_parallel": 1, "devices": ()})
    return _Factory(inventory, image, site, {("reference", 0): devices}).reference(instance)


_Kind = Literal["prefill", "decode"]


@dataclass(frozen=True)
class _Factory:
    """Makes the specs; holds what they share."""

    inventory: Inventory
    image: ImageRecord
    site: Site
    devices: Mapping[tuple[str, int], tuple[int, ...]]

    def host(self, name: str) -> Host:
        """Return a host by name, at once however many there are."""
        return self.hosts[name]

    @cached_property
    def hosts(self) -> Mapping[str, Host]:
        """The hosts by name."""
        return {host.name: host for host in self.inventory.hosts}

    def stores(self) -> tuple[ContainerSpec, Mapping[str, ContainerSpec]]:
        """Return what has etcd, and what has the worker of each serving host; with ``yr``, the master has both."""
        hosts = self.inventory.serving_hosts()
        if self.inventory.datasystem.started_by == "dscli":
            etcd = self.etcd()
            return etcd, {host.name: self.worker(host, etcd) for host in hosts}
        master = self.node(self.host(self.inventory.etcd.host), None)
        others = [host for host in hosts if host.name != master.host]
        return master, {master.host: master, **{host.name: self.node(host, master) for host in others}}

    def node(self, host: Host, master: ContainerSpec | None) -> ContainerSpec:
        """Return a host's part of the cluster that ``yr start`` makes; without a master it is the master."""
        table, etcd = self.inventory.datasystem, self.inventory.etcd
        settings = cluster.Settings(
            address=host.address,
            master=self.host(etcd.host).address,
            etcd_port=etcd.port,
            etcd_peer_port=etcd.peer_port,
            master_port=table.master_port,
            worker_port=table.port,
            memory_mb=table.memory_mb,
            sockets=command_lines.SOCKETS,
            ready=f"{command_lines.WORKER_HOME}/ready",
            # The figures of its tiers, which `yr` leaves out and `dscli` does not.
            worker_flags={"log_monitor": "true", **private_files.worker_flags(self.inventory)},
        )
        spec = self._spec(
            host,
            "worker" if master else "etcd",
            "worker" if master else "master",
            command_lines.openyuanrong(settings),
            FileProbe(settings.ready, host.address, table.port, deadline_s=self.inventory.deadlines.worker),
            (table.port,) if master else (etcd.port, etcd.peer_port, table.master_port, table.port),
        )
        return replace(
            spec,
            mounts=private_files.worker_mounts(self.inventory),
            volumes=(self._sockets(),),
            tmpfs=((command_lines.WORKER_HOME, "size=64m,mode=0755"),),
            capabilities=WORKER_CAPABILITIES,
            needs=(master.need,) if master else (),
        )

    def etcd(self) -> ContainerSpec:
        table = self.inventory.etcd
        host = self.host(table.host)
        mounts, certificates = private_files.etcd_certificates(self.inventory)
        spec = self._spec(
            host,
            "etcd",
            "etcd",
            command_lines.etcd(
                f"{self.inventory.name}-etcd",
                host.address,
                table.port,
                table.peer_port,
                certificates,
                table.metrics_port,
            ),
            # With certificates the client port refuses whoever has none; health and metrics have a port of their own.
            HttpProbe(
                f"http://{host.address}:{table.metrics_port if table.tls else table.port}/health",
                contains=('"health":"true"',),
                deadline_s=self.inventory.deadlines.etcd,
            ),
            (table.port, table.peer_port, *((table.metrics_port,) if table.tls else ())),
        )
        return replace(
            spec,
            mounts=mounts,
            user=_user(mounts),
            # Ascend hosts are often arm64, where etcd 3.4 wants to be told that this is meant.
            env=(("ETCD_UNSUPPORTED_ARCH", "arm64"),) if self.image.flavour == "npu" else (),
        )

    def worker(self, host: Host, etcd: ContainerSpec) -> ContainerSpec:
        table = self.inventory.datasystem
        etcd_host = self.host(self.inventory.etcd.host)
        spec = self._spec(
            host,
            "worker",
            "worker",
            command_lines.datasystem_worker(
                f"{host.address}:{table.port}",
                f"{etcd_host.address}:{self.inventory.etcd.port}",
                table.memory_mb,
                private_files.worker_flags(self.inventory),
            ),
            FileProbe(command_lines.WORKER_READY, host.address, table.port, deadline_s=self.inventory.deadlines.worker),
            (table.port,),
        )
        return replace(
            spec,
            mounts=private_files.worker_mounts(self.inventory),
            volumes=(self._sockets(),),
            capabilities=WORKER_CAPABILITIES,
            needs=(etcd.need,),
        )

    def vllm(self, role: _Kind, index: int, instance: Instance, worker: ContainerSpec) -> ContainerSpec:
        """Return a P or D: vLLM with the connector to its host's worker, whose sockets it shares."""
        transfer = command_lines.KvTransfer(
            role="kv_producer" if role == "prefill" else "kv_consumer",
            worker_address=f"{self.host(instance.host).address}:{self.inventory.datasystem.port}",
            tag="",  # the connector itself finds out what computed a block
            scheduler=self.inventory.scheduler,
            by_module=self.image.flavour == "cpu",
            settings=(
                *self.inventory.connector.settings(),
                ("worker_resource_log", f"{command_lines.WORKER_LOGS}/resource.log"),
            ),
        )
        mounts, files = private_files.vllm_secrets(self.inventory)
        serve = command_lines.vllm_serve(self._serve(instance, connected=True), transfer)
        guarded = bool(self.inventory.secrets.vllm_api_key)
        paired = ((pairing.VARIABLE, self._pairing().as_text()),) if role == "decode" else ()
        spec = self._vllm(
            role,
            index,
            instance,
            command_lines.with_secrets(files, serve),
            # With a key, /v1/models is refused to whoever has none; the plan has none.
            self._vllm_probe(instance, "health") if guarded else self._models_probe(instance),
        )
        return replace(
            spec,
            env=tuple(sorted((*spec.env, *paired))),
            mounts=(*spec.mounts, *mounts),
            volumes=(self._sockets(),),
            after=(worker.name,),
        )

    def reference(self, instance: Instance) -> ContainerSpec:
        """Return plain vLLM, which verification asks itself: it shares nothing and asks for no key."""
        serve = command_lines.vllm_serve(self._serve(instance, connected=False), None)
        spec = self._vllm("reference", 0, instance, serve, self._models_probe(instance))
        return replace(spec, restart="no")

    def endpoint(self) -> ContainerSpec:
        """Return Envoy; which P and D there are is in files that it reads again, so that it stays when one comes."""
        table, choice = self.inventory.endpoint, self.inventory.router
        host = self.host(choice.host)
        mounts, files = private_files.endpoint_files(self.inventory)
        settings = envoy.Settings(
            address=host.address,
            port=table.port,
            metrics_port=table.metrics_port,
            prefill_port=table.prefill_port,
            prefill_policy=choice.prefill_policy or choice.policy,
            decode_policy=choice.decode_policy or choice.policy,
            health_interval_s=choice.health_interval_s,
            tries=table.tries,
            retry_after_s=table.retry_after_s,
            repeatable_mb=table.repeatable_mb,
            **files,
        )
        members = {
            role: [f"{self.host(each.host).address}:{each.port}" for each in instances]
            for role, instances in ((envoy.PREFILL, self.inventory.prefill), (envoy.DECODE, self.inventory.decode))
        }
        spec = self._spec(
            host,
            "endpoint",
            "endpoint",
            command_lines.endpoint(settings),
            HttpProbe(
                f"http://{host.address}:{table.metrics_port}/readiness",
                contains=tuple(
                    f"cluster.{role}.membership_{what}: {len(addresses)}\n"
                    for role, addresses in members.items()
                    for what in ("healthy", "total")
                ),
                deadline_s=self.inventory.deadlines.router,
            ),
            (table.port, table.metrics_port, table.prefill_port),
        )
        return replace(
            spec,
            mounts=mounts,
            user=_user(mounts),
            tmpfs=((settings.folder, "size=1m,mode=0700" + ("" if mounts else f",uid={NOBODY},gid={NOBODY}")),),
            live=tuple(
                (f"{envoy.LIVE}/{envoy.members_file(role)}", envoy.members(role, addresses))
                for role, addresses in members.items()
            ),
        )

    def _pairing(self) -> pairing.Settings:
        """Return how a D finds P."""
        table, host = self.inventory.endpoint, self.host(self.inventory.router.host)
        return pairing.Settings(f"http://{host.address}:{table.prefill_port}", table.decode_alone, table.retry_after_s)

    def _vllm(
        self, role: Role, index: int, instance: Instance, argv: tuple[str, ...], probe: HttpProbe
    ) -> ContainerSpec:
        """Return what every vLLM has: the model, its devices and rights."""
        host, containers = self.host(instance.host), self.inventory.containers
        devices = self.devices.get((role, index), ())
        name = f"{role}-{index}" if role != "reference" else role
        adapters = vllm_settings.adapter_folders(self.inventory, instance, self.model_in_container)
        return replace(
            self._spec(host, role, name, argv, probe, (instance.port,)),
            env=vllm_settings.environment(self.inventory, self.image, host, instance, devices, self.site.cores),
            mounts=(
                Mount(self.site.model_folder, self.model_in_container),
                *(Mount(path, path) for path in (host.driver_mounts if devices else ())),
                *(Mount(path, path) for path in adapters if path not in host.driver_mounts),
            ),
            tmpfs=((command_lines.METRICS, "size=64m,mode=0700"),),
            devices=(*(f"/dev/davinci{number}" for number in devices), *(host.device_nodes if devices else ())),
            groups=host.device_groups if devices else (),
            capabilities=tuple(sorted({*VLLM_CAPABILITIES, *containers.capabilities})),
            shm_mb=containers.shm_mb,
            privileged=containers.privileged,
        )

    def _serve(self, instance: Instance, *, connected: bool) -> command_lines.VllmServe:
        model = self.inventory.model
        return command_lines.VllmServe(
            model=self.model_in_container,
            served_name=model.served_name,
            address=self.host(instance.host).address,
            port=instance.port,
            dtype=model.dtype,
            max_model_len=model.max_model_len,
            block_size=model.block_size,
            tensor_parallel=instance.tensor_parallel,
            data_parallel=instance.data_parallel,
            expert_parallel=instance.expert_parallel,
            cpu=self.image.flavour == "cpu",
            behind_endpoint=connected,
            options=vllm_settings.options(self.inventory, self.image, instance, connected=connected),
        )

    def _models_probe(self, instance: Instance) -> HttpProbe:
        return self._vllm_probe(instance, "v1/models", f'"id":"{self.inventory.model.served_name}"')

    def _vllm_probe(self, instance: Instance, path: str, *contains: str) -> HttpProbe:
        url = f"http://{self.host(instance.host).address}:{instance.port}/{path}"
        return HttpProbe(url, contains, self.inventory.deadlines.vllm)

    @property
    def model_in_container(self) -> str:
        """The model's folder inside every container: the same string everywhere, since image hashes depend on it."""
        return f"/models/{self.site.model_folder.rstrip('/').rsplit('/', 1)[-1]}"

    def _sockets(self) -> Volume:
        # Worker and vLLM are separate containers that share this folder: the memory pool reaches vLLM as file
        # descriptors over the worker's socket, without a copy.
        return Volume(f"{self.inventory.name}-sockets", command_lines.SOCKETS)

    def _spec(
        self, host: Host, role: Role, name: str, argv: tuple[str, ...], probe: Probe, ports: tuple[int, ...]
    ) -> ContainerSpec:
        """Return a container with what all of a deployment share; ``replace`` adds what is its own."""
        containers = self.inventory.containers
        return ContainerSpec(
            host=host.name,
            engine=host.engine,
            deployment=self.inventory.name,
            role=role,
            name=f"{self.inventory.name}-{name}",
            image=self.image.reference,
            image_id=self.image.id,
            content=self.image.content,
            argv=argv,
            probe=probe,
            ports=ports,
            restart=containers.restart,
            restart_attempts=containers.restart_attempts,
            shm_mb=64,
            stop_seconds=containers.stop_seconds,
            runs=self.image.stores if role in ("etcd", "worker") else "",
        )
