"""The commands of ``invoke deploy*`` and ``deploy.pyz``: one table for both fronts."""

from __future__ import annotations

from yrpd.options import FLAVOUR, HOSTS, PIN, Command, Option

_WHERE = (HOSTS, FLAVOUR, PIN)

COMMANDS = (
    Command(
        "deploy.rollout",
        "Start openYuanrong, prefill, decode and the endpoint on the hosts.",
        "yrpd.commands.deploy:deploy",
        _WHERE,
        default=True,
    ),
    Command(
        "deploy.plan",
        "Print the containers that deploy would start. Asks no host.",
        "yrpd.deploying.planning.commands:plan",
        (
            *_WHERE,
            Option(
                "format", "table, run (docker lines), json, kubernetes or monitoring.", "table", parameter="plan_format"
            ),
            Option("output", "Folder that gets the files; printed when empty."),
        ),
    ),
    Command(
        "deploy.status",
        "Say for each container: role, health, and whether it runs what this checkout would run. Changes nothing.",
        "yrpd.commands.deploy:status",
        _WHERE,
        changes_nothing=True,
    ),
    Command(
        "deploy.logs",
        "Print the last log lines of every container.",
        "yrpd.deploying.status.logs:logs",
        (
            *_WHERE,
            Option("tail", "Lines of each container.", 100),
            Option("role", "Only these roles, with commas: etcd, worker, prefill, decode, endpoint."),
            Option("follow", "Print new lines as they come.", False),
            Option("save", "Write whole logs and the hosts' records to this .tar.gz."),
        ),
    ),
    Command(
        "deploy.verify",
        "Prove the endpoint's answers equal to plain vLLM's, and that P's blocks were loaded by D.",
        "yrpd.deploying.verifying.run:verify",
        (
            *_WHERE,
            Option(
                "in-turn",
                "Stop the last D while plain vLLM answers, where no NPU is left for it.",
                False,
                parameter="in_turn",
            ),
        ),
    ),
    Command(
        "deploy.rollback",
        "Bring the hosts back to the release before the present one.",
        "yrpd.deploying.deploy:rollback",
        _WHERE,
    ),
    Command(
        "deploy.unlock",
        "Remove the locks of a command that no longer runs; says whose they are.",
        "yrpd.deploying.deploy:unlock",
        (
            *_WHERE,
            Option("owner", "Whose locks go although nobody here can tell whether the command runs: USER@MACHINE."),
        ),
    ),
    Command(
        "deploy.clean",
        "Stop and remove everything that deploy started.",
        "yrpd.deploying.deploy:clean",
        _WHERE,
    ),
)
