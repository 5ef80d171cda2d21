"""Judges a command line of a document without running it: is there such a task, option, script and file?"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import lru_cache
from io import StringIO
from typing import Any

from invoke.exceptions import ParseError
from invoke.parser import Parser, ParserContext

from tasks import ns
from tests.documents.blocks import ROOT, Block, commands
from yrpd.commands.front import parse as parse_front
from yrpd.deploying.inventory import load_inventory
from yrpd.deploying.verifying.questions import CHAT, COMPLETIONS
from yrpd.errors import YrpdError
from yrpd.options import Command, resolve
from yrpd.project import Project

CORE = {"--list", "--help", "--version"}
# Words of the shell, and programs that every Debian machine has; what they do is checked by running them or not at all.
SHELL = {"cp", "export", "cd", "mkdir", "seq", "cat", "rm", "git", "read", "source", ".", "mktemp"}
KEYWORDS = {"do", "done", "then", "else", "fi", "if", "while", "time", "exec"}
SEPARATORS = {";", "&&", "||", "|", "(", ")", "&", "$("}
HARDWARE = "hardware"
FRESH = "fresh"


class Wrong(Exception):
    """A line of a document cannot be typed as it is; the text says why."""


@dataclass(frozen=True)
class Typed:
    """One simple command.

    Attributes:
        words: Its words, without assignments and redirections.
        variables: The assignments before it.
    """

    words: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def program(self) -> str:
        """What is run; the virtual environment's programs by their bare names."""
        return self.words[0].removeprefix(".venv/bin/")


@dataclass(frozen=True)
class Task:
    """One task of an ``invoke`` line.

    Attributes:
        command: What it is.
        given: What is typed for it.
    """

    command: Command
    given: dict[str, Any]


def simple_commands(line: str) -> Iterator[Typed]:
    """Yield the simple commands of a line.

    Raises:
        Wrong: It is no line of a shell.
    """
    lexer = shlex.shlex(line.replace("\\\n", " "), posix=True, punctuation_chars="();&|")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    try:
        tokens = [*lexer, ";"]
    except ValueError as error:
        raise Wrong(f"no shell reads it: {error}") from error
    for token in tokens:
        if token in SEPARATORS or set(token) <= set("();&|"):
            yield from _simple(words)
            words = []
        else:
            words.append(token)


def _simple(words: list[str]) -> Iterator[Typed]:
    if words[:1] == ["for"]:
        return
    rest, variables = list(words), {}
    while rest and (rest[0] in KEYWORDS or re.match(r"[A-Z_][A-Z0-9_]*=", rest[0])):
        name, _, value = rest.pop(0).partition("=")
        if name not in KEYWORDS:
            variables[name] = value
    rest = [word for word in rest if not word.startswith((">", "<", "2>"))]
    if rest:
        yield Typed(tuple(rest), variables)


def is_invoke(typed: Typed) -> bool:
    """Return whether a command is one of this project's tasks."""
    return typed.program in ("invoke", "yrpd")


def tasks_of(words: list[str], *, names: bool = False) -> list[Task]:
    """Return the tasks of the words after ``invoke``.

    Args:
        words: The words.
        names: A name in capitals, and one in angle brackets, stands for a value.

    Raises:
        Wrong: There is no such task or option, or a value is none of the option's.
    """
    if words and words[0] in CORE:
        if words[0] == "--help" and words[1:] and not (names and words[1].isupper()):
            tasks_of(words[1:])
        return []
    if names:
        words = [_stand_in(word) for word in words]
    try:
        # The parser copies whatever it may need, so it gets the tasks that are named alone.
        named = [one for one in _contexts() if not {one.name, *one.aliases}.isdisjoint(words)]
        found: list[ParserContext] = Parser(contexts=named).parse_argv(words)
    except (ParseError, ValueError) as error:
        raise Wrong(str(error)) from error
    return [Task(ns[str(context.name)].command, context.as_kwargs) for context in found if context.name]


@lru_cache(maxsize=1)
def _contexts() -> list[ParserContext]:
    return list(ns.to_contexts())


