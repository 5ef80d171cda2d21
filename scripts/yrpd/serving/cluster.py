"""Becomes a part of an openYuanrong cluster: ``python3 -m yrpd.serving.cluster SETTINGS``, which runs ``yr start``.

``yr`` asks for the address of the default route, and fails on a host that has none.

``yr start`` puts its components into the background and ends. This process stays: it is the container's, ends them with
``yr stop`` at SIGTERM, and ends itself when one of them died, so that the engine's restart policy sees it.

The command line changed between releases: the tutorial's (up to 0.6) has a flag for each setting, the current one
``-s KEY=VALUE``. Which one an image's ``yr`` understands is read from ``yr start --help``.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

Dialect = Literal["settings", "flags"]
CHECK_S = 5
# The package index has openYuanrong without its function system; a full installation starts it, too.
FUNCTIONS = ("function_master", "function_proxy", "function_agent")


@dataclass(frozen=True)
class Settings:
    """One host's part.

    Attributes:
        address: This host's.
        master: The first host's; equal to ``address`` there.
        etcd_port: Client port, on the first host.
        etcd_peer_port: Peer port there.
        master_port: The DataSystem's master, there.
        worker_port: The DataSystem's worker, on every host.
        memory_mb: The worker's pool.
        sockets: Folder shared with the clients on this host.
        ready: File that the worker writes when it is ready.
        worker_flags: More flags of the worker.
        functions: Whether the function system is started, too.
        log_level: Of all components.
    """

    address: str
    master: str
    etcd_port: int
    etcd_peer_port: int
    master_port: int
    worker_port: int
    memory_mb: int
    sockets: str
    ready: str
    worker_flags: dict[str, str] = field(default_factory=dict)
    functions: bool = False
    log_level: str = "INFO"

    @property
    def is_master(self) -> bool:
        """Whether this is the first host."""
        return self.address == self.master

    def as_text(self) -> str:
        """Return what :meth:`from_text` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Settings:
        """Read settings.

        Raises:
            ValueError: They are no JSON.
            TypeError: A field is unknown or missing.
        """
        return cls(**json.loads(text))


def dialect(usage: str) -> Dialect:
    """Return which command line a ``yr`` understands, from the text of ``yr start --help``.

    Raises:
        ValueError: Neither.
    """
    if "--set" in usage:
        return "settings"
    if "--etcd_addr_list" in usage:
        return "flags"
    raise ValueError("`yr start --help` names neither --set nor --etcd_addr_list: this release of yr is not known")


def start_line(settings: Settings, spoken: Dialect) -> list[str]:
    """Return the command that starts this host's part."""
    line = ["yr", "start", *(["--master"] if settings.is_master else [])]
    return line + (_flags(settings) if spoken == "flags" else _settings(settings))


def _flags(settings: Settings) -> list[str]:
    """The tutorial's flags; the worker's memory, sockets and port are flags of the same release's deploy script."""
    return [
        "-l", settings.log_level,
        "--runtime_direct_connection_enable=true",
        "--enable_separated_redirect_runtime_std=true",
        f"--etcd_addr_list={settings.master}",
        f"--etcd_port={settings.etcd_port}",
        f"--etcd_peer_port={settings.etcd_peer_port}",
        f"--ip_address={settings.address}",
        f"--ds_worker_port={settings.worker_port}",
        f"--shared_memory_num={settings.memory_mb}",
    ]  # fmt: skip


def _settings(settings: Settings) -> list[str]:
    etcd = f'[{{ip="{settings.master}",peer_port={settings.etcd_peer_port},port={settings.etcd_port}}}]'
    worker = {
        "shared_memory_size_mb": str(settings.memory_mb),
        "unix_domain_socket_dir": settings.sockets,
        "ready_check_path": settings.ready,
        **settings.worker_flags,
    }
    pairs = [
        f'values.host_ip="{settings.address}"',
        f'values.log_level="{settings.log_level}"',
        f"values.etcd.address={etcd}",
        f'values.ds_master={{ip="{settings.master}",port={settings.master_port}}}',
        f'values.ds_worker={{ip="{settings.address}",port={settings.worker_port}}}',
        *(f"ds_worker.args.{name}={json.dumps(value)}" for name, value in worker.items()),
    ]
    if not settings.functions:
        mode = "master" if settings.is_master else "agent"
        pairs += [f"mode.{mode}.{name}=false" for name in FUNCTIONS if settings.is_master or name != "function_master"]
    return [word for pair in pairs for word in ("-s", pair)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Start, stay, stop.

    Raises:
        SystemExit: With ``yr``'s code when it does not start, 1 when a component died.
    """
    (text,) = sys.argv[1:] if arguments is None else arguments
    settings = Settings.from_text(text)
    signals = {signal.SIGTERM, signal.SIGINT}
    # Before anything is started: a signal that comes early is kept until it is waited for.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    usage = subprocess.run(["yr", "start", "--help"], capture_output=True, text=True, check=True).stdout
    try:
        spoken = dialect(usage)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    done = subprocess.run(start_line(settings, spoken), check=False, preexec_fn=_unblock)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    code = 0
    while signal.sigtimedwait(signals, CHECK_S) is None:
        asked = subprocess.run(["yr", "health"], capture_output=True, text=True, check=False)
        if asked.returncode != 0:
            print(asked.stdout + asked.stderr, flush=True)
            code = 1
            break
    subprocess.run(["yr", "stop"], check=False, preexec_fn=_unblock)
    raise SystemExit(code)


def _unblock() -> None:
    # What is started must hear signals again.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
