#!/usr/bin/env python3
"""The deployment commands without Invoke, for a host that has only Python and this project's folder.

``python3 scripts/deploy.py --hosts hosts.toml`` is ``invoke deploy``; ``... status`` is ``invoke deploy.status``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(_SCRIPTS))

from yrpd.environment import require_environment_or_exit

require_environment_or_exit(_SCRIPTS.parent)

from yrpd.cli import default_hosts_file, execute, resolve_flavour, resolve_pin
from yrpd.deploying import commands
from yrpd.project import Project
from yrpd.reporting import Reporter

ACTIONS = ("deploy", "plan", "status", "logs", "verify", "rollback", "clean")
CHANGING = ("deploy", "plan", "verify", "rollback", "clean")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="deploy", help="what to do (default: deploy)")
    parser.add_argument("--hosts", default="", help="inventory; else YRPD_HOSTS, lab.toml (cpu) or hosts.toml (npu)")
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; the exit code is the error class's."""
    options = parse(arguments)
    extra: dict[str, object] = {"dry_run": options.dry_run} if options.action in CHANGING else {}
    if options.action == "logs":
        extra |= {name: getattr(options, name) for name in ("tail", "role", "grep", "follow", "save")}
    if options.action == "plan":
        extra |= {"plan_format": options.format, "output": options.output}

    def command(project: Project, reporter: Reporter) -> dict[str, object]:
        flavour = resolve_flavour(options.flavour)
        hosts = Path(default_hosts_file(options.hosts, flavour))
        run = getattr(commands, options.action)
        return dict(
            run(
                project=project,
                reporter=reporter,
                hosts_file=hosts,
                flavour=flavour,
                pin=resolve_pin(options.pin),
                **extra,
            )
        )

    execute(command, as_json=options.json, verbose=options.verbose)


if __name__ == "__main__":
    main()
