"""Becomes a DataSystem worker: ``python3 -m yrpd.serving.worker --home DIR --worker-address H:P --etcd-address H:P``.

``dscli start`` puts the worker in the background of a process that ends, so a container would have nothing to watch.
Here the process *becomes* the worker (``exec``), with the flags that ``dscli start -d DIR -w`` gives it: SIGTERM
reaches it directly, which is what ``dscli stop`` sends, and its exit code is the container's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

READY_FLAG = "ready_check_path"
SOCKETS_FLAG = "unix_domain_socket_dir"


def worker_flags(defaults: Mapping[str, Any], home: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return the worker's flags: the package's defaults, moved under ``home``, then what was given.

    Args:
        defaults: The package's ``worker_config.json``: flag to ``{"value": ..., "description": ...}``.
        home: Replaces the leading ``.`` of default paths, as ``dscli start -d`` does.
        given: Flags that override.
    """
    flags: dict[str, str] = {}
    for name, item in defaults.items():
        value = str(item.get("value", "")).strip()
        flags[name] = os.path.join(home, value[2:]) if value.startswith("./") else value
    flags.update(given)
    return {name: value for name, value in flags.items() if value}


def worker_argv(binary: str, flags: Mapping[str, str]) -> list[str]:
    """Return the worker's command line."""
    return [binary, *(f"--{name}={value}" for name, value in flags.items())]


def worker_environment(library: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the package's own libraries first on the loader's path."""
    others = environment.get("LD_LIBRARY_PATH", "")
    return {**environment, "LD_LIBRARY_PATH": f"{library}:{others}" if others else library}


def clear_leftovers(flags: Mapping[str, str]) -> None:
    """Remove what a killed worker left: its readiness file, which would lie, and its sockets, which nobody answers."""
    ready = flags.get(READY_FLAG)
    if ready:
        Path(ready).unlink(missing_ok=True)
    sockets = Path(flags[SOCKETS_FLAG])
    sockets.mkdir(parents=True, exist_ok=True)
    for entry in sockets.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def package_folder() -> Path:
    """Return where the DataSystem package is installed, without importing its libraries.

    Raises:
        ModuleNotFoundError: It is not installed in this environment.
    """
    spec = importlib.util.find_spec("yr.datasystem")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("openyuanrong-datasystem is not installed in this environment")
    return Path(next(iter(spec.submodule_search_locations)))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="yrpd.serving.worker", description=__doc__)
    parser.add_argument("--home", required=True, help="folder of logs, metadata and probe files")
    parser.add_argument("--sockets", default="", help="folder shared with the clients on this host")
    parser.add_argument("--worker-address", required=True, help="host:port to listen on")
    parser.add_argument("--etcd-address", required=True, help="host:port of etcd")
    parser.add_argument("--memory-mb", required=True, type=int, help="size of the memory pool")
    parser.add_argument("--flag", action="append", default=[], metavar="NAME=VALUE", help="one more worker flag")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the worker; returns only by replacing the process."""
    options = parse(arguments)
    given = dict(item.split("=", 1) for item in options.flag)
    given |= {
        "worker_address": options.worker_address,
        "etcd_address": options.etcd_address,
        "shared_memory_size_mb": str(options.memory_mb),
    }
    if options.sockets:
        given[SOCKETS_FLAG] = options.sockets
    package = package_folder()
    defaults = json.loads((package / "worker_config.json").read_text(encoding="utf-8"))
    flags = worker_flags(defaults, os.path.abspath(options.home), given)
    clear_leftovers(flags)
    binary = str(package / "datasystem_worker")
    os.execve(  # noqa: S606  (replacing this process is the point)
        binary, worker_argv(binary, flags), worker_environment(str(package / "lib"), os.environ)
    )


if __name__ == "__main__":
    main()
