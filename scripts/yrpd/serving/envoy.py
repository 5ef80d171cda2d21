"""Becomes the endpoint: ``python3 -m yrpd.serving.envoy SETTINGS``, Envoy in front of every D, and of every P for D.

Clients' requests go to a D as they are. D asks for P's part through a second listener (:mod:`yrpd.serving.pairing`).
The configuration is made here, inside the container, because it holds the keys: a plan, ``docker inspect`` and ``ps``
show the paths of their files alone. Which P and D there are is read from files that change while Envoy runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from yrpd.serving.pairing import PATHS, RETRY, error

TYPE = "type.googleapis.com/envoy"
PREFILL, DECODE, ADMIN = "prefill", "decode", "admin"
LIVE = "/var/lib/yuanrong/endpoint"
# What vLLM answers its clients. What else it has is for its operators, and is asked there.
API_PATHS = (*PATHS, "/v1/models", "/tokenize", "/detokenize", "/version")
# vLLM refuses these of a model that generates, with a sentence, and some releases with status 200.
OTHER_PATHS = (
    "/v1/embeddings",
    "/pooling",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
)
# Answered without a key, as vLLM does.
OPEN_PATHS = ("/health", "/ping")
MANY = 1 << 20
OTHER = "The model that is served here generates text; it has no embeddings, scores or transcriptions."
UNAVAILABLE = "No prefill and decode could answer; nothing was computed wrongly. Try again later."
POLICIES: Mapping[str, str] = {
    "round_robin": "ROUND_ROBIN",
    "random": "RANDOM",
    "power_of_two": "LEAST_REQUEST",
    "consistent_hash": "RING_HASH",
}
SESSION = "x-session-id"
MEMBERS = "^cluster.(prefill|decode).membership_(healthy|total)$"


@dataclass(frozen=True)
class Settings:
    """What the endpoint does; paths of files, never their contents.

    Attributes:
        address: Where it listens.
        port: For clients.
        metrics_port: For Prometheus and readiness, plain HTTP.
        prefill_port: Where D asks for a P.
        prefill_policy: A key of :data:`POLICIES`, for P.
        decode_policy: The same for D.
        health_interval_s: How often P and D are asked whether they are well.
        tries: How often a request is tried before its first byte, on D, and D's on P.
        retry_after_s: What a client is told to wait after 503.
        repeatable_mb: Requests up to this size are kept for another try.
        certificate: File; given, the port speaks TLS.
        key: Its private key.
        client_keys: File with a client's key on each line; given, every other client is refused.
        engine_key: File with the key that P and D ask for.
        folder: Where the configuration is written; in memory, of this user alone.
        live: Where the files are that list P and D.
    """

    address: str
    port: int
    metrics_port: int
    prefill_port: int
    prefill_policy: str = "round_robin"
    decode_policy: str = "round_robin"
    health_interval_s: int = 2
    tries: int = 4
    retry_after_s: int = 5
    repeatable_mb: int = 64
    certificate: str = ""
    key: str = ""
    client_keys: str = ""
    engine_key: str = ""
    folder: str = "/run/yuanrong/endpoint"
    live: str = LIVE

    def as_text(self) -> str:
        """Return what :meth:`from_text` reads; what has its default is left out."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        defaults = {each.name: each.default for each in fields(self)}
        return json.dumps({name: value for name, value in given.items() if value != defaults[name]}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Settings:
        """Read settings.

        Raises:
            ValueError: They are no JSON.
            TypeError: A field is unknown or missing.
        """
        return cls(**json.loads(text))


def members_file(role: str) -> str:
    """Return the name of the file that lists a role's instances."""
    return f"{role}.json"


def members(role: str, addresses: Sequence[str]) -> str:
    """Return the content of :func:`members_file`; Envoy reads it again when another file is renamed to it. Pure.

    Args:
        role: ``prefill`` or ``decode``.
        addresses: ``host:port`` of each instance.
    """
    assignment = _assignment(role, [_authority(each) for each in addresses])
    resource = {"@type": f"{TYPE}.config.endpoint.v3.ClusterLoadAssignment", **assignment}
    return json.dumps({"resources": [resource]}, sort_keys=True)


def configuration(settings: Settings, client_keys: Sequence[str] = (), engine_key: str = "") -> dict[str, Any]:
    """Return Envoy's configuration. Pure.

    Args:
        settings: What the endpoint does.
        client_keys: The keys of clients; none lets everybody in.
        engine_key: The key for P and D.
    """
    socket = f"{settings.folder}/admin.sock"
    front = _listener("endpoint", settings.address, settings.port, _endpoint(settings, client_keys, engine_key))
    metrics = _listener("metrics", settings.address, settings.metrics_port, _metrics())
    for_decode = _listener(PREFILL, settings.address, settings.prefill_port, _prefill(settings))
    for each in (front, metrics):
        # These close when the endpoint is drained; D still asks for the P of what it has taken on.
        each["traffic_direction"] = "INBOUND"
    if settings.certificate:
        front["filter_chains"][0]["transport_socket"] = _tls(settings)
    return {
        "node": {"id": "endpoint", "cluster": "endpoint"},
        "admin": {"address": {"pipe": {"path": socket, "mode": 0o600}}},
        "static_resources": {
            "listeners": [front, metrics, for_decode],
            "clusters": [
                _engines(PREFILL, settings.prefill_policy, settings),
                _engines(DECODE, settings.decode_policy, settings),
                {**_cluster(ADMIN), "load_assignment": _assignment(ADMIN, [{"pipe": {"path": socket}}])},
            ],
        },
    }


def _endpoint(settings: Settings, client_keys: Sequence[str], engine_key: str) -> dict[str, Any]:
    # Clients' keys are for this door; the next ones have a key of their own or none.
    inner: dict[str, Any] = {"request_headers_to_remove": ["authorization"]}
    if engine_key:
        inner = {"request_headers_to_add": [_header("authorization", f"Bearer {engine_key}")]}
    served = {**_served(settings, DECODE), **inner}
    routes: list[dict[str, Any]] = [
        {"match": {"path": path}, "route": {"cluster": DECODE, "timeout": "10s"}, **inner} for path in OPEN_PATHS
    ]
    if client_keys:
        # A browser asks what it may send before it sends a key.
        routes += [{"match": {"path": path, "headers": [_method("OPTIONS")]}, **served} for path in API_PATHS]
        stranger = {"prefix": "/", "headers": [_no_key(key) for key in client_keys]}
        routes.append({"match": stranger, **_answer(401, {"error": "Unauthorized"})})
    routes += [{"match": {"path": path}, **served} for path in API_PATHS]
    refused = _answer(400, error(OTHER, "BadRequestError", 400))
    routes += [{"match": {"path": path}, **refused} for path in OTHER_PATHS]
    return _http("endpoint", routes, settings)


def _prefill(settings: Settings) -> dict[str, Any]:
    served = _served(settings, PREFILL)
    return _http(
        PREFILL, [{"match": {"path": each, "headers": [_method("POST")]}, **served} for each in PATHS], settings
    )


def _served(settings: Settings, cluster: str) -> dict[str, Any]:
    # Never after the first byte of an answer, and never what an engine answered itself: a request that breaks one
    # would break the next, too. A P's 503 is a refusal, not a failure.
    header = {"name": RETRY, "present_match": True}
    what, again = ("status-codes", [503]) if cluster == PREFILL else ("headers", [header])
    retry = {
        "retry_on": f"connect-failure,refused-stream,reset,retriable-{what}",
        f"retriable_{what.replace('-', '_')}": again,
        "num_retries": settings.tries - 1,
        "retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"},
        "retry_host_predicate": [
            _extension("retry_host_predicates.previous_hosts", "retry.host.previous_hosts.v3.PreviousHostsPredicate")
        ],
        "host_selection_retry_max_attempts": 5,
    }
    by = [{"header": {"header_name": SESSION}, "terminal": True}, {"connection_properties": {"source_ip": True}}]
    return {
        # No clock: how long an answer takes is the engine's business, and whether it lives that of its health.
        "route": {"cluster": cluster, "timeout": "0s", "retry_policy": retry, "hash_policy": by},
        "request_body_buffer_limit": settings.repeatable_mb << 20,
        "response_headers_to_remove": [RETRY],
    }


