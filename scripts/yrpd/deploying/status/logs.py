"""``deploy.logs``: the containers' logs, of all roles or some, followed, or saved to one archive."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from requests import RequestException

from yrpd.deploying.hosts import containers, records
from yrpd.deploying.hosts.engines import connect_answering
from yrpd.deploying.inventory import load_inventory
from yrpd.deploying.reconcile import Observed
from yrpd.docker.sdk import APIError, Container, DockerClient, NotFound
from yrpd.errors import ConfigurationError
from yrpd.project import Project
from yrpd.release import Flavour
from yrpd.reporting import Reporter

Found = Sequence[tuple[Observed, Container]]


def logs(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    flavour: Flavour = "npu",
    pin: str = "",
    tail: int = 100,
    role: str = "",
    follow: bool = False,
    save: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Print the last log lines of every container of the deployment.

    Args:
        project: The checkout.
        reporter: Prints.
        hosts_file: The inventory.
        flavour: ``npu`` or ``cpu``; logs need no image, so it changes nothing.
        pin: As little.
        tail: Lines of each container.
        role: Only containers of these roles, separated by commas.
        follow: Print new lines as they come, until interrupted or all containers have ended.
        save: Write everything, whole logs and the hosts' records, to this ``.tar.gz`` instead.
        dry_run: Say whose logs would be printed, followed or saved.

    Raises:
        ConfigurationError: Both ``follow`` and ``save`` are asked for.
    """
    if follow and save:
        raise ConfigurationError("Logs are followed or saved, not both.", next_command="invoke deploy.logs --follow")
    inventory = load_inventory(hosts_file)
    with connect_answering(inventory) as (clients, silent):
        for host, why in silent.items():
            reporter.say(f"==> {host} is left out: {why}")
        found = selected(clients, inventory.name, role)
        if not found:
            reporter.say(f"no such container of {inventory.name} is on its hosts; invoke deploy starts them")
        if dry_run:
            verb = f"save to {save}" if save else "follow" if follow else "print"
            for each, _ in found:
                reporter.say(f"would {verb} the log of {each.name} on {each.host}")
            return {
                "deployment": inventory.name,
                "state": "planned",
                "containers": [_named(each) for each, _ in found],
                **({"save": save} if save else {}),
            }
        if save:
            path = archive(Path(save), clients, inventory.name, found)
            reporter.say(f"saved the logs of {len(found)} containers and the hosts' records to {path}")
            return {"deployment": inventory.name, "saved": str(path), "containers": [_named(each) for each, _ in found]}
        if follow:
            _follow(found, tail, reporter)
            return {"deployment": inventory.name, "containers": [_named(each) for each, _ in found]}
        entries = []
        for each, container in found:
            lines = containers.log_text(container, tail).splitlines()
            reporter.say(f"==> {each.name} on {each.host} ({each.status})")
            for line in lines:
                reporter.say(f"{each.host}/{each.name} | {line}")
            entries.append({**_named(each), "log": "\n".join(lines)})
    return {"deployment": inventory.name, "containers": entries}


def selected(clients: Mapping[str, DockerClient], deployment: str, roles: str) -> list[tuple[Observed, Container]]:
    """Return the containers of the roles, of all when there is none named."""
    wanted = {part.strip() for part in roles.split(",") if part.strip()}
    return [
        (each, container)
        for host, client in clients.items()
        for each, container in containers.listed(client, host, deployment)
        if not wanted or each.role in wanted
    ]


def archive(
    path: Path,
    clients: Mapping[str, DockerClient],
    deployment: str,
    found: Found,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write whole logs, log files inside containers, what engines say of these, and hosts' records to a ``.tar.gz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for each, container in found:
            _add(tar, f"{deployment}/{each.host}/{each.name}.log", containers.log_text(container).encode())
            for name, content in containers.inner_logs(container):
                _add(tar, f"{deployment}/{each.host}/{each.name}/{name}", content)
            state = {"observed": vars(each), "state": container.attrs["State"], "labels": container.labels}
            _add(
                tar, f"{deployment}/{each.host}/{each.name}.json", json.dumps(state, indent=2, sort_keys=True).encode()
            )
        for host, client in clients.items():
            record = json.dumps(records.recall(client, deployment)["entries"], indent=2, sort_keys=True)
            _add(tar, f"{deployment}/{host}/record.json", record.encode())
        for name, text in more.items():
            _add(tar, f"{deployment}/{name}", text.encode())
    return path


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), int(time.time())
    tar.addfile(member, io.BytesIO(content))


def _follow(found: Found, tail: int, reporter: Reporter) -> None:
    def one(item: tuple[Observed, Container]) -> None:
        each, container = item
        for line in lines_of(container, tail):
            reporter.say(f"{each.host}/{each.name} | {line}")

    with ThreadPoolExecutor(max_workers=max(1, len(found))) as pool:
        list(pool.map(one, found))


def lines_of(container: Container, tail: int | Literal["all"]) -> Iterator[str]:
    """Yield a container's lines as they come, until it ends.

    An engine may close a followed log before it sent what a container wrote last, which is mostly the error; so
    the end is read once more, by the engine's timestamps. A message of the stream is a line or 16 KiB of a longer one.
    """
    rest = seen = b""
    try:
        for follow in (True, False):
            # A timestamp of the engine's has nine digits after its second.
            second = int(datetime.fromisoformat(seen.decode()).timestamp()) if seen else 0
            options: dict[str, Any] = {"since": second} if seen else {"tail": tail}
            for message in container.logs(stream=True, follow=follow, timestamps=True, **options):
                stamp, _, text = message.partition(b" ")
                if not follow and stamp <= seen:
                    continue
                seen = stamp
                *lines, rest = (rest + text).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
    except (NotFound, APIError, RequestException):
        return
    if rest:
        yield rest.decode("utf-8", "replace")


def _named(each: Observed) -> dict[str, str]:
    return {"host": each.host, "name": each.name, "role": each.role}
