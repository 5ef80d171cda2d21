"""pip's own configuration, read without anything that has to be installed; as a program, the same for uv.

``uv`` installs a lock with a quarter of pip's processor time, and reads none of pip's configuration. So
``scripts/setup.sh`` runs this file with a bare Python: ``python pip_config.py`` prints uv's options as a shell's words,
``python pip_config.py environment`` the variables. What a lock names is checked by hash, wherever it comes from.
"""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import url2pathname

# Later scopes win, as in pip.
_SCOPES = ("global", "download", "install", ":env:")


def pip_options() -> dict[str, str]:
    """Return what ``pip config list`` says, or what variables say where pip itself is not installed."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return parse_config(done.stdout) if done.returncode == 0 else from_environment(os.environ)


def parse_config(text: str) -> dict[str, str]:
    r"""Return option to value out of ``pip config list``; the scope that wins is pip's.

    >>> parse_config("global.index-url='http://a'\n:env:.index-url='http://b'\n")
    {'index-url': 'http://b'}
    """
    scoped: dict[tuple[str, str], str] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        scope, _, option = key.rpartition(".")
        if scope in _SCOPES:
            scoped[scope, option] = str(ast.literal_eval(value))
    return {option: scoped[s, option] for s in _SCOPES for (scope, option) in sorted(scoped) if scope == s}


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the options that ``PIP_*`` variables set."""
    return {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in environment.items()
        if name.startswith("PIP_") and value
    }


def uses_no_index(options: Mapping[str, str]) -> bool:
    """Whether pip is told to ask no index."""
    return options.get("no-index", "").lower() in ("1", "true", "yes", "on")


def uv_options(options: Mapping[str, str]) -> list[str]:
    """Return the options of ``uv pip install`` that mean what pip's do.

    Args:
        options: pip's, by name.
    """
    # The hash decides which file is meant, so every index may be asked for every name.
    words = ["--index-strategy", "unsafe-best-match"]
    if uses_no_index(options):
        words.append("--no-index")
    elif options.get("index-url"):
        words += ["--default-index", options["index-url"]]
    for index in options.get("extra-index-url", "").split():
        if not uses_no_index(options) and _is_there(index):
            words += ["--index", index]
    for place in options.get("find-links", "").split():
        if _is_there(place):
            words += ["--find-links", place]
    for host in options.get("trusted-host", "").split():
        words += ["--allow-insecure-host", host]
    return words


def uv_environment(options: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that mean to uv what pip's options mean.

    Args:
        options: pip's, by name.
    """
    timeout = options.get("timeout") or options.get("default-timeout") or ""
    found = {
        "SSL_CERT_FILE": options.get("cert", ""),
        "SSL_CLIENT_CERT": options.get("client-cert", ""),
        "HTTPS_PROXY": options.get("proxy", ""),
        "HTTP_PROXY": options.get("proxy", ""),
        "UV_HTTP_TIMEOUT": str(int(float(timeout))) if timeout else "",
    }
    return {name: value for name, value in found.items() if value}


def _is_there(place: str) -> bool:
    """Whether a local folder exists, which pip does not insist on and uv does; anything else is taken as it is."""
    parts = urlsplit(place)
    if parts.scheme not in ("", "file"):
        return True
    return os.path.isdir(url2pathname(parts.path) if parts.scheme else place)


if __name__ == "__main__":
    found = pip_options()
    if sys.argv[1:] == ["environment"]:
        print(*(f"{name}={value}" for name, value in uv_environment(found).items()), sep="\n")
    else:
        print(shlex.join(uv_options(found)))
