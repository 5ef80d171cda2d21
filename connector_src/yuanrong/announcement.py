# SPDX-License-Identifier: Apache-2.0
"""Tells once when engines that were meant to share blocks cannot: their namespaces differ, so all lookups are misses.

Every engine leaves the fields of its namespace in the DataSystem, under a name made of the tag and its role, and looks
at what the engines of each role have left. This is best effort, and apart from all else: it runs in a process of its
own (the DataSystem client holds the interpreter lock while it waits), started by a thread of its own, and whatever goes
wrong in it is silence.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from .config import ROLES, ConnectorConfig
from .keys import FORMAT_VERSION, Namespace
from .transport.affinity import unbind

logger = logging.getLogger("vllm.yuanrong")

#: Seconds before the second look; each later pause is four times as long, up to the second number.
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
_PROCESS_SECONDS = 60

#: Reads all names, then writes the engine's own, evictable; answers with what it read, as the last line.
_EXCHANGE = """
import json, sys
task = json.load(sys.stdin)
from yr.datasystem.kv_client import KVClient
from yr.datasystem.object_client import WriteMode
client = KVClient(**task["client"])
client.init()
found = {}
for name in task["names"]:
    try:
        found[name] = bytes(client.get([name])[0]).decode()
    except (RuntimeError, TypeError, UnicodeDecodeError):
        pass
client.set(task["own"], task["text"].encode(), WriteMode.NONE_L2_CACHE_EVICT, task["ttl"])
print("\\n" + json.dumps(found))
"""

#: Writes a text under the first name and returns the texts under all names that have one.
Exchange = Callable[[str, str, list[str]], Mapping[str, str]]


def announcement_key(tag: str, role: str) -> str:
    """Return the DataSystem key under which engines of a tag and role announce themselves."""
    return f"yr-namespace_{hashlib.sha256(tag.encode()).hexdigest()[:32]}_{role}"


def describe(space: Namespace) -> str:
    """Return the text that an engine announces."""
    return json.dumps({"format": FORMAT_VERSION, **asdict(space)}, sort_keys=True)


def differences(mine: str, theirs: str) -> list[str]:
    """Return the names of the fields in which two announcements differ; none if the other one cannot be read."""
    own = json.loads(mine)
    try:
        other: Any = json.loads(theirs)
    except ValueError:
        return []
    if not isinstance(other, dict):
        return []
    return sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))


class Announcer:
    """Announces an engine's namespace, and warns once if another engine of the same tag has another one.

    Args:
        space: This engine's namespace.
        role: This engine's role.
        exchange: Reaches the DataSystem; may raise.
        pause: Seconds before the second look.
    """

    def __init__(self, space: Namespace, role: str, exchange: Exchange, pause: float = FIRST_PAUSE) -> None:
        self._text = describe(space)
        self._own = announcement_key(space.tag, role)
        self._names = {announcement_key(space.tag, r): r for r in ROLES}
        self._exchange = exchange
        self._pause = pause
        self._warned = False
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._run, name="yuanrong-announcer", daemon=True).start()

    def rename(self, space: Namespace) -> None:
        """Announce another namespace from the next look on; the engine itself has said why."""
        self._text = describe(space)
        self._warned = True

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def look(self) -> None:
        """Announce, and compare with what the others announced."""
        try:
            found = self._exchange(self._own, self._text, list(self._names))
        except Exception as error:
            logger.debug("namespace was not announced: %s", type(error).__name__)
            return
        for name, text in found.items():
            fields = differences(self._text, text)
            if fields and not self._warned:
                self._warned = True
                logger.warning(
                    "A %s engine with the same tag has another KV namespace, so no blocks are shared with it. "
                    "They differ in %s. Start both with the same settings and the same files, or give one another tag.",
                    self._names.get(name, "other"), _listed(fields, self._text, text),
                )  # fmt: skip

    def _run(self) -> None:
        unbind()  # the exchanging processes inherit this thread's cores
        pause = self._pause
        while True:
            self.look()
            if self._closed.wait(pause):
                return
            pause = min(4 * pause, LONGEST_PAUSE)


def exchange_by_process(config: ConnectorConfig, reachable: Callable[[ConnectorConfig], bool]) -> Exchange:
    """Return an exchange that cannot hold this process up.

    Args:
        config: Settings; credentials go to the other process by its standard input.
        reachable: A cheap first look, so that a closed port costs no process.
    """

    def exchange(own: str, text: str, names: list[str]) -> Mapping[str, str]:
        if not reachable(config):
            raise ConnectionError("the DataSystem worker does not answer")
        client = {
            "host": config.worker_address.host,
            "port": config.worker_address.port,
            "connect_timeout_ms": config.connect_timeout_ms,
            "req_timeout_ms": config.lookup_timeout_ms,
            **config.credentials.as_kwargs(),
        }
        task = {"client": client, "own": own, "text": text, "names": names, "ttl": config.ttl_seconds}
        done = subprocess.run(
            [sys.executable, "-c", _EXCHANGE],
            input=json.dumps(task).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PROCESS_SECONDS,
            check=True,
        )
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found

    return exchange


def _listed(fields: list[str], mine: str, theirs: str) -> str:
    own, other = json.loads(mine), json.loads(theirs)
    return ", ".join(f"{name} ({own.get(name)!r} here, {other.get(name)!r} there)" for name in fields)
