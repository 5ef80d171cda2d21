"""``invoke doctor``."""

from __future__ import annotations

from yrpd.options import FLAVOUR, HOSTS, PIN, Command, Option

COMMANDS = (
    Command(
        "doctor",
        "Look at series, engine, hosts and containers; say what is wrong and how to mend it. Changes nothing.",
        "yrpd.commands.doctor:doctor",
        (HOSTS, FLAVOUR, PIN, Option("save", "Archive of all that was seen, for a report.", "doctor.tar.gz")),
    ),
)
