"""``deploy.verify``: asks the endpoint, asks plain vLLM, compares, and counts the blocks that travelled."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from yrpd.deploying.hosts import model_folder
from yrpd.deploying.hosts.engines import connect_all
from yrpd.deploying.hosts.model_folder import read_file
from yrpd.deploying.hosts.probing import wait_until_ready
from yrpd.deploying.planning import planner, ports
from yrpd.deploying.planning.deployment import Deployment, read_deployment
from yrpd.deploying.preflight.fingerprints import fingerprinted
from yrpd.deploying.rollout import drain
from yrpd.deploying.spec import ContainerSpec, HttpProbe
from yrpd.deploying.status.metrics import tier_figures
from yrpd.deploying.status.status import status_document, tiers_text
from yrpd.deploying.verifying import checks, reference
from yrpd.deploying.verifying import questions as asking
from yrpd.deploying.verifying.answers import Answer
from yrpd.deploying.verifying.checks import Attempt, Check, Outcome, Yardstick
from yrpd.deploying.verifying.client import AskError, Server, ask_plainly, get_text
from yrpd.deploying.verifying.curl import curl_line
from yrpd.deploying.verifying.performing import Stage
from yrpd.deploying.verifying.questions import Question, Scene
from yrpd.deploying.verifying.tolerance import shape_of
from yrpd.docker.sdk import DockerClient, NotFound
from yrpd.errors import ConfigurationError, VerificationError
from yrpd.project import Project, write_json
from yrpd.release import Flavour
from yrpd.reporting import Reporter
from yrpd.serving.command_lines import SECRETS
from yrpd.serving.envoy import keys_in

REFERENCE_PORTS = range(8300, 8400)
SENTENCES_A_TURN = 8
REPORT = "verify.json"


def verify(
    project: Project,
    reporter: Reporter,
    hosts_file: Path,
    flavour: Flavour = "npu",
    pin: str = "",
    in_turn: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Prove the endpoint's answers equal to plain vLLM's, and that P's blocks were loaded by D: ``dist/verify.json``.

    Args:
        project: The checkout, or the release folder.
        reporter: Says what is being done.
        hosts_file: The inventory.
        flavour: ``npu`` or ``cpu``.
        pin: The pin of the image; empty means the default one.
        in_turn: The last D stops while plain vLLM answers, for hosts without an NPU to spare.
        dry_run: Only say what would be done.

    Raises:
        VerificationError: A check failed; the error carries the report.
    """
    deployment = read_deployment(project, hosts_file, flavour, pin)
    if dry_run:
        last = [spec.name for spec in deployment.specs if spec.role == "decode"][-1]
        turn = f", which takes the turn of {last}," if in_turn else ""
        reporter.say(
            f"would ask {deployment.endpoint} and a temporary plain vLLM{turn} the same questions, and compare"
        )
        return {"state": "planned", "endpoint": deployment.endpoint}
    with connect_all(deployment.inventory) as clients:
        report = Verification(deployment, clients, reporter, in_turn=in_turn).run()
    write_json(deployment.project.dist / REPORT, report)
    _render(report, reporter)
    failed = [check["name"] for check in report["checks"] if not check["passed"]]
    if failed:
        raise VerificationError(
            f"{len(failed)} of {len(report['checks'])} checks failed: {'; '.join(failed[:5])}"
            f"{' and more' if len(failed) > 5 else ''}.",
            next_command=deployment.command("deploy.logs" if report["checks"][0]["passed"] else "deploy"),
            document=report,
        )
    return report


