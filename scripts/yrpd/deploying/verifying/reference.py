"""Plain vLLM's answers: from a temporary container, or from an earlier run of exactly the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from yrpd.deploying.hosts import containers
from yrpd.deploying.hosts.probing import wait_until_ready
from yrpd.deploying.spec import ContainerSpec
from yrpd.deploying.verifying.answers import Answer
from yrpd.deploying.verifying.client import AskError, ask
from yrpd.deploying.verifying.questions import Question
from yrpd.deploying.verifying.questions import digest as questions_digest
from yrpd.docker.sdk import DockerClient
from yrpd.errors import DeployError, VerificationError
from yrpd.project import write_bytes
from yrpd.reporting import Reporter

GRACE_S = 20
ANSWERS = TypeAdapter(dict[str, Answer])


def cache_file(build: Path, spec: ContainerSpec, reads: str, questions: dict[str, Question]) -> Path | None:
    """Return where these answers are kept; ``None`` when the files that it reads are not known.

    The name holds the identity of all that the answers depend on: image, command line, environment, model files and
    questions.
    """
    if not reads:
        return None
    inputs = [spec.image_id, spec.argv, spec.env, reads, questions_digest(questions)]
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return build / "verify" / f"reference-{name[:32]}.json"


def load_cached(path: Path | None) -> dict[str, Answer]:
    """Return answers of an earlier run; nothing when there are none, or the file is damaged."""
    if path is None or not path.exists():
        return {}
    try:
        return ANSWERS.validate_json(path.read_bytes())
    except ValueError:
        return {}


def answers_of_plain_vllm(
    client: DockerClient,
    spec: ContainerSpec,
    base: str,
    model: str,
    questions: Mapping[str, Question],
    reporter: Reporter,
) -> dict[str, Answer]:
    """Start plain vLLM, ask it everything, and remove it again.

    Raises:
        VerificationError: It does not start, or does not answer.
    """
    try:
        with reporter.step(f"starting plain vLLM on {spec.host} to compare with"):
            stale = client.containers.list(all=True, filters={"name": f"^/{spec.name}$"})
            for container in stale:
                containers.end(container, GRACE_S)
            container = containers.start(client, spec)
            try:
                wait_until_ready(spec.title, spec.probe, container)
            except BaseException:
                containers.end(container, GRACE_S)
                raise
    except DeployError as error:
        message = f"Plain vLLM, which the answers are compared with, did not start: {error.message}"
        raise VerificationError(
            message, detail=error.detail, next_command=f"docker -H {spec.engine} ps --all"
        ) from error
    try:
        with reporter.step(f"asking plain vLLM {len(questions)} questions"):
            return {name: ask(base, model, question) for name, question in questions.items()}
    except AskError as error:
        raise VerificationError(f"Plain vLLM did not answer: {error}.", next_command="invoke deploy.verify") from error
    finally:
        containers.end(container, GRACE_S)


def keep(path: Path | None, answers: Mapping[str, Answer]) -> None:
    """Keep answers for later runs of exactly the same."""
    if path is not None:
        write_bytes(path, ANSWERS.dump_json(dict(answers)))
