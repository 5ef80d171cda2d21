"""Stand-ins: each symbol goes to the library that torch expects it from."""

from __future__ import annotations

from yrpd.building.cuda_stubs import assign, stub_source, version_script
from yrpd.building.elf import Wanted

LIBRARIES = ["libcublas.so.12", "libcublasLt.so.12", "libcusparseLt.so.0", "libcudart.so.12", "libc.so.6"]


def test_a_versioned_symbol_names_its_library_and_another_goes_by_the_longest_name() -> None:
    wanted = [
        Wanted("cublasCreate_v2", "libcublas.so.12", "libcublas.so.12"),
        Wanted("cublasLtCreate", "", ""),
        Wanted("cusparseLtInit", "", ""),
        Wanted("cudaMalloc", "libcudart.so.12", "libcudart.so.12"),
        Wanted("malloc", "libc.so.6", "GLIBC_2.2.5"),
    ]
    assert assign(LIBRARIES, wanted) == {
        "libcublas.so.12": {"cublasCreate_v2": "libcublas.so.12"},
        "libcublasLt.so.12": {"cublasLtCreate": ""},
        "libcusparseLt.so.0": {"cusparseLtInit": ""},
    }


def test_the_functions_of_cufile_are_found_by_their_name_in_another_case() -> None:
    assert assign(["libcufile.so.0"], [Wanted("cuFileRead", "", "")]) == {"libcufile.so.0": {"cuFileRead": ""}}


def test_a_library_that_nothing_is_wanted_from_still_gets_a_file() -> None:
    assert assign(["libcurand.so.10"], []) == {"libcurand.so.10": {}}
    assert stub_source({}) == "int yrpd_empty;\n"


def test_every_function_of_a_stand_in_reports_failure() -> None:
    assert stub_source({"b": "", "a": ""}) == "int a(void) { return 1; }\nint b(void) { return 1; }\n"


def test_versions_are_nodes_of_the_linker_script() -> None:
    assert version_script({"b": "V1", "a": "V1", "c": "", "d": "V2"}) == ("V1 { global: a; b; };\nV2 { global: d; };\n")
