"""``invoke patch*``."""

from __future__ import annotations

from yrpd.options import PIN, Command, Option

_REFUSES = {"flavour": "a series is the same for both flavours", "hosts": "no host is asked"}

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
        "patch.status",
        "Say how work tree, connector_src, series and pin stand to each other, and what to type next. Changes nothing.",
        "yrpd.patching.commands:status",
        (PIN,),
        refuses=_REFUSES,
        changes_nothing=True,
    ),
    Command(
        "patch.rebase",
        "Carry the series to another upstream tag, or go on after a conflict; a dry run says which patches fit.",
        "yrpd.patching.rebase_commands:begin",
        (
            Option("to", "An upstream tag of release.toml."),
            PIN,
            Option("abort", "Give up the rebase to that tag; everything is as it was before.", False),
        ),
        refuses=_REFUSES,
    ),
)
