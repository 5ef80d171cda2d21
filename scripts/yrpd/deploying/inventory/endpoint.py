"""``[router]``: the one address that clients know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from yrpd.deploying.inventory.fields import Port, Table
from yrpd.deploying.options import check_router_options

Policy = Literal[
    "random", "round_robin", "cache_aware", "power_of_two", "consistent_hash", "sticky_least_loaded"
]  # kv_aware needs KV events, which this deployment does not publish


class Router(Table):
    """The endpoint.

    Attributes:
        host: Which host it runs on.
        port: The endpoint's port.
        metrics_port: Prometheus.
        policy: How it chooses among several P and several D.
        prefill_policy: The same for P alone.
        decode_policy: The same for D alone.
        health_interval_s: How often it asks P and D; short, because there is no failover between two checks.
        options: More options of vllm-router, without the leading dashes: circuit breakers, retries, queue, limits.
    """

    host: str
    port: Port = 9000
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
