"""Building through ``docker buildx``, for those who have it; everything but the build goes through the SDK.

Sources of the formats: the reference of ``docker buildx build`` (options, ``--metadata-file``) and BuildKit's
``SolveStatus``, which ``--progress=rawjson`` prints as JSON documents.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from yrpd.building.context import Context
from yrpd.building.layers import Layer
from yrpd.building.sdk_engine import SdkEngine
from yrpd.docker.sdk import DockerClient
from yrpd.errors import EnvironmentFailure, ImageError
from yrpd.reporting import Reporter

# Times in the image, in seconds since 1970: none of them may be the moment of the build.
EPOCH = "0"
INSTALL = "apt-get install docker-buildx (from Debian 13 on), or invoke image --engine sdk"


def build_command(
    program: str, address: str, layer: Layer, dockerfile: str, arguments: Mapping[str, str], metadata: str
) -> list[str]:
    """Return buildx's command line; the context comes on standard input.

    Args:
        program: The docker command.
        address: The engine's address.
        layer: Name, tag, labels.
        dockerfile: The Dockerfile's name in the context.
        arguments: Build arguments.
        metadata: Where buildx writes what it made.
    """
    command = [program, "--host", address, "buildx", "build", "--progress=rawjson", "--network=none", "--load"]
    # An attestation has times of its own, and the engine's image store of most versions cannot hold it.
    command += ["--provenance=false", "--sbom=false", f"--metadata-file={metadata}"]
    command += [f"--tag={layer.image}", f"--file={dockerfile}"]
    for key, value in sorted({**arguments, "SOURCE_DATE_EPOCH": EPOCH}.items()):
        command += ["--build-arg", f"{key}={value}"]
    for key, value in sorted(layer.all_labels.items()):
        command += ["--label", f"{key}={value}"]
    return [*command, "-"]


class Progress:
    """Turns rawjson lines into the events that the classic builder would send.

    Attributes:
        failure: What went wrong, as far as the lines said.
    """

    def __init__(self) -> None:
        self.failure = ""
        self._names: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()

    def events(self, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Yield ``stream`` and ``error`` events.

        Args:
            lines: What buildx prints; a line that is no status is text of its own.
        """
        for text in documents(lines):
            try:
                status = json.loads(text)
            except ValueError:
                status = None
            if not isinstance(status, dict):
                self.failure = self.failure or text.strip().removeprefix("ERROR: ")
                yield {"stream": text.rstrip("\n") + "\n"}
                continue
            for vertex in status.get("vertexes") or ():
                yield from self._vertex(vertex)
            for log in status.get("logs") or ():
                yield {"stream": _log_text(log)}
            for warning in status.get("warnings") or ():
                yield {"stream": f"warning: {_decoded(str(warning.get('short', '')))}\n"}

    def _vertex(self, vertex: dict[str, Any]) -> Iterator[dict[str, Any]]:
        digest = str(vertex.get("digest", ""))
        name = self._names[digest] = str(vertex.get("name") or self._names.get(digest, ""))
        state = "cached" if vertex.get("cached") else "done" if vertex.get("completed") else "started"
        if vertex.get("error"):
            # An error event only when buildx ends: other steps may still write what explains it.
            self.failure = f"{name}: {vertex['error']}"
            yield {"stream": f"failed: {name}: {vertex['error']}\n"}
        elif (digest, state) not in self._told and (state != "started" or vertex.get("started")):
            self._told.add((digest, state))
            yield {"stream": f"{state}: {name}\n"}


def documents(lines: Iterable[str]) -> Iterator[str]:
    """Yield JSON documents whole, and all other lines as they are; buildx 0.13 spreads a document over many lines.

    Args:
        lines: What buildx prints.
    """
    pending: list[str] = []
    for line in lines:
        if pending or line.rstrip() == "{":
            pending.append(line)
            if line.rstrip("\r\n") == "}":
                yield "".join(pending)
                pending = []
        else:
            yield line
    yield from pending


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return text


def _log_text(log: Mapping[str, Any]) -> str:
    return _decoded(str(log.get("data", "")))


def image_of(metadata: str) -> str:
    """Return the image id out of the metadata file's text, empty when it names none."""
    try:
        document = json.loads(metadata)
    except ValueError:
        return ""
    found = document.get("containerimage.config.digest", "") if isinstance(document, dict) else ""
    return str(found)


def find_buildx(reporter: Reporter) -> str:
    """Return the docker command that has buildx.

    Raises:
        EnvironmentFailure: There is no docker command, or it has no buildx.
    """
    program = shutil.which("docker")
    if program is None:
        raise EnvironmentFailure("buildx was asked for, and there is no docker command.", next_command=INSTALL)
    asked = subprocess.run([program, "buildx", "version"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        why = (asked.stderr.strip().splitlines() or ["no reason given"])[0]
        raise EnvironmentFailure(f"buildx was asked for, and {program} does not have it: {why}", next_command=INSTALL)
    reporter.detail(asked.stdout.strip())
    return program


class BuildxEngine(SdkEngine):
    """Builds with ``docker buildx``.

    Args:
        client: The engine.
        reporter: Says what is done.
        log: Gets every line of the engine's.
        program: The docker command.
        address: The engine's address.
    """

    def __init__(self, client: DockerClient, reporter: Reporter, log: Path, program: str, address: str) -> None:
        super().__init__(client, reporter, log)
        self.program = program
        self.address = address

    def build(self, layer: Layer, context: Context, dockerfile: str, arguments: dict[str, str]) -> str:
        """Build a layer without a network, and return the image's id.

        Raises:
            ImageError: A step failed, buildx ended with an error, or the engine has another image than buildx made.
        """
        with tempfile.TemporaryDirectory() as scratch:
            metadata = Path(scratch) / "metadata.json"
            command = build_command(self.program, self.address, layer, dockerfile, arguments, str(metadata))
            self._read(lambda: run(command, context), f"building {layer.image}")
            made = image_of(metadata.read_text(encoding="utf-8")) if metadata.exists() else ""
        found = self._id_of(layer.image)
        if made and made != found:
            raise ImageError(
                f"The engine has {found} as {layer.image}, buildx made {made}.", next_command="docker images"
            )
        return found


def run(command: list[str], context: Context) -> Iterator[dict[str, Any]]:
    """Run buildx with the context on its standard input and yield its events; the last one says why it failed."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    progress = Progress()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        feeder = threading.Thread(target=_feed, args=(process, context.chunks()), daemon=True)
        feeder.start()
        assert process.stdout is not None, "asked for above"  # noqa: S101
        try:
            yield from progress.events(raw.decode("utf-8", "replace") for raw in process.stdout)
        except BaseException:
            process.terminate()
            raise
        feeder.join()
        if process.wait() != 0:
            yield {"error": progress.failure or f"buildx ended with code {process.returncode}"}


def _feed(process: subprocess.Popen[bytes], chunks: Iterator[bytes]) -> None:
    assert process.stdin is not None, "asked for above"  # noqa: S101
    # buildx may end before it has read everything; why is in what it prints.
    with contextlib.suppress(BrokenPipeError), process.stdin as stream:
        for chunk in chunks:
            stream.write(chunk)
