"""pip's own configuration, read without anything that has to be installed; as a program, the same for uv.

``uv`` installs a lock with a quarter of pip's processor time, and reads none of pip's configuration. So
``scripts/setup.sh`` runs this file with a bare Python, which prints the variables that say the same to uv. What a lock
names is checked by hash, wherever it comes from.
"""

from __future__ import annotations

import ast
import os
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
    options = parse_config(done.stdout) if done.returncode == 0 else from_environment(os.environ)
    # The HTTP library that pip has inside knows a variable of its own.
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    return {"cert": bundle, **options} if bundle else options


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


def index_addresses(options: Mapping[str, str], default: str) -> list[str]:
    """Return the package indexes, in pip's order.

    Args:
        options: pip's, by name.
        default: The address that pip uses when it is told none.
    """
    if uses_no_index(options):
        return []
    return [options.get("index-url") or default, *options.get("extra-index-url", "").split()]


def find_links(options: Mapping[str, str]) -> list[str]:
    """Return the folders and pages of files; a folder that is not there is left out, as pip does."""
    return [place for place in map(os.path.expanduser, options.get("find-links", "").split()) if _is_there(place)]


def uv_environment(options: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that mean to uv what pip's options mean.

    Args:
        options: pip's, by name.
    """
    timeout = options.get("timeout") or options.get("default-timeout") or ""
    first, *further = index_addresses(options, "") or [""]
    found = {
        # The hash decides which file is meant, so every index may be asked for every name.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_NO_INDEX": "1" if uses_no_index(options) else "",
        "UV_DEFAULT_INDEX": first,
        "UV_INDEX": " ".join(filter(_is_there, further)),
        "UV_FIND_LINKS": ",".join(find_links(options)),
        "UV_INSECURE_HOST": " ".join(options.get("trusted-host", "").split()),
        "UV_HTTP_TIMEOUT": str(int(float(timeout))) if timeout else "",
        "SSL_CERT_FILE": options.get("cert", ""),
        "SSL_CLIENT_CERT": options.get("client-cert", ""),
        "HTTPS_PROXY": options.get("proxy", ""),
        "HTTP_PROXY": options.get("proxy", ""),
    }
    return {name: value for name, value in found.items() if value}


def _is_there(place: str) -> bool:
    """Whether a local folder exists, which pip does not insist on and uv does; anything else is taken as it is."""
    parts = urlsplit(place)
    if parts.scheme not in ("", "file"):
        return True
    return os.path.isdir(url2pathname(parts.path) if parts.scheme else place)


if __name__ == "__main__":
    print(*(f"{name}={value}" for name, value in uv_environment(pip_options()).items()), sep="\n")
