"""The installed command ``yrpd``: the commands of the checkout, or of the release folder, that it is typed in.

It brings no commands of its own, so an installed version never works on a checkout of another one: the checkout's own
code runs, in the checkout's own environment where there is one. ``yrpd deploy`` is then ``invoke deploy``. In a release
folder it is that folder's ``deploy.pyz``.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from yrpd.errors import EnvironmentFailure

CHECKOUT = ("tasks.py", "release.toml", "pyproject.toml", "scripts/yrpd")
RELEASE = ("deploy.pyz", "manifest.json")
_INVOKE = "import sys, invoke; invoke.Program(name='yrpd', binary='yrpd', version=sys.argv.pop(1)).run()"


def command_line(folder: Path, arguments: Sequence[str], python: str = sys.executable) -> list[str]:
    """Return what is run for ``yrpd ARGUMENTS`` in a folder.

    Args:
        folder: Where it was typed: a checkout or a release folder, or anywhere below one.
        arguments: The words after ``yrpd``.
        python: Runs it where a checkout has no environment of its own, and in a release folder.

    Raises:
        EnvironmentFailure: Neither a checkout nor a release folder is here or above.
    """
    for place in (folder, *folder.parents):
        if all((place / name).exists() for name in RELEASE):
            return [python, str(place / "deploy.pyz"), *(word.removeprefix("deploy.") for word in arguments)]
        if all((place / name).exists() for name in CHECKOUT):
            own = place / ".venv" / "bin" / "python"
            version = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
            # -P: a folder of the place where it was typed is no package of ours.
            program = [str(own) if own.exists() else python, "-P", "-c", _INVOKE, version]
            return [*program, "--search-root", str(place), *arguments]
    raise EnvironmentFailure(
        f"{folder} is neither in a checkout of this project nor in a release folder.",
        next_command="cd CHECKOUT && yrpd --list   (or, with a copied release: cd RELEASE && yrpd deploy --hosts FILE)",
    )


def main() -> None:
    """Become the command; its exit code is this one's."""
    try:
        line = command_line(Path.cwd(), sys.argv[1:])
    except EnvironmentFailure as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    os.execv(line[0], line)  # noqa: S606 # a list of ours, and no process in between that signals would have to pass


if __name__ == "__main__":
    main()
