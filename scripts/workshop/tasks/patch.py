"""``invoke patch.figures``."""

from __future__ import annotations

from yrpd.options import PIN, Command, Option

_REFUSES = {"flavour": "a series is the same for both flavours", "hosts": "no host is asked"}

COMMANDS = (
    Command(
        "patch.figures",
        "Measure the patch commands beside bare git on the same series.",
        "workshop.bench.patching:measure",
        (PIN, Option("rounds", "How often each is run; the median counts.", 3)),
        refuses=_REFUSES,
    ),
)
