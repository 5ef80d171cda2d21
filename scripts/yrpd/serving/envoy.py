"""Becomes the endpoint: ``python3 -m yrpd.serving.envoy SETTINGS``, Envoy in front of vllm-router.

vllm-router answers 500 when a prefill fails, and has neither a second try, nor TLS, nor keys of its clients; its port
takes new workers from anybody. Envoy does all that by configuration. The configuration is made here, inside the
container, because it holds the keys: a plan, ``docker inspect`` and ``ps`` show the paths of their files alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

TYPE = "type.googleapis.com/envoy"
ROUTER, DECODE_ALONE, SERVING, ADMIN = "router", "decode-alone", "serving", "admin"
# What vllm-router asks a P and a D for. Its own paths take workers in and out, others of vLLM it knows in part only.
API_PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/models")
# Answered without a key, as vLLM does.
OPEN_PATHS = ("/health", "/liveness", "/readiness")
MANY = 1 << 20
UNAVAILABLE = {
    "object": "error",
    "message": "No prefill and decode could answer; nothing was computed wrongly. Try again later.",
    "type": "ServiceUnavailableError",
    "param": None,
    "code": 503,
}


@dataclass(frozen=True)
class Settings:
    """What the endpoint does; paths of files, never their contents.

    Attributes:
        address: Where it listens.
        port: For clients.
        metrics_port: For Prometheus and readiness, plain HTTP.
        router: ``host:port`` of vllm-router.
        decode: ``host:port`` of every D that may prefill alone when every try through the router failed.
        tries: How often a request is tried before its first byte.
        retry_after_s: What a client is told to wait after 503.
        idle_timeout_s: A try that is silent for so long has failed.
        repeatable_mb: Requests up to this size are kept for another try.
        certificate: File; given, the port speaks TLS.
        key: Its private key.
        client_keys: File with a client's key on each line; given, every other client is refused.
        engine_key: File with the key that P and D ask for.
        folder: Where the configuration is written; in memory, of this user alone.
    """

    address: str
    port: int
    metrics_port: int
    router: str
    decode: tuple[str, ...] = ()
    tries: int = 4
    retry_after_s: int = 5
    idle_timeout_s: int = 600
    repeatable_mb: int = 64
    certificate: str = ""
    key: str = ""
    client_keys: str = ""
    engine_key: str = ""
    folder: str = "/run/yuanrong/endpoint"

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
        given = dict(json.loads(text))
        return cls(**{**given, "decode": tuple(given.get("decode", ()))})


def configuration(settings: Settings, client_keys: Sequence[str] = (), engine_key: str = "") -> dict[str, Any]:
    """Return Envoy's configuration. Pure.

    Args:
        settings: What the endpoint does.
        client_keys: The keys of clients; none lets everybody in.
        engine_key: The key for P and D.
    """
    socket = f"{settings.folder}/admin.sock"
    clusters = [_cluster(ROUTER, [_authority(settings.router)]), _cluster(ADMIN, [{"pipe": {"path": socket}}])]
    if settings.decode:
        clusters += [_decode_alone(settings), _serving()]
    listeners = [
        _listener("endpoint", settings.address, settings.port, _endpoint(settings, client_keys, engine_key)),
        _listener("metrics", settings.address, settings.metrics_port, _metrics()),
    ]
    if settings.certificate:
        listeners[0]["filter_chains"][0]["transport_socket"] = _tls(settings)
    return {
        "admin": {"address": {"pipe": {"path": socket, "mode": 0o600}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _endpoint(settings: Settings, client_keys: Sequence[str], engine_key: str) -> dict[str, Any]:
    # Clients' keys are for this door; the next ones have a key of their own or none.
    inner: dict[str, Any] = {"request_headers_to_remove": ["authorization"]}
    if engine_key:
        inner = {"request_headers_to_add": [_header("authorization", f"Bearer {engine_key}")]}
    routes: list[dict[str, Any]] = [
        {"match": {"path": path}, "route": {"cluster": ROUTER, "timeout": "10s"}, **inner} for path in OPEN_PATHS
    ]
    if client_keys:
        routes.append(
            {
                "match": {"prefix": "/", "headers": [_no_key(key) for key in client_keys]},
                **_answer(401, {"error": "Unauthorized"}),
            }
        )
    routes += [{"match": {"path": path}, **_served(settings), **inner} for path in API_PATHS]
    routes.append({"match": {"prefix": "/"}, **_answer(404, {"detail": "Not Found"})})
    return _http("endpoint", routes, [_unavailable(settings.retry_after_s)])


def _served(settings: Settings) -> dict[str, Any]:
    retry: dict[str, Any] = {
        # Includes resets and refused connections; never after the first byte of an answer.
        "retry_on": "5xx",
        "num_retries": settings.tries - 1 + (1 if settings.decode else 0),
        "per_try_idle_timeout": f"{settings.idle_timeout_s}s",
        "retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"},
    }
    if settings.decode:
        retry["retry_priority"] = {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": f"{TYPE}.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": settings.tries,
            },
        }
    route = {"cluster": SERVING if settings.decode else ROUTER, "timeout": "0s", "retry_policy": retry}
    return {"route": route, "request_body_buffer_limit": settings.repeatable_mb << 20}


def _metrics() -> dict[str, Any]:
    routes = [
        {"match": {"path": "/metrics"}, "route": {"cluster": ADMIN, "prefix_rewrite": "/stats/prometheus?usedonly"}},
        {"match": {"path": "/ready"}, "route": {"cluster": ADMIN}},
        # Asked here and not on the router's own port, which only this host can reach.
        {"match": {"path": "/readiness"}, "route": {"cluster": ROUTER}},
    ]
    return _http("metrics", routes, [])


def _http(name: str, routes: list[dict[str, Any]], filters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "use_remote_address": True,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        # Before the routes are looked at: /v1/../add_worker is not a path of the API.
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        # Silence is the tries' business: an answer may think for long.
        "stream_idle_timeout": "0s",
        "request_headers_timeout": "30s",
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [
            *filters,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{TYPE}.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            },
        ],
    }


def _unavailable(retry_after_s: int) -> dict[str, Any]:
    """Every 5xx that is left after the last try becomes one answer: 503, and when to come back."""
    policy = {
        "@type": f"{TYPE}.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
        "status_code": 503,
        "body": {"inline_string": json.dumps(UNAVAILABLE)},
        "response_headers_to_add": [
            _header("retry-after", str(retry_after_s)),
            _header("content-type", "application/json"),
        ],
    }
    matcher = {
        "predicate": {
            "single_predicate": {
                "input": {
                    "name": "status",
                    "typed_config": {"@type": f"{TYPE}.type.matcher.v3.HttpResponseStatusCodeClassMatchInput"},
                },
                "value_match": {"exact": "5xx"},
            }
        },
        "on_match": {"action": {"name": "unavailable", "typed_config": policy}},
    }
    return {
        "name": "envoy.filters.http.custom_response",
        "typed_config": {
            "@type": f"{TYPE}.extensions.filters.http.custom_response.v3.CustomResponse",
            "custom_response_matcher": {"matcher_list": {"matchers": [matcher]}},
        },
    }


def _no_key(key: str) -> dict[str, Any]:
    # A request without the header is one without the key, too.
    return {
        "name": "authorization",
        "string_match": {"exact": f"Bearer {key}"},
        "invert_match": True,
        "treat_missing_header_as_empty": True,
    }


def _answer(status: int, body: Mapping[str, str]) -> dict[str, Any]:
    return {
        "direct_response": {"status": status, "body": {"inline_string": json.dumps(body)}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _cluster(name: str, addresses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": each}} for each in addresses]}],
        },
        # Limits are vLLM's and vllm-router's; Envoy's own defaults would refuse the 4th retry at a time.
        "circuit_breakers": {
            "thresholds": [
                dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), MANY)
            ]
        },
    }


def _decode_alone(settings: Settings) -> dict[str, Any]:
    check = {
        "timeout": "5s",
        "interval": "2s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/health"},
    }
    return {**_cluster(DECODE_ALONE, [_authority(each) for each in settings.decode]), "health_checks": [check]}


def _serving() -> dict[str, Any]:
    """The router, and behind it as second choice the D: a retry goes on to the next after ``tries``."""
    return {
        "name": SERVING,
        "connect_timeout": "5s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {
                "@type": f"{TYPE}.extensions.clusters.aggregate.v3.ClusterConfig",
                "clusters": [ROUTER, DECODE_ALONE],
            },
        },
        "circuit_breakers": {"thresholds": [{"max_retries": MANY}]},
    }


def _tls(settings: Settings) -> dict[str, Any]:
    certificate = {"certificate_chain": {"filename": settings.certificate}, "private_key": {"filename": settings.key}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [certificate],
            },
        },
    }


def _listener(name: str, address: str, port: int, manager: dict[str, Any]) -> dict[str, Any]:
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": name, "address": _socket(address, port), "filter_chains": [{"filters": [network]}]}


def _authority(text: str) -> dict[str, Any]:
    host, _, port = text.rpartition(":")
    return _socket(host, int(port))


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
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    file = Path(settings.folder) / "envoy.json"
    Path(f"{settings.folder}/admin.sock").unlink(missing_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        json.dump(configuration(settings, client_keys, engine_keys[0]), stream)
    line = ["envoy", "--config-path", str(file), "--disable-hot-restart", "--log-level", "warn"]
    os.execvp(line[0], line)  # noqa: S606  (replacing this process is the point)


if __name__ == "__main__":
    main()
