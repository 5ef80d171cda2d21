"""The edge to one engine's containers: make, list, end, read."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, cast

from requests import RequestException

from yrpd.deploying.hosts.model_folder import read_file
from yrpd.deploying.reconcile import Observed
from yrpd.deploying.spec import (
    DEPLOYMENT,
    IMAGE_ID,
    LIVE,
    PORTS,
    READS,
    ROLE,
    RUNS,
    SETTLED,
    SPEC,
    ContainerSpec,
    restart_text,
)
from yrpd.docker.images import find
from yrpd.docker.sdk import APIError, Container, DockerClient, LogConfig, Mount, NotFound
from yrpd.errors import DeployError
from yrpd.serving.command_lines import WORKER_LOGS

LOG = LogConfig(type=LogConfig.types.JSON, config={"max-size": "50m", "max-file": "3"})
# Beside what a container prints: the DataSystem worker's logs, its client's, and CANN's (plog).
INNER_LOGS = {"worker": (WORKER_LOGS,)}
ENGINE_LOGS = ("/root/.datasystem/logs", "/root/ascend/log")
GONE_STATUS = 404
CONFLICT_STATUS = 409  # docker: "removal of container is already in progress"


def listed(client: DockerClient, host: str, deployment: str) -> list[tuple[Observed, Container]]:
    """Return the containers of a deployment on one host, running or not."""
    found = client.containers.list(all=True, filters={"label": f"{DEPLOYMENT}={deployment}"}, ignore_removed=True)
    return [(observe(container, host), container) for container in found]


def observe(container: Container, host: str) -> Observed:
    """Return what the engine says of a container."""
    attributes: dict[str, Any] = container.attrs
    labels, state = attributes["Config"].get("Labels") or {}, attributes["State"]
    policy = attributes["HostConfig"].get("RestartPolicy") or {}
    paths = [path for path in labels.get(LIVE, "").split(",") if path]
    return Observed(
        host=host,
        name=str(container.name),
        role=labels.get(ROLE, ""),
        status=str(state["Status"]),
        exit_code=int(state.get("ExitCode") or 0),
        spec=labels.get(SPEC, ""),
        # Engines name one image in different ways, and the label is what the plan calls it.
        image_id=labels.get(IMAGE_ID) or str(attributes["Image"]),
        started_at=str(state.get("StartedAt") or ""),
        restart=restart_text(str(policy.get("Name") or "no"), int(policy.get("MaximumRetryCount") or 0)),
        settled=json.loads(labels[SETTLED]) if SETTLED in labels else None,
        live=tuple((path, (read_file(container, path) or b"").decode()) for path in paths),
        runs=labels.get(RUNS, ""),
        ports=tuple(int(port) for port in labels.get(PORTS, "").split(",") if port),
        reads=labels.get(READS, ""),
    )


def start(client: DockerClient, spec: ContainerSpec) -> Container:
    """Create and start a container.

    Raises:
        DeployError: The engine refuses; nothing of it is left.
    """
    image = find(client, spec.image, spec.image_id, spec.content)
    if image is None:
        raise DeployError(f"{spec.host} has no image {spec.image} ({spec.image_id}).")
    try:
        container = client.containers.create(**{**creation(spec), "image": str(image.id)})
    except APIError as error:
        raise DeployError(f"{spec.host} refuses to create {spec.name}: {error.explanation}.") from error
    try:
        if spec.live:
            container.put_archive("/", packed(spec.live))
        container.start()
    except APIError as error:
        container.remove(force=True, v=True)
        raise DeployError(f"{spec.host} refuses to start {spec.name}: {error.explanation}.") from error
    return container


def packed(files: Sequence[tuple[str, str]]) -> bytes:
    """Return an archive of files that everybody may read, by path from the root and content."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, text in files:
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(content := text.encode()), 0o644
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def creation(spec: ContainerSpec) -> dict[str, Any]:
    """Return what the docker library is asked for."""
    binds = [Mount(each.target, each.source, type="bind", read_only=each.read_only) for each in spec.mounts]
    volumes = [
        Mount(each.target, each.name, type="volume", labels={DEPLOYMENT: spec.deployment}) for each in spec.volumes
    ]
    return {
        "image": spec.image_id,
        "command": list(spec.argv),
        "name": spec.name,
        "detach": True,
        "network_mode": "host",
        "init": True,
        "environment": dict(spec.env),
        "mounts": [*binds, *volumes],
        "tmpfs": dict(spec.tmpfs),
        "devices": [f"{device}:{device}:rw" for device in spec.devices],
        "user": spec.user,
        "group_add": list(spec.groups),
        "privileged": spec.privileged,
        "cap_drop": [] if spec.privileged else ["ALL"],
        "cap_add": list(spec.capabilities),
        "security_opt": [] if spec.privileged else ["no-new-privileges"],
        # Docker itself waits twice as long after every failure, from 0.1 s to a minute.
        "restart_policy": {"Name": spec.restart, "MaximumRetryCount": spec.restart_attempts},
        "shm_size": f"{spec.shm_mb}m",
        "labels": spec.labels,
        "log_config": LOG,
        "stop_signal": "SIGTERM",
        "healthcheck": {"test": ["NONE"]},
        # Proxies of whoever deploys are no business of the service.
        "use_config_proxy": False,
    }


def update(container: Container, policy: str, attempts: int, live: Sequence[tuple[str, str]]) -> None:
    """Change a container while it runs: Docker's restart policy, and the files that it reads again.

    Raises:
        DeployError: A file could not be replaced; it is as before.
    """
    container.update(restart_policy=cast(Any, {"Name": policy, "MaximumRetryCount": attempts}))
    for path, text in live:
        # Whoever watches the folder sees a whole file take the place of a whole file.
        container.put_archive("/", packed([(f"{path}.new", text)]))
        code, said = container.exec_run(["mv", "-f", f"{path}.new", path], user="0")
        if code != 0:
            raise DeployError(f"{path} of {container.name} could not be replaced: {said!r}.")


def end(container: Container, grace_s: int) -> None:
    """Stop and remove a container; one that is already gone is fine."""
    try:
        container.stop(timeout=grace_s)
        container.remove(force=True, v=True)
    except NotFound:
        return
    except APIError as error:
        if error.status_code not in (GONE_STATUS, CONFLICT_STATUS):
            raise


def log_text(container: Container, tail: int | Literal["all"] = "all") -> str:
    """Return the last lines that a container wrote; empty when it is gone."""
    try:
        return bytes(container.logs(stdout=True, stderr=True, tail=tail)).decode("utf-8", "replace")
    except (NotFound, APIError):
        return ""


def inner_logs(container: Container) -> Iterator[tuple[str, bytes]]:
    """Yield what programs in a container wrote to files: path from the container's root, and content.

    A folder that is not there, and a container that is gone, have none. A file that grows while the engine packs it can
    end the stream; what came before it is kept.
    """
    for folder in INNER_LOGS.get(container.labels.get(ROLE, ""), ENGINE_LOGS):
        with suppress(NotFound, APIError, tarfile.TarError, RequestException):
            stream, _ = container.get_archive(folder)
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as found:
                for member in found:
                    content = found.extractfile(member) if member.isfile() else None
                    if content is not None:
                        yield f"{folder.rpartition('/')[0]}/{member.name}".lstrip("/"), content.read()
