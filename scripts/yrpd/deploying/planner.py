"""From an inventory and an image to container specs: a pure function, the same for two hosts and for two hundred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from yrpd.deploying.image_record import ImageRecord
from yrpd.deploying.inventory import Host, Instance, Inventory
from yrpd.deploying.spec import WAVES, ContainerSpec, FileProbe, HttpProbe, Mount, Role, Volume
from yrpd.errors import ConfigurationError
from yrpd.serving import command_lines

CPU_ENVIRONMENT: Mapping[str, str] = {
    # Without it vLLM would load the Ascend platform plugin, which needs an NPU.
    "VLLM_PLUGINS": "",
    "TORCHDYNAMO_DISABLE": "1",
}
NPU_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "HCCL_OP_EXPANSION_MODE": "AIV",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
}
VLLM_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_USE_V1": "1",
    # Nothing may be fetched while serving, and nothing reported home.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PROMETHEUS_MULTIPROC_DIR": command_lines.METRICS,
}
# Reads model files whatever their owner; all other capabilities of root are dropped.
VLLM_CAPABILITIES = ("DAC_READ_SEARCH",)
# Lets the worker raise the priority of its own I/O threads, without which a busy host makes saves and loads late.
WORKER_CAPABILITIES = ("SYS_NICE",)


@dataclass(frozen=True)
class Site:
    """What the plan takes from the place it is made at.

    Attributes:
        model_folder: The model's folder on the hosts, absolute.
        cores: CPU cores of this machine; bounds the bindings of hosts whose engine is on this machine.
        model_digest: Identity of the model's files, where they can be read from here; part of every KV key, so that
            blocks of other weights under the same path are never loaded.
    """

    model_folder: str
    cores: int
    model_digest: str = ""


def plan(inventory: Inventory, image: ImageRecord, site: Site) -> tuple[ContainerSpec, ...]:
    """Return every container of a deployment, in start order.

    Args:
        inventory: Where to deploy what.
        image: What every container runs.
        site: What is particular to this machine.

    Raises:
        ConfigurationError: The flavour and the inventory do not fit, such as no NPU for an npu image.
    """
    devices = _assign_devices(inventory) if image.flavour == "npu" else {}
    factory = _Factory(inventory, image, site, devices)
    etcd = factory.etcd()
    workers = {host.name: factory.worker(host, etcd) for host in inventory.serving_hosts()}
    vllms = [
        factory.vllm(role, index, instance, workers[instance.host])
        for role, instances in _instances(inventory)
        for index, instance in enumerate(instances)
    ]
    specs = [etcd, *workers.values(), *vllms, factory.router()]
    order = {role: position for position, wave in enumerate(WAVES) for role in wave}
    return tuple(sorted(specs, key=lambda spec: order[spec.role]))


def reference_host(inventory: Inventory, image: ImageRecord) -> str:
    """Return the host that has room for a plain vLLM beside the deployment; the last one that serves is preferred.

    Raises:
        ConfigurationError: It would need NPUs, and no host has enough to spare.
    """
    serving = [host.name for host in reversed(inventory.serving_hosts())]
    if image.flavour == "cpu":
        return serving[0]
    wanted = inventory.decode[-1].tensor_parallel
    spare = _spare_devices(inventory)
    for name in serving:
        if len(spare[name]) >= wanted:
            return name
    raise ConfigurationError(
        f"Verification compares with a plain vLLM, which needs {wanted} NPU(s) "
        "that no instance uses; no host has them.",
        next_command="list more devices for a host in the inventory",
    )


def reference(inventory: Inventory, image: ImageRecord, site: Site, port: int) -> ContainerSpec:
    """Return the container of plain vLLM that verification compares with: no connector, no cache, no scheduler of ours.

    Raises:
        ConfigurationError: No host has room for it.
    """
    host = reference_host(inventory, image)
    wanted = inventory.decode[-1].tensor_parallel
    devices = {("reference", 0): tuple(_spare_devices(inventory)[host][:wanted])} if image.flavour == "npu" else {}
    instance = inventory.decode[-1].model_copy(update={"host": host, "port": port, "cores": ""})
    return _Factory(inventory, image, site, devices).reference(instance)


_Kind = Literal["prefill", "decode"]


def _instances(inventory: Inventory) -> tuple[tuple[_Kind, tuple[Instance, ...]], ...]:
    return (("prefill", inventory.prefill), ("decode", inventory.decode))


def _assign_devices(inventory: Inventory) -> dict[tuple[str, int], tuple[int, ...]]:
    """Give every instance the next devices of its host, in the file's order."""
    free = {host.name: list(host.devices) for host in inventory.hosts}
    assigned: dict[tuple[str, int], tuple[int, ...]] = {}
    for role, instances in _instances(inventory):
        for index, instance in enumerate(instances):
            wanted = instance.tensor_parallel
            available = free[instance.host]
            if len(available) < wanted:
                raise ConfigurationError(
                    f"{role}.{index} needs {wanted} NPU(s) on {instance.host}, which has {len(available)} left of "
                    f"{len(inventory.host(instance.host).devices)}.",
                    next_command="list the host's devices in the inventory, or use --flavour cpu",
                )
            assigned[(role, index)] = tuple(available[:wanted])
            free[instance.host] = available[wanted:]
    return assigned


