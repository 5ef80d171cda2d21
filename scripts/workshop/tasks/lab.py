"""``invoke lab*``."""

from __future__ import annotations

from yrpd.options import FLAVOUR, HOSTS, LAB_HOSTS, PIN, Command, Option

_BOTH_FLAVOURS = {"flavour": "a lab's hosts are the same for both flavours"}

COMMANDS = (
    Command(
        "lab.up",
        "Make two or more real Docker hosts on this machine, those that the hosts file names, and the models to serve.",
        "workshop.lab:up",
        (
            LAB_HOSTS,
            PIN,
            Option("disk_gb", "Give each new host a disk of its own of this size; all share the machine's when 0.", 0),
            Option("overlay", "Folder with a folder of files for each host, seen there over the machine's own."),
        ),
        refuses=_BOTH_FLAVOURS,
    ),
    Command(
        "lab.down",
        "Remove all that lab.up and lab.builder made, also after a crash.",
        "workshop.lab:down",
        (
            Option("name", "The lab's name; that of the hosts file when empty.", parameter="lab_name"),
            LAB_HOSTS,
        ),
        refuses={**_BOTH_FLAVOURS, "pin": "a lab's hosts are the same for every pin"},
    ),
    Command(
        "lab.builder",
        "Start a private Docker engine for building, where none runs.",
        "workshop.lab:builder",
        refuses={
            "flavour": "the engine builds both flavours",
            "pin": "the engine builds every pin",
            "hosts": "the engine is none of a deployment's hosts",
        },
    ),
    Command(
        "lab.faults",
        "Make one fault after the other happen to the lab's deployment, under load, and check every answer.",
        "workshop.faults.commands:faults",
        (
            HOSTS,
            FLAVOUR,
            PIN,
            Option("only", "Regular expression; only faults whose name it is found in."),
            Option("output", "Markdown file whose table of faults is replaced, such as docs/faults.md."),
        ),
    ),
)
