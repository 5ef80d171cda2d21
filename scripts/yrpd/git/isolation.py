"""Keeping the caller's settings from git.

Its own ``GIT_*`` variables are dropped, global and system configuration are not read, and the few settings that could
still come from a repository's own configuration, from the tree or from ``$XDG_CONFIG_HOME`` are overruled one by one.
What is left of the environment (proxies, ``PATH``, certificates) does not change what git computes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

# GitPython asks git for its version at import and would raise; a missing git is reported when it is first needed.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import git as gitpython

__all__ = ["IsolatedGit", "environment", "gitpython"]

COMMITTER = ("yrpd", "yrpd@yrpd.invalid")

# Everything here is git's default, or turns a customisation off. Settings that take a path get one that has nothing.
_SETTINGS: Mapping[str, str] = {
    "am.keepcr": "true",
    "am.threeWay": "false",
    "apply.ignoreWhitespace": "no",
    "apply.whitespace": "nowarn",
    "commit.gpgSign": "false",
    "core.abbrev": "auto",
    "core.attributesFile": os.devnull,
    "core.autocrlf": "false",
    "core.eol": "native",
    "core.excludesFile": os.devnull,
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.pager": "cat",
    "core.quotePath": "true",
    "core.safecrlf": "false",
    "core.whitespace": "blank-at-eol,space-before-tab,blank-at-eof",
    "diff.algorithm": "myers",
    "diff.context": "3",
    "diff.indentHeuristic": "true",
    "diff.interHunkContext": "0",
    "diff.mnemonicPrefix": "false",
    "diff.noprefix": "false",
    "diff.orderFile": os.devnull,
    "diff.renames": "false",
    "diff.submodule": "short",
    "diff.suppressBlankEmpty": "false",
    "format.coverLetter": "false",
    "format.encodeEmailHeaders": "true",
    "format.filenameMaxLength": "64",
    "format.from": "false",
    "format.notes": "false",
    "format.signOff": "false",
    "format.suffix": ".patch",
    "format.thread": "false",
    "format.useAutoBase": "false",
    "gc.auto": "0",
    "i18n.commitEncoding": "UTF-8",
    "i18n.logOutputEncoding": "UTF-8",
    "log.mailmap": "false",
    "init.defaultBranch": "main",
    "maintenance.auto": "false",
    "mailinfo.scissors": "false",
    # A conflict shows what the patch was made on, too.
    "merge.conflictStyle": "diff3",
    "merge.renames": "true",
    "protocol.version": "2",
    "rerere.enabled": "false",
    "safe.directory": "*",
    "user.useConfigOnly": "true",
}


class IsolatedGit(gitpython.Git):
    """GitPython's command runner with the caller's ``GIT_*`` variables taken away.

    GitPython can only add to the inherited environment, so ``env`` takes them out again.
    """

    def execute(self, command: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a command as GitPython does, without the caller's ``GIT_*`` variables."""
        ours = self.environment().keys() | (kwargs.get("env") or {}).keys()
        inherited = sorted(name for name in os.environ if name.startswith("GIT_") and name not in ours)
        if inherited:
            command = ["env", *(f"--unset={name}" for name in inherited), *command]
        return super().execute(command, *args, **kwargs)


def environment() -> dict[str, str]:
    """Return the variables under which git does the same on every machine."""
    name, email = COMMITTER
    settings = {"GIT_CONFIG_COUNT": str(len(_SETTINGS))}
    for number, (key, value) in enumerate(_SETTINGS.items()):
        settings[f"GIT_CONFIG_KEY_{number}"] = key
        settings[f"GIT_CONFIG_VALUE_{number}"] = value
    return {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": email,
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_ADVICE": "0",
        "LANGUAGE": "C",
        "LC_ALL": "C",
        "TZ": "UTC",
        **settings,
    }