def _spare_devices(inventory: Inventory) -> dict[str, list[int]]:
    used: dict[str, set[int]] = {host.name: set() for host in inventory.hosts}
    instances: dict[tuple[str, int], Instance] = {
        (role, index): each for role, group in _instances(inventory) for index, each in enumerate(group)
    }
    for key, devices in _assign_devices(inventory).items():
        used[instances[key].host] |= set(devices)
    return {host.name: [each for each in host.devices if each not in used[host.name]] for host in inventory.hosts}


def bound_cores(cores: str, available: int) -> str:
    """Return a core list with the numbers that the machine does not have wrapped around.

    Args:
        cores: Such as ``1`` or ``0-3,8``.
        available: How many cores there are.
    """
    if not cores or available < 1:
        return cores
    numbers: list[int] = []
    for part in cores.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    if all(number < available for number in numbers):
        return cores
    return ",".join(map(str, dict.fromkeys(number % available for number in numbers)))


@dataclass(frozen=True)
class _Factory:
    """Makes the specs; holds what they share."""

    inventory: Inventory
    image: ImageRecord
    site: Site
    devices: Mapping[tuple[str, int], tuple[int, ...]]

    def etcd(self) -> ContainerSpec:
        table = self.inventory.etcd
        host = self.inventory.host(table.host)
        return self._spec(
            host,
            "etcd",
            "etcd",
            command_lines.etcd(f"{self.inventory.name}-etcd", host.address, table.port, table.peer_port),
            HttpProbe(
                f"http://{host.address}:{table.port}/health",
                contains=('"health":"true"',),
                deadline_s=self.inventory.deadlines.etcd,
            ),
            ports=(table.port, table.peer_port),
            # Ascend hosts are often arm64, where etcd 3.4 wants to be told that this is meant.
            env=(("ETCD_UNSUPPORTED_ARCH", "arm64"),) if self.image.flavour == "npu" else (),
        )

    def worker(self, host: Host, etcd: ContainerSpec) -> ContainerSpec:
        table = self.inventory.datasystem
        etcd_host = self.inventory.host(self.inventory.etcd.host)
        return self._spec(
            host,
            "worker",
            "worker",
            command_lines.datasystem_worker(
                f"{host.address}:{table.port}", f"{etcd_host.address}:{self.inventory.etcd.port}", table.memory_mb
            ),
            FileProbe(command_lines.WORKER_READY, host.address, table.port, deadline_s=self.inventory.deadlines.worker),
            ports=(table.port,),
            volumes=(self._sockets(),),
            capabilities=WORKER_CAPABILITIES,
            needs=((etcd.name, etcd.digest),),
        )

    def vllm(self, role: _Kind, index: int, instance: Instance, worker: ContainerSpec) -> ContainerSpec:
        host = self.inventory.host(instance.host)
        transfer = command_lines.KvTransfer(
            role="kv_producer" if role == "prefill" else "kv_consumer",
            worker_address=f"{host.address}:{self.inventory.datasystem.port}",
            tag="-".join(filter(None, (self.image.tag, self.site.model_digest[:12]))),
            scheduler=self.inventory.scheduler,
            by_module=self.image.flavour == "cpu",
            settings=self.inventory.connector.settings(),
        )
        return self._vllm(role, index, instance, transfer, needs=((worker.name, worker.digest),))

    def reference(self, instance: Instance) -> ContainerSpec:
        spec = self._vllm("reference", 0, instance, None, needs=())
        return replace(spec, restart="no")

    def router(self) -> ContainerSpec:
        table = self.inventory.router
        host = self.inventory.host(table.host)
        prefill, decode = (
            [f"http://{self.inventory.host(each.host).address}:{each.port}" for each in instances]
            for _, instances in _instances(self.inventory)
        )
        return self._spec(
            host,
            "router",
            "router",
            command_lines.router(
                host.address, table.port, table.metrics_port, prefill, decode, table.policy, table.health_interval_s
            ),
            HttpProbe(
                f"http://{host.address}:{table.port}/readiness",
                contains=(
                    f'"healthy":{len(prefill)},"total":{len(prefill)}',
                    f'"healthy":{len(decode)},"total":{len(decode)}',
                ),
                deadline_s=self.inventory.deadlines.router,
            ),
            ports=(table.port, table.metrics_port),
        )

    def _vllm(
        self,
        role: Role,
        index: int,
        instance: Instance,
        transfer: command_lines.KvTransfer | None,
        needs: tuple[tuple[str, str], ...],
    ) -> ContainerSpec:
        host, model = self.inventory.host(instance.host), self.inventory.model
        serve = command_lines.VllmServe(
            model=self.model_in_container,
            served_name=model.served_name,
            address=host.address,
            port=instance.port,
            dtype=model.dtype,
            max_model_len=model.max_model_len,
            block_size=model.block_size,
            tensor_parallel=instance.tensor_parallel,
            cpu=self.image.flavour == "cpu",
            options=self._options(transfer),
        )
        devices = self.devices.get((role, index), ())
        return self._spec(
            host,
            role,
            f"{role}-{index}" if role != "reference" else "reference",
            command_lines.vllm_serve(serve, transfer),
            HttpProbe(
                f"http://{host.address}:{instance.port}/v1/models",
                contains=(f'"id":"{model.served_name}"',),
                deadline_s=self.inventory.deadlines.vllm,
            ),
            ports=(instance.port,),
            env=tuple(sorted(self._environment(host, instance, devices).items())),
            mounts=(
                Mount(self.site.model_folder, self.model_in_container),
                *(Mount(path, path) for path in (host.driver_mounts if devices else ())),
            ),
            volumes=(self._sockets(),) if transfer else (),
            tmpfs=((command_lines.METRICS, "size=64m,mode=0700"),),
            devices=(*(f"/dev/davinci{number}" for number in devices), *(host.device_nodes if devices else ())),
            capabilities=tuple(sorted({*VLLM_CAPABILITIES, *self.inventory.containers.capabilities})),
            shm_mb=self.inventory.containers.shm_mb,
            needs=needs,
        )

    @property
    def model_in_container(self) -> str:
        """The model's folder inside every container: the same string everywhere, since image hashes depend on it."""
        return f"/models/{self.site.model_folder.rstrip('/').rsplit('/', 1)[-1]}"

    def _options(self, transfer: command_lines.KvTransfer | None) -> tuple[tuple[str, str], ...]:
        options = dict(self.inventory.model.options)
        if transfer and transfer.scheduler == "ascend" and self.image.flavour == "npu":
            additional = dict(options.get("additional-config") or {})
            additional["ascend_scheduler_config"] = {
                "enabled": True,
                **additional.get("ascend_scheduler_config", {}),
            }
            options["additional-config"] = additional
        return command_lines.options_as_text(options)

    def _environment(self, host: Host, instance: Instance, devices: tuple[int, ...]) -> dict[str, str]:
        environment = {**VLLM_ENVIRONMENT, "VLLM_HOST_IP": host.address}
        if self.image.flavour == "cpu":
            environment |= CPU_ENVIRONMENT
            environment["VLLM_CPU_KVCACHE_SPACE"] = str(self.inventory.containers.kvcache_gib)
            here = self.site.cores if host.engine.startswith("unix://") else 0
            if cores := bound_cores(instance.cores, here):
                environment["VLLM_CPU_OMP_THREADS_BIND"] = cores
        else:
            environment |= NPU_ENVIRONMENT
            environment["HCCL_IF_IP"] = host.address
            environment["ASCEND_RT_VISIBLE_DEVICES"] = ",".join(map(str, devices))
        return {**environment, **self.inventory.containers.environment}

    def _sockets(self) -> Volume:
        # Worker and vLLM are separate containers that share this folder: the memory pool reaches vLLM as file
        # descriptors over the worker's socket, without a copy.
        return Volume(f"{self.inventory.name}-sockets", command_lines.SOCKETS)

    def _spec(
        self,
        host: Host,
        role: Role,
        name: str,
        argv: tuple[str, ...],
        probe: HttpProbe | FileProbe,
        *,
        ports: tuple[int, ...],
        env: tuple[tuple[str, str], ...] = (),
        mounts: tuple[Mount, ...] = (),
        volumes: tuple[Volume, ...] = (),
        tmpfs: tuple[tuple[str, str], ...] = (),
        devices: tuple[str, ...] = (),
        capabilities: tuple[str, ...] = (),
        shm_mb: int = 64,
        needs: tuple[tuple[str, str], ...] = (),
    ) -> ContainerSpec:
        containers = self.inventory.containers
        return ContainerSpec(
            host=host.name,
            engine=host.engine,
            deployment=self.inventory.name,
            role=role,
            name=f"{self.inventory.name}-{name}",
            image=self.image.reference,
            image_id=self.image.id,
            argv=argv,
            probe=probe,
            ports=ports,
            env=env,
            mounts=mounts,
            volumes=volumes,
            tmpfs=tmpfs,
            devices=devices,
            capabilities=capabilities,
            restart=containers.restart,
            shm_mb=shm_mb,
            stop_seconds=containers.stop_seconds,
            needs=needs,
        )
