"""The command line of ``scripts/deploy.py`` in a checkout, and of ``deploy.pyz`` in a release folder."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from yrpd.cli import default_hosts_file, execute, resolve_flavour, resolve_pin
from yrpd.deploying import commands
from yrpd.deploying.image_record import load_image_record
from yrpd.project import Project
from yrpd.release import Flavour
from yrpd.reporting import Reporter

ACTIONS = ("deploy", "plan", "status", "logs", "verify", "rollback", "clean")
CHANGING = ("deploy", "plan", "verify", "rollback", "clean")
TAKES = {"logs": ("tail", "role", "grep", "follow", "save"), "plan": ("format", "output")}

_DEPLOY = re.compile(r"\binvoke deploy(?:\.(?P<action>\w+))?(?P<flavour> --flavour \w+)?")
_ELSEWHERE = re.compile(r"^(?P<command>invoke (?:image|build|patch|lab)\b[^#]*?)\s*(?:#.*)?$")


def parse(program: str, released: bool, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        program: What people type to run it.
        released: Whether it works from a release folder, which has one flavour and one pin.
        arguments: The words after the program's name; the process' own when ``None``.
    """
    parser = argparse.ArgumentParser(prog=program, description="Deploy prefill and decode on the inventory's hosts.")
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="deploy", help="what to do (default: deploy)")
    if released:
        parser.add_argument("--hosts", default="", help="inventory; else YRPD_HOSTS, else hosts.toml")
        parser.set_defaults(flavour="", pin="")
    else:
        parser.add_argument("--hosts", default="", help="inventory; else YRPD_HOSTS, hosts.toml (cpu: lab.toml)")
        parser.add_argument("--flavour", default="", help="npu or cpu; else YRPD_FLAVOUR, else npu")
        parser.add_argument("--pin", default="", help="table of release.toml; else YRPD_PIN, else the default pin")
    parser.add_argument("--tail", type=int, default=100, help="lines of each container's log")
    parser.add_argument("--role", default="", help="logs of these roles only, separated by commas")
    parser.add_argument("--grep", default="", help="log lines in which this regular expression is found")
    parser.add_argument("--follow", action="store_true", help="print new log lines as they come")
    parser.add_argument("--save", default="", help="write whole logs and the hosts' records to this .tar.gz")
    parser.add_argument("--format", default="table", help="of plan: table, run, json, compose, kubernetes, monitoring")
    parser.add_argument("--output", default="", help="folder that gets the plan's files; printed when empty")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, all else on stderr")
    parser.add_argument("--verbose", action="store_true", help="details, and a traceback on failure")
    return parser.parse_args(arguments)


def main(project: Project, program: str, arguments: Sequence[str] | None = None) -> None:
    """Run one command; the exit code is the error class's.

    Args:
        project: The checkout, or the release folder.
        program: What people type to run it.
        arguments: The words after the program's name; the process' own when ``None``.
    """
    options = parse(program, project.released is not None, arguments)
    extra: dict[str, object] = {"dry_run": options.dry_run} if options.action in CHANGING else {}
    extra |= {name: getattr(options, name) for name in TAKES.get(options.action, ())}
    if "format" in extra:
        extra["plan_format"] = extra.pop("format")

    def command(project: Project, reporter: Reporter) -> dict[str, object]:
        flavour, hosts = _resolve(project, options)
        run: Callable[..., dict[str, object]] = getattr(commands, options.action)
        pin = "" if project.released else resolve_pin(options.pin)
        return dict(run(project=project, reporter=reporter, hosts_file=hosts, flavour=flavour, pin=pin, **extra))

    say_next = str if project.released is None else lambda text: without_invoke(text, program)
    execute(command, as_json=options.json, verbose=options.verbose, project=project, say_next=say_next)


def _resolve(project: Project, options: argparse.Namespace) -> tuple[Flavour, Path]:
    if project.released is None:
        flavour = resolve_flavour(options.flavour)
        return flavour, Path(default_hosts_file(options.hosts, flavour))
    hosts = options.hosts or os.environ.get("YRPD_HOSTS") or "hosts.toml"
    return load_image_record(project, "npu").flavour, Path(hosts)


def without_invoke(text: str, program: str) -> str:
    """Return a next command as it is typed where there is no Invoke and no checkout."""
    text = _ELSEWHERE.sub(r"\g<command>  # in the checkout that made this release", text)
    return _DEPLOY.sub(lambda found: f"{program} {found['action'] or 'deploy'}", text)