def _method(name: str) -> dict[str, Any]:
    return {"name": ":method", "string_match": {"exact": name}}


def _metrics() -> dict[str, Any]:
    routes = [
        {"match": {"path": "/metrics"}, "route": {"cluster": ADMIN, "prefix_rewrite": "/stats/prometheus?usedonly"}},
        {"match": {"path": "/ready"}, "route": {"cluster": ADMIN}},
        # How many P and D there are, and how many are well.
        {"match": {"path": "/readiness"}, "route": {"cluster": ADMIN, "prefix_rewrite": f"/stats?filter={MEMBERS}"}},
    ]
    return _http("metrics", routes)


def _http(name: str, routes: list[dict[str, Any]], settings: Settings | None = None) -> dict[str, Any]:
    routes = [*routes, {"match": {"prefix": "/"}, **_answer(404, {"detail": "Not Found"})}]
    return {
        "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "use_remote_address": True,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": name},
        # Before the routes are looked at: /v1/../metrics is not a path of the API.
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        # An answer may think for long.
        "stream_idle_timeout": "0s",
        "request_headers_timeout": "30s",
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        **({"access_log": [_access_log(name)], "local_reply_config": _unavailable(settings)} if settings else {}),
        "http_filters": [
            _extension("filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True)
        ],
    }


