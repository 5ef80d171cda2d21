"""``[endpoint]``: the one address that clients know. ``[router]``: where it runs, and how it chooses a P and a D."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from yrpd.deploying.inventory.fields import AbsolutePath, Port, Table

Policy = Literal["round_robin", "random", "power_of_two", "consistent_hash"]


def _gone(what: str) -> BeforeValidator:
    """Refuse a field of earlier versions with what there is instead."""

    def refuse(_: object) -> None:
        raise ValueError(f"leave it out: {what}")

    return BeforeValidator(refuse)


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
        prefill_port: Where D asks for a P.
        tries: How often a request is tried, on another P or D where there is one, before its first byte.
        retry_after_s: What a client that gets 503 is told to wait.
        idle_timeout_s: Of earlier versions.
        repeatable_mb: Requests up to this size are kept for another try.
        decode_alone: Whether a D may prefill by itself when no P could; each one is counted.
        tls: Certificate and key; not given, the port speaks plain HTTP.
    """

    port: Port = 9000
    metrics_port: Port = 29001
    prefill_port: Port = 9001
    tries: Annotated[int, Field(ge=1, le=20)] = 4
    retry_after_s: Annotated[int, Field(ge=1, le=3600)] = 5
    idle_timeout_s: Annotated[None, _gone("no clock ends an answer; P and D are asked for their health")] = None
    repeatable_mb: Annotated[int, Field(ge=1, le=4096)] = 64
    decode_alone: bool = False
    tls: EndpointTls | None = None

    @property
    def scheme(self) -> str:
        """How it is spoken to."""
        return "https" if self.tls else "http"


class Router(Table):
    """Where the endpoint runs, and how it chooses.

    Attributes:
        host: Which host the endpoint runs on.
        policy: How it chooses among several P and several D.
        prefill_policy: The same for P alone.
        decode_policy: The same for D alone.
        health_interval_s: How often it asks P and D whether they are well.
        port: Of earlier versions, as the two that follow.
        metrics_port: As above.
        options: As above.
    """

    host: str
    policy: Policy = "round_robin"
    prefill_policy: Policy | None = None
    decode_policy: Policy | None = None
    health_interval_s: Annotated[int, Field(ge=1, le=300)] = 2
    port: Annotated[None, _gone("vllm-router is gone, and D asks for P at [endpoint] prefill_port")] = None
    metrics_port: Annotated[None, _gone("vllm-router is gone, and all metrics are at [endpoint] metrics_port")] = None
    options: Annotated[None, _gone("vllm-router is gone; tries and limits are those of [endpoint]")] = None
