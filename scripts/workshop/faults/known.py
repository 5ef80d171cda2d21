"""What a running deployment can be asked, and the right answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from yrpd.deploying.planning.deployment import Deployment
from yrpd.deploying.verifying.answers import Answer
from yrpd.deploying.verifying.checks import Yardstick
from yrpd.deploying.verifying.client import Server
from yrpd.deploying.verifying.questions import Question
from yrpd.deploying.verifying.run import Verification
from yrpd.docker.sdk import DockerClient
from yrpd.reporting import Reporter


@dataclass(frozen=True)
class Known:
    """What a deployment can be asked, and the right answers.

    Attributes:
        endpoint: Where requests go.
        model: The model's name in requests.
        questions: By name.
        references: Plain vLLM's answers, by the question's name.
        yardstick: What answers are measured by.
    """

    endpoint: Server
    model: str
    questions: Mapping[str, Question]
    references: Mapping[str, Answer]
    yardstick: Yardstick


def known_answers(deployment: Deployment, clients: Mapping[str, DockerClient], reporter: Reporter) -> Known:
    """Return questions for a running deployment and plain vLLM's answers, those of an earlier verification if kept.

    Raises:
        VerificationError: Plain vLLM does not start or does not answer.
    """
    asked = Verification(deployment, clients, reporter)
    yardstick, _, questions = asked.subject()
    return Known(asked.endpoint, asked.model, questions, asked.references(questions)[0], yardstick)