def _stand_in(word: str) -> str:
    """Return a value for a name that stands for one."""
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*|<.*>", word):
        return word
    pin = {"TAG": "v0.11.0", "PIN": "v0.11.0", "N": "1"}
    return pin.get(word, word)


@lru_cache
def judge(block: Block) -> list[tuple[str, str]]:
    """Judge each command of a block.

    Returns:
        ``(command, how it was judged)``, in order.

    Raises:
        Wrong: One cannot be typed as it is.
    """
    unknown = [word for word in block.how if word not in (FRESH, HARDWARE) and not (ROOT / word).is_file()]
    if unknown:
        raise Wrong(f"there is no marker {' '.join(unknown)!r}; there are: {FRESH}, {HARDWARE}, a file of the suite")
    if not block.inline:
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
        if done.returncode:
            raise Wrong(f"no shell reads it: {done.stderr.strip()}")
    lines = [block.text.replace("[", "").replace("]", "")] if block.inline else commands(block.text)
    exported: dict[str, str] = {}
    rows = []
    for line in lines:
        try:
            rows.append((line, " + ".join(dict.fromkeys(_how(block, line, exported)))))
        except Wrong as error:
            raise Wrong(f"{' '.join(line.split())}: {error}") from error
    return rows


def _how(block: Block, line: str, exported: dict[str, str]) -> Iterator[str]:
    if block.inline and re.search(r"\*|…|\.\.\.", line):
        # A family of commands: at least one is there.
        family = line.split()[1].rstrip("*.…")
        if not any(name.startswith(family) for name in ns.task_names):
            raise Wrong(f"no task begins with {family!r}")
        yield "name"
        return
    for typed in simple_commands(re.sub(r"<(\w+)>", r"\1", line) if block.inline else line):
        if typed.program == "export":
            exported |= dict(word.split("=", 1) for word in typed.words[1:] if "=" in word)
        yield _one(block, typed, exported)


def _one(block: Block, typed: Typed, exported: dict[str, str]) -> str:
    if is_invoke(typed):
        names = block.inline or HARDWARE in block.how
        variables = {name: _stand_in(value) if names else value for name, value in typed.variables.items()}
        for task in tasks_of(list(typed.words[1:]), names=names):
            try:
                resolve(task.command, task.given, {**exported, **variables}, Project(ROOT))
            except YrpdError as error:
                raise Wrong(error.message) from error
        return "tasks and options"
    script = next((word for word in typed.words[1:] if not word.startswith("-")), "")
    if typed.program in ("bash", "sh"):
        return _functions(typed.words[2]) if typed.words[1] == "-c" else _script(script, typed)
    if re.fullmatch(r"python3?(\.\d+)?", typed.program) and script:
        return _python(script, typed)
    if typed.program in ("python3", "pip", "uv"):
        return _installing(typed)
    if typed.program == "$EDITOR":
        _require_file(script)
        return "file"
    if (ROOT / ".venv" / "bin" / typed.program).exists():
        return "program of .venv"
    if typed.program == "curl" and "-d" in typed.words and HARDWARE not in block.how:
        return _asking(typed)
    if typed.program in SHELL or (block.inline and typed.program == "docker"):
        return "shell"
    if HARDWARE in block.how:
        return "hardware"
    for path in (word for word in block.how if word != FRESH):
        text = (ROOT / path).read_text(encoding="utf-8")
        # What is particular to the command: the module or file that it names, else its program.
        named = [word for word in typed.words[1:] if re.fullmatch(r"[A-Za-z_]+(\.[A-Za-z_]+)+", word)] or [
            typed.program
        ]
        if all(word in text for word in named):
            return f"run by {path}"
    raise Wrong(
        f"nobody judges {typed.program!r}; say before the block who runs it, <!-- run: FILE -->, or that it needs "
        f"hardware, <!-- run: {HARDWARE} -->"
    )


def _require_file(name: str) -> None:
    if not (ROOT / name).exists():
        raise Wrong(f"there is no file {name}")


