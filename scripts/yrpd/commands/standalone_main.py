"""``__main__`` of ``deploy.pyz``: unpacks what this Python needs, once, and runs the deployment commands from there.

Only the standard library is there yet, and Pythons that are too old for the rest read this file too.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import NoReturn

INDEX = "contents.json"
SOURCES = "yrpd/"
ENVIRONMENT_FAILURE = 8


def fail(message: str, next_command: str) -> NoReturn:
    """End with the sentence, the next command and the exit code of a machine that is not as needed."""
    print(f"error: {message}\nnext:  {next_command}", file=sys.stderr)
    raise SystemExit(ENVIRONMENT_FAILURE)


def target_of_this_python() -> str:
    """Return the name of what runs this, as the index has it."""
    library = "" if platform.libc_ver()[0] == "glibc" else "-without-glibc"
    return f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}{library}"


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack sources and this Python's wheels, unless an earlier run did, and return where they are.

    Args:
        archive: ``deploy.pyz``.
        folder: Where unpacked ones are kept.
    """
    with zipfile.ZipFile(archive) as packed:
        index = json.loads(packed.read(INDEX).decode("utf-8"))
        target = target_of_this_python()
        if target not in index["targets"]:
            known = ", ".join(sorted(index["targets"]))
            fail(f"{archive.name} runs on {known}; this Python is {target}.", f"python3.11 {archive}")
        made = folder / f"{index['digest'][:16]}-{target}"
        if made.is_dir():
            return made
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".unpacking."))
        try:
            for wheel in index["targets"][target]:
                with zipfile.ZipFile(BytesIO(packed.read(wheel))) as content:
                    content.extractall(scratch)
            for name in packed.namelist():
                if name.startswith(SOURCES):
                    packed.extract(name, scratch)
            try:
                os.rename(scratch, made)
            except OSError:
                # Somebody else unpacked the same at the same time.
                if not made.is_dir():
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return made


def main() -> None:
    """Run one deployment command out of the release folder that this archive is in."""
    archive = Path(__file__).resolve().parent
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yrpd"
    try:
        made = unpack(archive, cache)
    except OSError as error:
        fail(f"{error.filename or cache}: {error.strerror}.", f"XDG_CACHE_HOME=FOLDER python3 {archive}")
    # In front of everything: another requests or docker of this machine is not what was locked.
    sys.path.insert(0, str(made))
    from yrpd.commands.front import main as run
    from yrpd.project import Project

    run(Project(Path.cwd(), released=archive.parent), f"python3 {os.path.relpath(archive)}")


if __name__ == "__main__":
    main()