def _access_log(name: str) -> dict[str, Any]:
    line = {
        "time": "%START_TIME%",
        "listener": name,
        "id": "%REQ(X-REQUEST-ID)%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "ms": "%DURATION%",
        "engine": "%UPSTREAM_HOST%",
        "tries": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    }
    log_format = {"json_format": line}
    return _extension("access_loggers.stdout", "access_loggers.stream.v3.StdoutAccessLog", log_format=log_format)


def _unavailable(settings: Settings) -> dict[str, Any]:
    """Every 5xx of Envoy itself becomes one answer: 503, and when to come back. What an engine says is left alone."""
    at_least = {"default_value": 500, "runtime_key": "unavailable_from"}
    mapper = {
        "filter": {"status_code_filter": {"comparison": {"op": "GE", "value": at_least}}},
        "status_code": 503,
        "body": {"inline_string": json.dumps(error(UNAVAILABLE))},
        "body_format_override": {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}},
        "headers_to_add": [
            _header("retry-after", str(settings.retry_after_s)),
            _header("content-type", "application/json"),
        ],
    }
    return {"mappers": [mapper]}


def _no_key(key: str) -> dict[str, Any]:
    # A request without the header is one without the key, too.
    return {
        "name": "authorization",
        "string_match": {"exact": f"Bearer {key}"},
        "invert_match": True,
        "treat_missing_header_as_empty": True,
    }


def _answer(status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "direct_response": {"status": status, "body": {"inline_string": json.dumps(body, separators=(",", ":"))}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _assignment(name: str, addresses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    hosts = [{"endpoint": {"address": each}} for each in addresses]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}


def _cluster(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "connect_timeout": "5s",
        # Limits are vLLM's; Envoy's own defaults would refuse the 4th retry at a time.
        "circuit_breakers": {
            "thresholds": [
                dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), MANY)
            ]
        },
    }


def _engines(role: str, policy: str, settings: Settings) -> dict[str, Any]:
    interval = f"{settings.health_interval_s}s"
    protocol = f"{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        **_cluster(role),
        "type": "EDS",
        "eds_cluster_config": {
            "eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": f"{settings.live}/{members_file(role)}",
                    "watched_directory": {"path": settings.live},
                },
            }
        },
        # What is taken from the list gets nothing new, however well it is.
        "ignore_health_on_host_removal": True,
        "lb_policy": POLICIES[policy],
        # Without one that is well it is better to say so than to ask one that is not.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [
            {
                "timeout": "5s",
                "interval": interval,
                "no_traffic_interval": interval,
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/health"},
            }
        ],
        # A host that lost its power or its network says nothing at all.
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 5}
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": protocol,
                "explicit_http_config": {"http_protocol_options": {}},
                # Before vLLM's server closes it, after 5 s.
                "common_http_protocol_options": {"idle_timeout": "3s"},
            }
        },
    }


def _tls(settings: Settings) -> dict[str, Any]:
    certificate = {"certificate_chain": {"filename": settings.certificate}, "private_key": {"filename": settings.key}}
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [certificate],
    }
    kind = "transport_sockets.tls.v3.DownstreamTlsContext"
    return _extension("transport_sockets.tls", kind, common_tls_context=common)


def _extension(name: str, kind: str, **settings: Any) -> dict[str, Any]:
    return {"name": f"envoy.{name}", "typed_config": {"@type": f"{TYPE}.extensions.{kind}", **settings}}


def _listener(name: str, address: str, port: int, manager: dict[str, Any]) -> dict[str, Any]:
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": name, "address": _socket(address, port), "filter_chains": [{"filters": [network]}]}


def _authority(text: str) -> dict[str, Any]:
    host, _, port = text.rpartition(":")
    return _socket(host.strip("[]"), int(port))


def _socket(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def keys_in(text: str) -> list[str]:
    """Return the keys of a file's text, one on each line; empty lines and lines that begin with ``#`` do not count."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def read_keys(file: str) -> list[str]:
    """Return the keys of a file.

    Raises:
        ValueError: There is none; a file without a key must not let everybody in.
        OSError: It cannot be read.
    """
    keys = keys_in(Path(file).read_text(encoding="utf-8"))
    if not keys:
        raise ValueError(f"{file} has no key")
    return keys


def main(arguments: Sequence[str] | None = None) -> None:
    """Become Envoy; returns only by replacing the process."""
    (text,) = sys.argv[1:] if arguments is None else arguments
    settings = Settings.from_text(text)
    try:
        client_keys = read_keys(settings.client_keys) if settings.client_keys else []
        engine_keys = read_keys(settings.engine_key) if settings.engine_key else [""]
    except (ValueError, OSError) as reason:
        raise SystemExit(f"error: {reason}") from None
    file = Path(settings.folder) / "envoy.json"
    Path(f"{settings.folder}/admin.sock").unlink(missing_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        json.dump(configuration(settings, client_keys, engine_keys[0]), stream)
    line = ["envoy", "--config-path", str(file), "--disable-hot-restart", "--log-level", "warn"]
    os.execvp(line[0], line)  # noqa: S606  (replacing this process is the point)


if __name__ == "__main__":
    main()