def _script(script: str, typed: Typed) -> str:
    """Judge a script of the project's: it is there, it has such a mode, and who runs it."""
    _require_file(script)
    text = (ROOT / script).read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    modes = [word for word in typed.words[typed.words.index(script) + 1 :] if re.fullmatch(r"[a-z]+", word)]
    for mode in modes[:1]:
        usage = re.search(r'case "\$\{1:-\}" in ([a-z |]+)\)', text)
        if usage is None or mode not in re.split(r"[ |]+", usage[1]):
            raise Wrong(f"{script} has no mode {mode!r}")
    runner = _runner(script)
    return f"run by {runner}" if runner else "syntax and mode"


def _asking(typed: Typed) -> str:
    """Judge a request to the endpoint that the quickstart leaves behind: the lab's address, a path and its model."""
    lab = load_inventory(ROOT / "lab.toml")
    endpoint = f"{lab.endpoint.scheme}://{lab.host(lab.router.host).address}:{lab.endpoint.port}"
    urls = [word for word in typed.words if "://" in word]
    if urls not in ([endpoint + COMPLETIONS], [endpoint + CHAT]):
        raise Wrong(f"{' '.join(urls)} is not the endpoint of lab.toml, {endpoint}, with {COMPLETIONS} or {CHAT}")
    model = json.loads(typed.words[typed.words.index("-d") + 1])["model"]
    if model != lab.model.served_name:
        raise Wrong(f"lab.toml serves {lab.model.served_name}, not {model}")
    return "the lab's endpoint"


def _functions(text: str) -> str:
    """Judge a line that calls functions of the files that it reads first."""
    known = ""
    for typed in simple_commands(text):
        if typed.program in (".", "source"):
            _require_file(typed.words[1])
            known += (ROOT / typed.words[1]).read_text(encoding="utf-8")
        elif not re.search(rf"(?m)^{re.escape(typed.program)}\(\)", known):
            raise Wrong(f"no function {typed.program!r} is in what is read before it")
    return "functions"


def _runner(script: str) -> str:
    """Return which file of the suite runs a script."""
    return next((name for name, text in _suite().items() if script in text), "")


@lru_cache(maxsize=1)
def _suite() -> dict[str, str]:
    paths = [ROOT / ".ci" / "run", *sorted((ROOT / "tests").rglob("*.py"))]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return {name: text for name, text in texts.items() if "/documents/" not in name}


def _python(script: str, typed: Typed) -> str:
    if typed.words[1] == "-m":
        return _installing(typed) if script in ("venv", "pip") else "module"
    rest = list(typed.words[typed.words.index(script) + 1 :])
    if re.fullmatch(r"(?:\S*/)?deploy\.pyz", script):
        said = StringIO()
        try:
            with redirect_stderr(said):
                parse_front(script, rest)
        except SystemExit as error:
            raise Wrong(said.getvalue().strip().splitlines()[-1]) from error
        return "commands and options"
    _require_file(script)
    options = [word for word in rest if word.startswith("--")]
    if not options:
        compile((ROOT / script).read_text(encoding="utf-8"), script, "exec")
        return "script"
    missing = [word for word in options if word.split("=")[0] not in _help(script)]
    if missing:
        raise Wrong(f"{script} has no {' '.join(missing)}")
    return "options"


@lru_cache
def _help(script: str) -> str:
    variables = {**os.environ, "COLUMNS": "500"}
    return subprocess.check_output([sys.executable, script, "--help"], cwd=ROOT, text=True, env=variables)


def _installing(typed: Typed) -> str:
    """Judge a step that makes an environment: a lock is installed by hash and without resolving, and it is there."""
    words = typed.words
    for option in ("-r", "--requirement"):
        if option in words:
            _require_file(words[words.index(option) + 1])
            if "pip" in words or words[0].endswith("pip"):
                lacking = {"--no-deps", "--require-hashes"} - set(words)
                if lacking:
                    raise Wrong(f"a lock is installed with {', '.join(sorted(lacking))}, or pip resolves it again")
            return "lock"
    return "environment"
