"""What the files of a series say about each other: nothing but the files is needed, no source and no work tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yrpd.documents.series import LOCK, SERIES, Lock, Series, begin, load_lock, mismatches, parse_series
from yrpd.errors import ConfigurationError
from yrpd.git import mail
from yrpd.git.repository import Repository
from yrpd.patching import generate
from yrpd.project import Project
from yrpd.release import Pin

TRAILERS = ("Why", "Upstream", "Removal")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        id: Stable name of the kind of finding.
        file: Path from the project's root.
        line: Line in that file, from 1; 0 when it is about the whole file.
        message: One clause.
        next_command: What to type next.
    """

    id: str
    file: str
    line: int
    message: str
    next_command: str = "invoke patch.export"

    @property
    def where(self) -> str:
        """File and line, as editors take it."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def document(self) -> dict[str, Any]:
        """Return the finding for ``--json``."""
        return {"id": self.id, "file": self.file, "line": self.line, "message": self.message, "next": self.next_command}


def find(project: Project, name: str, pin: Pin) -> tuple[Series | None, Lock | None, list[Finding]]:
    """Hold the files of a series against the rules.

    Returns:
        The series' usable part, ``None`` without a series file; its lock, ``None`` when it cannot be read; and what is
        wrong.
    """
    folder = project.patches(name)
    if not folder.is_dir():
        told = "there is no series for this pin"
        return None, None, [Finding("series", shown(project, folder), 0, told, begin(folder))]
    series, findings = listing(project, folder)
    lock = None
    if series is not None:
        try:
            lock = load_lock(folder)
            findings += [
                Finding(one.kind, shown(project, folder / one.file), 0, one.told, one.next_command)
                for one in mismatches(series, lock, name, pin)
            ]
        except ConfigurationError as error:
            where = shown(project, folder / LOCK)
            findings.append(Finding("lock", where, 0, error.message.rstrip("."), error.next_command))
        for file in series.names:
            findings += message_findings(project, series, file)
        findings += style_findings(project, series)
    return series, lock, findings


def style_findings(project: Project, series: Series) -> Iterator[Finding]:
    """Yield whitespace errors that patches add, and patches that reach into the generated package."""
    generated = generate.generated_name(project)
    if generated in series.names[1:]:
        where = shown(project, series.folder / SERIES)
        yield Finding("generated", where, 0, f"{generated} is generated and must be the first patch")
    for file in series.names:
        where = shown(project, series.path(file))
        for line, what in Repository(series.folder).added_whitespace_errors(series.path(file)):
            yield Finding("whitespace", where, line, what)
        for change in mail.parse_changes(series.read(file)) if file != generated else ():
            if change.path.startswith(f"{generate.DESTINATION}/"):
                told = f"{change.path} belongs to the generated patch; change connector_src/yuanrong instead"
                yield Finding("generated", where, change.line, told)


def connector_drift(project: Project, series: Series) -> list[tuple[str, str]]:
    """Return how ``connector_src`` differs from what the generated patch adds, by blob ids alone.

    Returns:
        The file from the project's root, and what differs; of every file that does.
    """
    generated = generate.generated_name(project)
    if generated not in series.names:
        return [(f"patches/{series.folder.name}/{SERIES}", f"the series does not list {generated}")]
    declared = {change.path: change.new for change in mail.parse_changes(series.read(generated))}
    actual = {file.path: file for file in generate.connector_files(project.connector_source)}
    found = []
    for path in sorted(declared.keys() | actual.keys()):
        relative = path.removeprefix(f"{generate.DESTINATION}/")
        file = f"connector_src/yuanrong/{relative}"
        if path not in actual:
            found.append((file, f"{file} is gone, and {generated} still adds it"))
        elif path not in declared:
            found.append((file, f"{file} is new, and {generated} does not add it"))
        elif actual[path].blob != declared[path]:
            found.append((file, f"{file} changed since {generated} was generated"))
    return found


def listing(project: Project, folder: Path) -> tuple[Series | None, list[Finding]]:
    """Return the usable part of a series and how its file disagrees with its folder."""
    where = shown(project, folder / SERIES)
    restore = f"git checkout -- {shown(project, folder)}"
    if not (folder / SERIES).is_file():
        return None, [Finding("series", where, 0, "the file does not exist", "invoke patch.export")]
    text = (folder / SERIES).read_text(encoding="utf-8", errors="replace")
    names, comments = parse_series(text)
    lines = {line.strip(): number for number, line in enumerate(text.splitlines(), start=1)}
    findings = []
    for name, count in Counter(names).items():
        if count > 1:
            findings.append(Finding("listed-twice", where, lines[name], f"{name} is listed {count} times", restore))
    usable = []
    for name in dict.fromkeys(names):
        if Path(name).name != name or not name.endswith(".patch"):
            findings.append(Finding("series", where, lines[name], f"{name!r} is no patch of this folder", restore))
        elif not (folder / name).is_file():
            findings.append(Finding("missing", where, lines[name], f"{name} is listed and not there", restore))
        else:
            usable.append(name)
    for path in sorted(folder.iterdir()):
        if path.name not in (SERIES, LOCK, *names) and not path.name.startswith("."):
            told = "a file that the series does not list"
            findings.append(Finding("unlisted", shown(project, path), 0, told, f"rm {shown(project, path)}"))
    return Series(folder, tuple(usable), comments), findings


def message_findings(project: Project, series: Series, file: str) -> Iterator[Finding]:
    """Yield what is wrong with one patch's form and message."""
    where = shown(project, series.path(file))
    content = series.read(file)
    if mail.count_mails(content) != 1:
        yield Finding("format", where, 1, f"expected one patch in the file, found {mail.count_mails(content)}")
        return
    message = mail.parse_message(content)
    missing = [key for key in TRAILERS if not message.trailers.get(key)]
    amend = "git commit --amend   (in the work tree, then invoke patch.export)"
    if missing:
        told = f"the message lacks {', '.join(f'{key}:' for key in missing)}"
        yield Finding("trailers", where, message.body_line, told, amend)
    for offset, line in mail.message_cuts(message.body):
        told = f"git am would drop the message from the line {line!r} on"
        yield Finding("message-cut", where, message.body_line + offset, told, amend)
    if not mail.parse_changes(content):
        yield Finding("empty", where, 0, "the patch changes nothing", amend)


def shown(project: Project, path: Path) -> str:
    """Return a path from the project's root."""
    return path.relative_to(project.root).as_posix()
