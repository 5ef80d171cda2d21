"""``invoke patch*``."""

from __future__ import annotations

from yrpd.options import PIN, Command, Option

_TO = Option("to", "An upstream tag of release.toml.")
_TO_OF_SEVERAL = Option("to", "The rebase's upstream tag; needed only when several rebases are under way.")
_REFUSES = {"flavour": "a series is the same for both flavours", "hosts": "no host is asked"}
_REFUSES_PIN = {**_REFUSES, "pin": "a rebase that is under way knows its pin; name it by --to"}

COMMANDS = (
    Command(
        "patch.apply",
        "Fetch the pinned vllm-ascend, prove it, and apply the patch series to it.",
        "yrpd.patching.commands:patch",
        (PIN, Option("discard", "Give up local edits of the work tree.", False)),
        refuses=_REFUSES,
        default=True,
    ),
    Command(
        "patch.check",
        "Prove the series: files, hashes, connector_src, blob ids, resulting tree.",
        "yrpd.patching.commands:check",
        (PIN,),
        refuses=_REFUSES,
    ),
    Command(
        "patch.export",
        "Write every pin's series, or the named one's, back from connector_src and work trees; untouched patches stay.",
        "yrpd.patching.commands:export",
        (PIN,),
        refuses=_REFUSES,
    ),
    Command(
        "patch.lint",
        "Hold the files of the series against the rules; no source and no work tree is needed. Changes nothing.",
        "yrpd.patching.commands:lint",
        (PIN,),
        refuses=_REFUSES,
        changes_nothing=True,
    ),
    Command(
        "patch.status",
        "Say which side is ahead (pin, series, connector_src, work tree) and which command is next. Changes nothing.",
        "yrpd.patching.commands:status",
        (PIN,),
        refuses=_REFUSES,
        changes_nothing=True,
    ),
    Command(
        "patch.rebase",
        "Carry the series to another upstream tag; stops where a patch conflicts; a dry run says which patches fit.",
        "yrpd.patching.rebase_commands:begin",
        (_TO, PIN),
        refuses=_REFUSES,
    ),
    Command(
        "patch.continue",
        "Go on with a rebase after the conflict was resolved and staged, or committed.",
        "yrpd.patching.rebase_commands:resume",
        (_TO_OF_SEVERAL,),
        refuses=_REFUSES_PIN,
    ),
    Command(
        "patch.abort",
        "Give a rebase up; everything is as it was before.",
        "yrpd.patching.rebase_commands:abort",
        (_TO_OF_SEVERAL,),
        refuses=_REFUSES_PIN,
    ),
)
