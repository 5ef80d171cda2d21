"""``[endpoint]``: the one address that clients know. ``[router]``: what chooses a P and a D behind it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from yrpd.deploying.inventory.fields import AbsolutePath, Port, Table
from yrpd.deploying.inventory.reserved import check_router_options

Policy = Literal[
    "random", "round_robin", "cache_aware", "power_of_two", "consistent_hash", "sticky_least_loaded"
]  # kv_aware needs KV events, which this deployment does not publish


class EndpointTls(Table):
    """What the endpoint shows its clients.

    Attributes:
        certificate: File on the router's host: the certificate, then those of who signed it.
        key: File on the router's host: its private key.
        ca: File of this machine: who signed it, for ``invoke deploy.verify``; not given, whom this machine trusts.
    """

    certificate: AbsolutePath
    key: AbsolutePath
    ca: AbsolutePath | None = None


class Endpoint(Table):
    """Envoy, on the router's host.

    Attributes:
        port: For clients.
        metrics_port: Prometheus, and readiness.
        tries: How often a request is tried, on another P where there is one, before its first byte.
        retry_after_s: What a client that gets 503 is told to wait.
        idle_timeout_s: A try that is silent for so long has failed; longer than the longest prefill, or answer that is
            not streamed.
        repeatable_mb: Requests up to this size are kept for another try.
        decode_alone: Whether a D may prefill by itself when every try failed; each one is counted.
        tls: Certificate and key; not given, the port speaks plain HTTP.
    """

    port: Port = 9000
    metrics_port: Port = 29001
    tries: Annotated[int, Field(ge=1, le=20)] = 4
    retry_after_s: Annotated[int, Field(ge=1, le=3600)] = 5
    idle_timeout_s: Annotated[int, Field(ge=1, le=86_400)] = 600
    repeatable_mb: Annotated[int, Field(ge=1, le=4096)] = 64
    decode_alone: bool = False
    tls: EndpointTls | None = None

    @property
    def scheme(self) -> str:
        """How it is spoken to."""
        return "https" if self.tls else "http"


class Router(Table):
    """vllm-router.

    Attributes:
        host: Which host it and the endpoint run on.
        port: Its own port, on that host's loopback alone.
        metrics_port: Prometheus.
        policy: How it chooses among several P and several D.
        prefill_policy: The same for P alone.
        decode_policy: The same for D alone.
        health_interval_s: How often it asks P and D; short, because there is no failover between two checks.
        options: More options of vllm-router, without the leading dashes: circuit breakers, retries, queue, limits.
    """

    host: str
    port: Port = 9001
    metrics_port: Port = 29000
    policy: Policy = "round_robin"
    prefill_policy: Policy | None = None
    decode_policy: Policy | None = None
    health_interval_s: Annotated[int, Field(ge=1, le=300)] = 2
    options: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _options_are_free(cls, options: dict[str, object]) -> dict[str, object]:
        return check_router_options(options)
