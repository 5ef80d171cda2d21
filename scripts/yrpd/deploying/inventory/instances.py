"""``[model]``, ``[[prefill]]``, ``[[decode]]``, ``[containers]`` and ``[secrets]``: what P and D run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from yrpd.deploying.inventory.fields import AbsolutePath, Port, Table
from yrpd.deploying.inventory.hosts import Device
from yrpd.deploying.inventory.reserved import check_environment, check_options

Dtype = Literal["float32", "bfloat16", "float16"]


class Model(Table):
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
    options: dict[str, Any] = Field(default_factory=dict)

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


class Instance(Table):
    """One vLLM, prefill or decode.

    Attributes:
        host: Which host it runs on.
        port: Its HTTP port there.
        tensor_parallel: NPUs that one replica of the weights is spread over; the same for all instances, since KV
            objects are one per block and rank.
        data_parallel: Replicas inside this instance, behind its one port.
        expert_parallel: Spread the experts of a mixture-of-experts model over all NPUs of the instance.
        devices: Which of the host's NPUs; empty takes the next ones of the host's list.
        cores: CPU cores it is bound to in the cpu flavour, such as ``0`` or ``0-3``; empty leaves it to vLLM.
        options: More ``vllm serve`` options of this instance alone; they win over the model's.
        environment: More environment variables of this instance alone.
    """

    host: str
    port: Port
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    data_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    expert_parallel: bool = False
    devices: tuple[Device, ...] = ()
    cores: Annotated[str, StringConstraints(pattern=r"^(\d+(-\d+)?(,\d+(-\d+)?)*)?$")] = ""
    options: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)

    @field_validator("cores")
    @classmethod
    def _ranges_run_forwards(cls, cores: str) -> str:
        for part in cores.split(","):
            first, _, last = part.partition("-")
            if last and int(last) < int(first):
                raise ValueError(f"{part!r} runs backwards")
        return cores

    @property
    def npus(self) -> int:
        """How many NPUs it needs."""
        return self.tensor_parallel * self.data_parallel

    @field_validator("options")
    @classmethod
    def _options_are_free(cls, options: dict[str, Any]) -> dict[str, Any]:
        return check_options(options)

    @field_validator("environment")
    @classmethod
    def _environment_is_free(cls, environment: dict[str, str]) -> dict[str, str]:
        return check_environment(environment)


class Containers(Table):
    """What all containers share.

    Attributes:
        restart: Docker's restart policy; Docker waits twice as long after every failure, from 0.1 s to a minute.
        restart_attempts: How often ``on-failure`` tries again; 0 is for ever.
        stop_seconds: Grace between SIGTERM and SIGKILL.
        shm_mb: ``/dev/shm`` of P and D (messages between ranks; the KV pool is not in it).
        kvcache_gib: KV cache of a P or D in the cpu flavour.
        capabilities: Linux capabilities added to P and D; all others are dropped.
        privileged: All rights of the host's root for P and D, as in the tutorial; the devices are then all visible.
        environment: More environment variables of P and D.
    """

    restart: Literal["no", "on-failure", "unless-stopped", "always"] = "no"
    restart_attempts: Annotated[int, Field(ge=0, le=1000)] = 0
    stop_seconds: Annotated[int, Field(ge=1, le=600)] = 60
    shm_mb: Annotated[int, Field(ge=64, le=1_048_576)] = 1024
    kvcache_gib: Annotated[int, Field(ge=1, le=4096)] = 1
    capabilities: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Z_]+$")], ...] = ()
    privileged: bool = False
    environment: dict[str, str] = Field(default_factory=dict)

    @field_validator("capabilities")
    @classmethod
    def _capabilities_are_bare(cls, capabilities: tuple[str, ...]) -> tuple[str, ...]:
        for name in capabilities:
            if name.startswith("CAP_"):
                raise ValueError(f"{name!r}: write it without CAP_")
            if name == "ALL":
                raise ValueError("'ALL' is what privileged = true says")
        return capabilities

    @field_validator("environment")
    @classmethod
    def _environment_is_free(cls, environment: dict[str, str]) -> dict[str, str]:
        return check_environment(environment)


class Secrets(Table):
    """Files on the hosts whose contents P, D and endpoint get inside their containers and nowhere else.

    Attributes:
        endpoint_api_keys: What the endpoint asks its clients for: a key on each line.
        vllm_api_key: What P and D ask for, and the endpoint shows them.
        environment: More environment variables of P and D, each read from a file when the container starts.
    """

    endpoint_api_keys: AbsolutePath | None = None
    vllm_api_key: AbsolutePath | None = None
    environment: dict[str, AbsolutePath] = Field(default_factory=dict)

    @field_validator("environment")
    @classmethod
    def _names_are_free(cls, environment: dict[str, str]) -> dict[str, str]:
        check_environment(dict.fromkeys(environment, ""), secrets=True)
        return environment
