"""Small edits of ELF shared objects. Knows ELF, and nothing of the project.

Sources: System V gABI (hash function), the GNU symbol versioning layout in the LSB (Verneed, Vernaux).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

from elftools.elf.elffile import ELFFile

_VERNEED = struct.Struct("<HHIII")  # vn_version vn_cnt vn_file vn_aux vn_next
_VERNAUX = struct.Struct("<IHHII")  # vna_hash vna_flags vna_other vna_name vna_next


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


def sysv_hash(name: bytes) -> int:
    """Return the System V ABI hash of a name, 32 bits (gABI, "Hash Table")."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value ^= high >> 24
        value &= ~high & 0xFFFFFFFF
    return value


def _open(data: bytes) -> Any:
    reader: Any = ELFFile  # the library has no types
    return reader(io.BytesIO(data))


def needed(data: bytes) -> list[str]:
    """Return the libraries that a shared object names as DT_NEEDED."""
    dynamic = _open(data).get_section_by_name(".dynamic")
    if dynamic is None:
        return []
    return [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")]


def version_needs(data: bytes) -> dict[str, set[str]]:
    """Return the version nodes that a shared object wants, by library."""
    section = _open(data).get_section_by_name(".gnu.version_r")
    if section is None:
        return {}
    return {need.name: {aux.name for aux in auxiliaries} for need, auxiliaries in section.iter_versions()}


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


def rename_version_need(data: bytes, library: str, old: str, new: str) -> bytes:
    """Return the object with one wanted version node renamed, in place.

    The string must have the same length, since the string table is not moved: edit before any tool that moves it.
    Both the string and the node's hash are rewritten; the dynamic loader compares the hash first.

    Args:
        data: A little-endian 64-bit shared object.
        library: The library that the version belongs to, such as ``libstdc++.so.6``.
        old: The node to replace, such as ``GLIBCXX_3.4.32``.
        new: A node of the same length.

    Raises:
        ValueError: There is no such node, or the lengths differ.
    """
    if len(old) != len(new):
        raise ValueError(f"{old} and {new} differ in length")
    file = _open(data)
    section = file.get_section_by_name(".gnu.version_r")
    if section is None:
        raise ValueError("the object wants no versions")
    strings = int(file.get_section(section["sh_link"])["sh_offset"])
    edited = bytearray(data)
    offset = int(section["sh_offset"])
    while True:
        _, count, file_name, first, following = _VERNEED.unpack_from(data, offset)
        if _string(data, strings + file_name) == library.encode():
            auxiliary = offset + first
            for _ in range(count):
                _, flags, other, name, next_auxiliary = _VERNAUX.unpack_from(data, auxiliary)
                if _string(data, strings + name) == old.encode():
                    _VERNAUX.pack_into(edited, auxiliary, sysv_hash(new.encode()), flags, other, name, next_auxiliary)
                    edited[strings + name : strings + name + len(new)] = new.encode()
                    return bytes(edited)
                auxiliary += next_auxiliary
        if not following:
            raise ValueError(f"the object does not want {old} of {library}")
        offset += following


def _string(data: bytes, offset: int) -> bytes:
    return data[offset : data.index(b"\0", offset)]
