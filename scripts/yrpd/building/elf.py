"""What shared objects want of each other, and one edit of it. Knows ELF, and nothing of the project.

Source: the GNU symbol versioning layout in the LSB (Verneed, Vernaux).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from elftools.elf.elffile import ELFFile

_WEAK = 0x2  # VER_FLG_WEAK
_FLAGS = 4  # vna_flags comes after vna_hash, 4 bytes


@dataclass(frozen=True)
class Wanted:
    """A symbol that a shared object wants from others.

    Attributes:
        name: The symbol.
        library: The library that its version belongs to; empty when it has no version.
        version: The version node; empty when it has none.
    """

    name: str
    library: str
    version: str


def _open(data: bytes) -> Any:
    reader: Any = ELFFile  # the library has no types
    return reader(io.BytesIO(data))


def needed(data: bytes) -> list[str]:
    """Return the libraries that a shared object names as DT_NEEDED."""
    dynamic = _open(data).get_section_by_name(".dynamic")
    if dynamic is None:
        return []
    return [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")]


def _version_needs(data: bytes) -> Iterator[tuple[str, str, int, int]]:
    """Yield library, version node, flags and the place of the flags in the file, of every node that is wanted."""
    section = _open(data).get_section_by_name(".gnu.version_r")
    need_at = int(section["sh_offset"]) if section is not None else 0
    for need, auxiliaries in section.iter_versions() if section is not None else ():
        at = need_at + need["vn_aux"]
        for auxiliary in auxiliaries:
            yield need.name, auxiliary.name, auxiliary["vna_flags"], at + _FLAGS
            at += auxiliary["vna_next"]
        need_at += need["vn_next"]


def strong_version_needs(data: bytes) -> set[tuple[str, str]]:
    """Return library and version node of what a shared object does not load without."""
    return {(library, version) for library, version, flags, _ in _version_needs(data) if not flags & _WEAK}


def weaken_version_need(data: bytes, library: str, version: str) -> bytes:
    """Return the object with one wanted version node made weak: the loader passes over it when the library lacks it.

    Args:
        data: A little-endian shared object.
        library: The library that the version belongs to, such as ``libstdc++.so.6``.
        version: The node, such as ``GLIBCXX_3.4.32``.

    Raises:
        ValueError: There is no such node.
    """
    for *wanted, flags, at in _version_needs(data):
        if wanted == [library, version]:
            edited = bytearray(data)
            struct.pack_into("<H", edited, at, flags | _WEAK)
            return bytes(edited)
    raise ValueError(f"the object does not want {version} of {library}")


def wanted_symbols(data: bytes) -> list[Wanted]:
    """Return the undefined dynamic symbols of a shared object, with their versions."""
    file = _open(data)
    symbols = file.get_section_by_name(".dynsym")
    versions = file.get_section_by_name(".gnu.version")
    needs = file.get_section_by_name(".gnu.version_r")
    if symbols is None:
        return []
    nodes: dict[int, tuple[str, str]] = {}
    if needs is not None:
        for need, auxiliaries in needs.iter_versions():
            nodes.update({aux["vna_other"]: (need.name, aux.name) for aux in auxiliaries})
    wanted = []
    for index, symbol in enumerate(symbols.iter_symbols()):
        if symbol["st_shndx"] != "SHN_UNDEF" or not symbol.name:
            continue
        node = ("", "")
        if versions is not None:
            number = versions.get_symbol(index)["ndx"]
            node = nodes.get(number, node) if isinstance(number, int) else node
        wanted.append(Wanted(symbol.name, *node))
    return wanted
