"""Kubernetes manifests: a Deployment per container, tied to its host, on the host's network.

Addresses stay those of the inventory, so the command lines are the same. NPUs are asked of Ascend's device plugin
(``huawei.com/Ascend910``) and not by device node; it hands out the devices and mounts the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from yrpd.deploying.spec import PORTS, SPEC, ContainerSpec, FileProbe, HttpProbe

NPU_RESOURCE = "huawei.com/Ascend910"
PROBE_PERIOD_S = 5
# Chosen by the device plugin, so that what the plan would say could be another instance's device.
PLUGIN_SETS = ("ASCEND_RT_VISIBLE_DEVICES",)


def text(deployment: str, specs: Sequence[ContainerSpec]) -> str:
    """Return all manifests as one file.

    Args:
        deployment: The namespace.
        specs: Every container, in start order.
    """
    heading = (
        "# kubectl apply -f THIS_FILE. Nodes are called as the inventory's hosts (kubernetes.io/hostname), carry the\n"
        "# image, and have the inventory's folders and files. Containers start again until what they need is up.\n"
    )
    return heading + yaml.safe_dump_all(documents(deployment, specs), sort_keys=False, width=10_000)


def documents(deployment: str, specs: Sequence[ContainerSpec]) -> list[dict[str, Any]]:
    """Return the manifests as values: a namespace, a Deployment per container, the endpoint's Service and its files."""
    # Host network, host paths and added capabilities are beyond Kubernetes' own baseline.
    labels = {"pod-security.kubernetes.io/enforce": "privileged"} if specs else {}
    found: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": deployment, "labels": labels}}
    ]
    found += [_files(deployment, spec) for spec in specs if spec.live]
    found += [_deployment(deployment, spec) for spec in specs]
    found += [_service(deployment, spec) for spec in specs if spec.role == "endpoint"]
    return found


def _names(spec: ContainerSpec) -> dict[str, str]:
    return {
        "app.kubernetes.io/part-of": spec.deployment,
        "app.kubernetes.io/component": spec.role,
        "app.kubernetes.io/name": spec.name,
        "app.kubernetes.io/instance": spec.host,
    }


def _files(namespace: str, spec: ContainerSpec) -> dict[str, Any]:
    """Return a ConfigMap; the kubelet brings a change of it into the running container."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": spec.name, "namespace": namespace, "labels": _names(spec)},
        "data": {path.rpartition("/")[2]: content for path, content in spec.live},
    }


def _deployment(namespace: str, spec: ContainerSpec) -> dict[str, Any]:
    # Workers are called the same on every host, objects of a namespace are not.
    name = spec.name if spec.role != "worker" else f"{spec.name}-{spec.host}"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": _names(spec),
            "annotations": {SPEC: spec.digest, PORTS: ",".join(map(str, spec.ports))},
        },
        "spec": {
            "replicas": 1,
            # A second one could not listen on the same ports.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _names(spec)},
            "template": {"metadata": {"labels": _names(spec)}, "spec": _pod(spec)},
        },
    }


def _pod(spec: ContainerSpec) -> dict[str, Any]:
    volumes = _volumes(spec)
    return {
        "nodeSelector": {"kubernetes.io/hostname": spec.host},
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.stop_seconds,
        "containers": [_container(spec, [mount for mount, _ in volumes])],
        "volumes": [volume for _, volume in volumes],
        **({"securityContext": {"supplementalGroups": list(spec.groups)}} if spec.groups else {}),
    }


def _container(spec: ContainerSpec, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    devices = [device for device in spec.devices if device.removeprefix("/dev/davinci").isdigit()]
    container: dict[str, Any] = {
        "name": spec.role,
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        # Not `command`, which would replace the entry point of the base image.
        "args": [_literal(part) for part in spec.argv],
        "env": [
            {"name": name, "value": _literal(value)}
            for name, value in spec.env
            if not (devices and name in PLUGIN_SETS)
        ],
        "ports": [{"containerPort": port, "hostPort": port, "protocol": "TCP"} for port in spec.ports],
        "volumeMounts": mounts,
        "securityContext": _security(spec),
        # Nobody asks a container that still loads its model whether it is alive.
        "startupProbe": {
            **_probe(spec),
            "periodSeconds": PROBE_PERIOD_S,
            "failureThreshold": max(1, -(-spec.probe.deadline_s // PROBE_PERIOD_S)),
        },
        "readinessProbe": {**_probe(spec), "periodSeconds": PROBE_PERIOD_S},
    }
    if devices:
        count = str(len(devices))
        container["resources"] = {"requests": {NPU_RESOURCE: count}, "limits": {NPU_RESOURCE: count}}
    return container


def _security(spec: ContainerSpec) -> dict[str, Any]:
    if spec.privileged:
        return {"privileged": True}
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if spec.capabilities:
        capabilities["add"] = list(spec.capabilities)
    security: dict[str, Any] = {"privileged": False, "allowPrivilegeEscalation": False, "capabilities": capabilities}
    if spec.user:
        user, _, group = spec.user.partition(":")
        security |= {"runAsUser": int(user), "runAsGroup": int(group), "runAsNonRoot": True}
    return security


def _probe(spec: ContainerSpec) -> dict[str, Any]:
    probe: HttpProbe | FileProbe = spec.probe
    if isinstance(probe, FileProbe):
        return {"exec": {"command": ["test", "-e", probe.path]}}
    scheme, _, rest = probe.url.partition("://")
    authority, _, path = rest.partition("/")
    host, _, port = authority.partition(":")
    return {"httpGet": {"host": host, "port": int(port), "path": f"/{path}", "scheme": scheme.upper()}}


def _volumes(spec: ContainerSpec) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return pairs of a mount in the container and its volume of the pod."""
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def add(target: str, source: dict[str, Any], read_only: bool = False) -> None:
        name = f"v{len(pairs)}"
        pairs.append(
            ({"name": name, "mountPath": target, **({"readOnly": True} if read_only else {})}, {"name": name, **source})
        )

    plugins = ("/usr/local/Ascend/driver", "/usr/local/dcmi") if spec.devices else ()
    for mount in spec.mounts:
        if mount.source != mount.target or not mount.source.startswith(plugins):
            add(mount.target, {"hostPath": {"path": mount.source}}, mount.read_only)
    for volume in spec.volumes:
        add(volume.target, {"hostPath": {"path": f"/run/{volume.name}", "type": "DirectoryOrCreate"}})
    for target, options in spec.tmpfs:
        size = dict(part.split("=", 1) for part in options.split(",") if "=" in part).get("size", "64m")
        add(target, {"emptyDir": {"medium": "Memory", "sizeLimit": f"{size.upper()}i"}})
    for folder in sorted({path.rpartition("/")[0] for path, _ in spec.live}):
        add(folder, {"configMap": {"name": spec.name}}, read_only=True)
    add("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": f"{spec.shm_mb}Mi"}})  # noqa: S108
    return pairs


def _service(namespace: str, spec: ContainerSpec) -> dict[str, Any]:
    endpoint, metrics = spec.ports[:2]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": spec.name, "namespace": namespace, "labels": _names(spec)},
        "spec": {
            "selector": _names(spec),
            "ports": [
                {"name": "http", "port": endpoint, "targetPort": endpoint, "protocol": "TCP"},
                {"name": "metrics", "port": metrics, "targetPort": metrics, "protocol": "TCP"},
            ],
        },
    }


def _literal(value: str) -> str:
    # $(NAME) is Kubernetes' own variable; two dollar signs are one.
    return value.replace("$(", "$$(")
