"""Environments as files of a layer: what a wheel says, in the places where Python looks, compiled, and reproducible."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from yrpd.building.context import Context
from yrpd.building.environment import add_environment
from yrpd.errors import BuildError
from yrpd.project import Project, hash_file
from yrpd.wheels.wheelfile import pure_metadata, record_row, write_wheel
from yrpd.wheels.wheelhouse import Wheel

PREFIX = "/opt/some"
PACKAGES = "opt/some/lib/python3.11/site-packages"
NAMES = ", ".join(repr(f"name{number}") for number in range(20))
MODULE = f"import os\nKNOWN = {{{NAMES}}}\ndef known(name):\n    return name in {{{NAMES}}}\n".encode()
ENTRY_POINTS = b"[console_scripts]\nsome-tool = some.tool:main\n"


def _wheel(folder: Path, **more: bytes) -> Wheel:
    files = {
        **pure_metadata("some", "1.0", "A wheel", "py3-none-any"),
        "some-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
        "some/__init__.py": b"",
        "some/tool.py": MODULE,
        "some/broken.py": b"print 'of another age'\n",
        "some/library.so": b"\x7fELF",
        "some-1.0.data/scripts/plain": b"#!python\nprint(1)\n",
        "some-1.0.data/data/share/some.txt": b"text",
        **more,
    }
    path = folder / "some-1.0-py3-none-any.whl"
    write_wheel(path, files, executable=frozenset({"some/library.so"}))
    return Wheel("some", "1.0", hash_file(path), path)


def _layer(folder: Path, wheel: Wheel) -> bytes:
    context = Context()
    with ExitStack() as opened:
        add_environment(context, PREFIX, [wheel], Project(folder), opened)
        layer = b"".join(context.chunks())
        assert context.size == len(layer)
    return layer


@pytest.fixture
def files(tmp_path: Path) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(_layer(tmp_path, _wheel(tmp_path)))) as tar:
        return {
            info.name: (info, (tar.extractfile(info) or io.BytesIO()).read() if info.isfile() else b"") for info in tar
        }


def test_files_are_where_python_looks_for_them(files: dict[str, tuple[tarfile.TarInfo, bytes]]) -> None:
    assert files[f"{PACKAGES}/some/tool.py"][1] == MODULE
    assert files["opt/some/share/some.txt"][1] == b"text"
    assert files[f"{PACKAGES}/some/library.so"][0].mode == 0o755
    assert files[f"{PACKAGES}/some/tool.py"][0].mode == 0o644
    assert files["opt/some/bin/python"][0].linkname == "/usr/bin/python3"
    assert b"home = /usr/bin\n" in files["opt/some/pyvenv.cfg"][1]
    assert all((info.mtime, info.uid, info.gid) == (0, 0, 0) for info, _ in files.values())


def test_scripts_start_the_environments_own_python(files: dict[str, tuple[tarfile.TarInfo, bytes]]) -> None:
    for name in ("some-tool", "plain"):
        info, text = files[f"opt/some/bin/{name}"]
        assert info.mode == 0o755
        assert text.startswith(b"#!/opt/some/bin/python3\n")
    assert b"from some.tool import main" in files["opt/some/bin/some-tool"][1]


def test_the_record_names_every_file_as_it_is(files: dict[str, tuple[tarfile.TarInfo, bytes]]) -> None:
    record = files[f"{PACKAGES}/some-1.0.dist-info/RECORD"][1].decode()
    rows = {row[0]: row for row in csv.reader(record.splitlines())}
    assert rows.keys() >= {"some/tool.py", "../../../bin/some-tool", "../../../bin/plain", "../../../share/some.txt"}
    for path, digest, size in rows.values():
        if digest:
            data = files[os.path.normpath(f"{PACKAGES}/{path}")][1]
            assert record_row(path, data) == (path, digest, size)


def test_modules_are_compiled_and_python_takes_them_without_looking_at_the_source(
    files: dict[str, tuple[tarfile.TarInfo, bytes]], tmp_path: Path
) -> None:
    compiled = {name: data for name, (_, data) in files.items() if name.endswith(".pyc")}
    assert {Path(name).name for name in compiled} == {"__init__.cpython-311.pyc", "tool.cpython-311.pyc"}
    target = tmp_path / "run"
    for name, (info, data) in files.items():
        if info.isfile() and "site-packages/some/" in name:
            path = target / name.removeprefix(f"{PACKAGES}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"raise SystemExit('compiled anew')" if name.endswith("tool.py") else data)
    script = "import some.tool as t; print(t.known('name3'), t.known.__code__.co_filename)"
    done = subprocess.run([sys.executable, "-c", script], cwd=target, capture_output=True, text=True, check=True)
    # Python itself puts the place that it was loaded from into the code.
    assert done.stdout == f"True {target}/some/tool.py\n"
    assert f"/{PACKAGES}/some/tool.py".encode() in compiled[f"{PACKAGES}/some/__pycache__/tool.cpython-311.pyc"]


def test_what_was_compiled_before_is_kept_and_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path)
    first = _layer(tmp_path, wheel)
    (kept,) = (Project(tmp_path).cache / "made").glob("*/*.pyc.zip")
    before = kept.stat().st_ino
    assert _layer(tmp_path, wheel) == first
    assert kept.stat().st_ino == before
    kept.write_bytes(kept.read_bytes()[:-100])
    assert _layer(tmp_path, wheel) == first


def test_compiled_files_that_a_wheel_brings_are_left_out(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path, **{"some/__pycache__/old": b"x"})
    with tarfile.open(fileobj=io.BytesIO(_layer(tmp_path, wheel))) as tar:
        assert not [name for name in tar.getnames() if name.endswith("old")]


def test_a_file_that_is_no_wheel_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "other-2.0-py3-none-any.whl"
    path.write_bytes(_wheel(tmp_path).path.read_bytes())
    with pytest.raises(BuildError, match=r"other-2\.0-py3-none-any\.whl cannot be installed"):
        _layer(tmp_path, Wheel("other", "2.0", hash_file(path), path))