class Verification:
    """One verification.

    Args:
        deployment: What is verified.
        clients: The hosts' engines.
        reporter: Says what is being done.
        in_turn: The last D stops while plain vLLM answers.
    """

    def __init__(
        self, deployment: Deployment, clients: Mapping[str, DockerClient], reporter: Reporter, *, in_turn: bool = False
    ) -> None:
        self.deployment = deployment = replace(deployment, specs=fingerprinted(deployment.specs, clients))
        self.in_turn = in_turn
        self.clients = clients
        self.reporter = reporter
        self.inventory = deployment.inventory
        self.model = deployment.inventory.model.served_name
        self.prefill = [spec for spec in deployment.specs if spec.role == "prefill"]
        self.decode = [spec for spec in deployment.specs if spec.role == "decode"]
        self.endpoint = self._endpoint()

    def run(self) -> dict[str, Any]:
        """Return the report."""
        runs, answering = self._runs_check()
        if not answering:
            return self._report([runs], [], {}, pictures=False, cached=False)
        yardstick, pictures, questions = self.subject()
        attempts = self._perform(asking.scenes(questions))
        outcomes = [outcome for group in attempts.values() for each in group for outcome in each.outcomes]
        references, cached = self.references(questions)
        done = [
            runs,
            self._models_check(),
            self._tutorial_check(references.get("tutorial")),
            self._hosts_check(),
            *checks.answer_checks(outcomes, references, yardstick),
            checks.stream_check(outcomes),
            *checks.difference_checks(references, yardstick, pictures),
            *(checks.scene_check(name, group) for name, group in attempts.items()),
            checks.total_check(each for group in attempts.values() for each in group),
            *([checks.picture_check(outcomes, self.inventory.model.block_size)] if pictures else ()),
        ]
        return self._report(done, outcomes, attempts, pictures=pictures, cached=cached)

    def subject(self) -> tuple[Yardstick, bool, dict[str, Question]]:
        """Return what answers are measured by, whether the model sees pictures, and the questions."""
        config = self._config()
        yardstick = Yardstick(shape_of(config), self.inventory.model.dtype)
        pictures = "vision_config" in config and self.inventory.model.max_model_len >= asking.ROOM_FOR_CHAT
        return yardstick, pictures, self._questions(pictures)

    def _perform(self, scenes: Sequence[Scene]) -> dict[str, list[Attempt]]:
        stage = Stage(
            endpoint=self.endpoint,
            model=self.model,
            prefill=tuple(map(_base, self.prefill)),
            decode=tuple(map(_base, self.decode)),
            block_size=self.inventory.model.block_size,
        )
        attempts: dict[str, list[Attempt]] = {}
        try:
            with (
                self.reporter.step(f"asking {self.deployment.endpoint}"),
                self.reporter.progress("asking", len(scenes)) as advance,
            ):
                for scene in scenes:
                    attempts[scene.name] = stage.perform(scene)
                    advance(1)
        except AskError as error:
            message = f"The counters of prefill and decode cannot be read: {error}."
            raise VerificationError(message, next_command=self.deployment.command("deploy.logs")) from error
        return attempts

    def _runs_check(self) -> tuple[Check, bool]:
        """Return whether every container runs what this checkout would run, and whether asking makes sense at all."""
        name = "every container runs what this checkout would run"
        document = status_document(self.deployment, self.clients, {}, datetime.now(tz=UTC))
        wanted = {spec.key for spec in self.deployment.specs}
        entries = [each for each in document["containers"] if (each["host"], each["name"]) in wanted]
        wrong = [
            f"{each['name']} on {each['host']}: {', '.join(each['reasons']) or each['health']}"
            for each in entries
            if each["health"] != "healthy" or not each["release_matches"]
        ]
        answering = all(each["state"] == "running" for each in entries)
        return Check(name, not wrong, "; ".join(wrong) or f"{len(entries)} containers"), answering

    def _config(self) -> dict[str, Any]:
        spec = self.prefill[0]
        # Not out of P, which may have been started with another: plain vLLM loads what is there now.
        config = model_folder.read_config(self.clients[spec.host], spec.mounts[0].source)
        try:
            shape_of(config)
        except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
            message = f"{spec.mounts[0].source}/config.json on {spec.host} does not describe a decoder ({error})."
            raise ConfigurationError(message, next_command="give another model in the inventory") from error
        return config

    def _questions(self, pictures: bool) -> dict[str, Question]:
        model = self.inventory.model
        needed = sum(asking.lengths(model.block_size, model.max_model_len).values()) + 4 * model.block_size
        tokens: list[int] = []
        base, turn = _base(self.prefill[0]), 0
        try:
            while len(tokens) < needed:
                turn += 1
                sentences = asking.prose(turn * SENTENCES_A_TURN)[-SENTENCES_A_TURN:]
                body = {"model": self.model, "prompt": "".join(sentences), "add_special_tokens": False}
                tokens += ask_plainly(base, "/tokenize", body)["tokens"]
        except AskError as error:
            message = f"{self.prefill[0].name} does not tokenize: {error}."
            raise VerificationError(message, next_command=self.deployment.command("deploy.logs")) from error
        questions = asking.text_questions(tokens, model.block_size, model.max_model_len)
        return {**questions, **(asking.picture_questions() if pictures else {})}

    def references(self, questions: dict[str, Question]) -> tuple[dict[str, Answer], bool]:
        """Return plain vLLM's answers by question, and whether they are those of an earlier run."""
        spec = self._plain(self._reference_port())
        kept_under = self._plain(REFERENCE_PORTS.start)
        reads = next((each.reads for each in (*self.decode, *self.prefill) if each.host == spec.host), "")
        path = reference.cache_file(self.deployment.project.build, kept_under, reads, questions)
        cached = reference.load_cached(path)
        if cached:
            self.reporter.say("    plain vLLM's answers are those of an earlier run: same image, model and questions")
            return cached, True
        with self._stopped(self.decode[-1]) if self.in_turn else nullcontext():
            fresh = reference.answers_of_plain_vllm(
                self.clients[spec.host], spec, _base(spec), self.model, questions, self.reporter
            )
        reference.keep(path, fresh)
        return fresh, False

    def _plain(self, port: int) -> ContainerSpec:
        deployment = self.deployment
        return planner.reference(self.inventory, deployment.image, deployment.site, port, in_turn=self.in_turn)

    @contextmanager
    def _stopped(self, spec: ContainerSpec) -> Iterator[None]:
        """Keep an instance stopped, after its last request; it serves again at the end, however that comes about."""
        container = self.clients[spec.host].containers.get(spec.name)
        (router,) = (each.probe for each in self.deployment.specs if each.role == "endpoint")
        assert isinstance(router, HttpProbe)  # noqa: S101 - the planner gives it no other
        assert isinstance(spec.probe, HttpProbe)  # noqa: S101
        with self.reporter.step(f"draining {spec.title}, whose turn plain vLLM takes"):
            if problem := drain.drain(container, spec.role, spec.probe, router, self.inventory.deadlines.drain):
                self.reporter.say(f"    {spec.title}: {problem}")
            container.stop(timeout=spec.stop_seconds)
        try:
            yield
        finally:
            with self.reporter.step(f"starting {spec.title} again"):
                container.start()
                drain.resume(container)
                wait_until_ready(spec.title, spec.probe, container)
                if problem := drain.wait_until_chosen(router, spec.role):
                    self.reporter.say(f"    {problem}")

    def _reference_port(self) -> int:
        host = self.inventory.host(self._plain(REFERENCE_PORTS.start).host)
        taken = {port for name, port, _ in self.inventory.ports() if name == host.name}
        for port in REFERENCE_PORTS:
            if port not in taken and not ports.answers(host.address, port):
                return port
        message = f"No port from {REFERENCE_PORTS.start} on is free on {host.name} for plain vLLM."
        raise VerificationError(message, next_command=self.deployment.command("deploy.status"))

    def _endpoint(self) -> Server:
        """Return the endpoint as a client that has a key sees it; the key is read where the endpoint reads it."""
        tls = self.inventory.endpoint.tls
        ca = (tls.ca or "") if tls else ""
        if self.inventory.secrets.endpoint_api_keys is None:
            return Server(self.deployment.endpoint, ca=ca)
        (spec,) = (spec for spec in self.deployment.specs if spec.role == "endpoint")
        try:
            found = read_file(self.clients[spec.host].containers.get(spec.name), f"{SECRETS}/client_keys")
        except NotFound:
            found = None
        keys = keys_in((found or b"").decode("utf-8"))
        return Server(self.deployment.endpoint, keys[0] if keys else "", ca)

    def _models_check(self) -> Check:
        name = "the endpoint lists the model"
        try:
            listed = [each["id"] for each in json.loads(get_text(self.endpoint, "/v1/models"))["data"]]
        except (AskError, ValueError, KeyError, TypeError) as error:
            return Check(name, False, str(error))
        return Check(name, self.model in listed, ", ".join(listed))

    def _tutorial_check(self, wanted: Answer | None) -> Check:
        name = "the tutorial's own request is answered as by plain vLLM"
        try:
            got = ask_plainly(self.endpoint, asking.COMPLETIONS, asking.tutorial_request(self.model))
            choice, usage = got["choices"][0], got["usage"]
            seen = (str(choice["text"]), usage["prompt_tokens"], usage["completion_tokens"], choice["finish_reason"])
        except (AskError, KeyError, IndexError, TypeError) as error:
            return Check(name, False, str(error))
        if wanted is None:
            return Check(name, False, "plain vLLM did not answer it")
        expected = (wanted.text, wanted.prompt_tokens, len(wanted.tokens), wanted.finish_reason)
        counts = f"{seen[1]} prompt tokens, {seen[2]} tokens, finish_reason {seen[3]}"
        return Check(name, seen == expected, counts if seen == expected else f"{seen!r}, not {expected!r}"[:400])

    def _hosts_check(self) -> Check:
        prefill, decode = ({spec.host for spec in specs} for specs in (self.prefill, self.decode))
        where = f"prefill on {', '.join(sorted(prefill))}, decode on {', '.join(sorted(decode))}"
        apart = prefill.isdisjoint(decode) or len(self.inventory.hosts) == 1
        return Check("prefill and decode run on different hosts", apart, where)

    def _report(
        self,
        done: Sequence[Check],
        outcomes: Sequence[Outcome],
        attempts: Mapping[str, Sequence[Attempt]],
        *,
        pictures: bool,
        cached: bool,
    ) -> dict[str, Any]:
        last, keys = [group[-1] for group in attempts.values()], self.inventory.secrets.endpoint_api_keys
        times = {name: _first_token_times(last, name) for name in ("cold", "warm")}
        return {
            "passed": all(check.passed for check in done),
            "checks": [asdict(check) for check in done],
            "endpoint": self.deployment.endpoint,
            "curl": curl_line(self.endpoint.url, self.model, key=bool(keys), ca=self.endpoint.ca),
            "ttft": {name: round(statistics.median(values), 4) if values else None for name, values in times.items()},
            "ttft_samples": {name: [round(value, 4) for value in values] for name, values in times.items()},
            "hits": {**_hits(last), "repeated_scenes": sum(len(group) - 1 for group in attempts.values())},
            "tiers": self._tiers(),
            "pictures": pictures,
            "reference": "cached" if cached else "fresh",
            "dtype": self.inventory.model.dtype,
            "image": {"reference": self.deployment.image.reference, "id": self.deployment.image.id},
            "requests": len(outcomes),
        }

    def _tiers(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return what the tiers of each D's worker served, by host."""
        found = {}
        for spec in self.decode:
            with suppress(AskError):
                found[spec.host] = tier_figures(get_text(_base(spec), "/metrics"))
        return found


def _first_token_times(attempts: Sequence[Attempt], kind: str) -> list[float]:
    """Return seconds to the first token of answers that are timed, ``cold`` or ``warm``."""
    outcomes = [outcome for attempt in attempts for outcome in attempt.outcomes if outcome.answer is not None]
    return [outcome.first_token_s for outcome in outcomes if outcome.shot.timed == kind]


def _hits(attempts: Sequence[Attempt]) -> dict[str, int]:
    """Return how many blocks, bytes and tokens were counted in all, and how many blocks were expected."""
    return {
        "saved_blocks": sum(each.prefill["saved_blocks"] for each in attempts),
        "expected_saved_blocks": sum(each.expectation.saved for each in attempts),
        "expected_loaded_blocks": sum(each.expectation.loaded for each in attempts),
        **{
            name: sum(each.decode[name] for each in attempts)
            for name in ("loaded_blocks", "loaded_bytes", "matched_tokens", "queried_tokens")
        },
    }


def _base(spec: ContainerSpec) -> str:
    parts = urlsplit(getattr(spec.probe, "url", ""))
    return f"{parts.scheme}://{parts.netloc}"


def _render(report: Mapping[str, Any], reporter: Reporter) -> None:
    for check in report["checks"]:
        reporter.say(f" {'✓' if check['passed'] else '✗'}  {check['name']}: {check['detail']}")
    hits, ttft = report["hits"], report["ttft"]
    reporter.say(f"blocks      {hits['saved_blocks']} saved by prefill, {hits['loaded_blocks']} loaded by decode")
    if ttft["cold"] is not None and ttft["warm"] is not None:
        reporter.say(f"TTFT        cold {ttft['cold'] * 1000:.0f} ms, warm {ttft['warm'] * 1000:.0f} ms (long prompt)")
    for host, tiers in report["tiers"].items():
        reporter.say(f"tiers       {host}: {tiers_text(tiers)}")
    reporter.say(f"endpoint    {report['endpoint']}")
    reporter.say(f"try it      {report['curl']}")
