"""Every command that the project itself tells to type next is one: in its errors, and in its own scripts."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke.parser import ParserContext

from tasks import ns
from tests.documents.blocks import ROOT, commands
from tests.documents.judging import Wrong, is_invoke, simple_commands, tasks_of

CONTEXTS: dict[str, ParserContext] = {
    name: context for context in ns.to_contexts() for name in (context.name, *context.aliases) if name
}
SOURCES = sorted((ROOT / "scripts").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))


def told(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a module's texts that begin with ``invoke``, a placeholder for each value that is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values]
            if parts[0].startswith("invoke "):
                yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("invoke "):
            yield node.lineno, node.value


def wrong(text: str) -> str:
    """Return the first word of a text that should be a task or an option and is none; the sentence after it is free."""
    words = re.split(r"\s+", re.split("   |,", text)[0].strip())[1:]
    context: ParserContext | None = None
    skip = False
    for number, word in enumerate(words):
        if skip:
            skip = False
        elif word.startswith("--"):
            flags = context.flags if context else {"--list": None, "--help": None}
            if word not in flags:
                return word
            skip = context is not None and context.flags[word].takes_value
        elif word in CONTEXTS:
            context = CONTEXTS[word]
        elif number == 0 and not re.search("VALUE|[*…]", word):
            return word
        else:
            return ""
    return ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_tells_to_type_only_what_there_is(path: Path) -> None:
    assert [(line, text) for line, text in told(path) if wrong(text)] == []


def test_a_text_that_is_no_command_is_found() -> None:
    assert wrong("invoke pach --pin v0.11.0") == "pach"
    assert wrong("invoke patch --pinn v0.11.0") == "--pinn"
    assert wrong("invoke patch.export to keep them, or give them up") == ""
    assert wrong("invoke lab.up   (a word that is none --at-all)") == ""


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_types_only_what_there_is(path: Path) -> None:
    for line in commands(re.sub(r"(?ms)<<'?(\w+)'?\n.*?^\1$", "", path.read_text(encoding="utf-8"))):
        if "invoke" not in line:
            continue
        try:
            for typed in simple_commands(line):
                if is_invoke(typed):
                    tasks_of([re.sub(r"\$\w+", "v0.11.0", word) for word in typed.words[1:]])
        except Wrong as error:
            pytest.fail(f"{path.name}: {shlex.quote(line)}: {error}")
