"""The release folder: its file names, its checksums, and how it appears on disk whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from yrpd.errors import ImageError

MANIFEST = "manifest.json"
SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.intoto.json"
NOTES = "RELEASE_NOTES.md"
TREE = "tree.txt"
PATCHES = "patches"
TARBALL = "image.tar.zst"
STANDALONE = "deploy.pyz"
CHECKSUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"

CHUNK = 1 << 20


@dataclass(frozen=True)
class ReleaseFolder:
    """One release on disk.

    Attributes:
        path: The folder, named like the release.
    """

    path: Path

    @property
    def name(self) -> str:
        """The release's name."""
        return self.path.resolve().name

    def require_unsigned(self) -> None:
        """Prove that the release may still be added to: its signature is over checksums that would change.

        Raises:
            ImageError: It is signed.
        """
        signature = self.path / SIGNATURE
        if signature.exists():
            raise ImageError(
                f"{self.name} is signed, so nothing is added to it: what is added changes {CHECKSUMS}.",
                next_command=f"rm {signature}   (then the same command, and sign {CHECKSUMS} again)",
            )

    @property
    def tarball(self) -> Path:
        """The image, once it was saved."""
        return self.path / TARBALL

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            ImageError: It is not there.
        """
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            message = f"{self.path} is not a whole release folder: {name}: {error.strerror}."
            raise ImageError(message, next_command="invoke image") from error


def release_name(reference: str, made_from: str) -> str:
    """Return the name of an image's release: another content is another name.

    Args:
        reference: The image's name and tag.
        made_from: sha256 over all that decides the release's bytes.

    >>> release_name("vllm-ascend-yuanrong:0.10.0rc1-yuanrong.1-cpu-0dc659137560", "5f70bf18a086")
    'vllm-ascend-yuanrong-0.10.0rc1-yuanrong.1-cpu-0dc659137560-5f70bf18'
    """
    return f"{reference.replace('/', '-').replace(':', '-')}-{made_from[:8]}"


def render_checksums(hashes: Mapping[str, str]) -> str:
    """Return ``SHA256SUMS`` as ``sha256sum --check`` reads it."""
    return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))


def parse_checksums(text: str) -> dict[str, str]:
    """Return file name to sha256; the inverse of `render_checksums`."""
    rows = (line.partition("  ") for line in text.splitlines() if line)
    return {name: digest for digest, _, name in rows}


def listed_files(folder: Path) -> list[str]:
    """Return the files that checksums are for: all but the checksums, their signature and unfinished ones."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if name not in (CHECKSUMS, SIGNATURE) and not Path(name).name.startswith("."))


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one step, readable by everyone whatever the umask is."""
    with replacing(path) as scratch:
        scratch.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; it gets its real name only when the block ends without an error.

    Raises:
        ImageError: The disk is full, or the folder may not be written to; nothing is left of it.
    """
    scratch: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        scratch = Path(name)
        yield scratch
        scratch.chmod(0o644)
        scratch.replace(path)
    except OSError as error:
        # Network errors of requests are OSErrors too; those without a number are not the disk's.
        if error.errno is None:
            raise
        message = f"{path} could not be written: {error.strerror}."
        raise ImageError(message, next_command=f"df -h {path.parent}") from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder with these files and their checksums; it gets its name when all of it is there.

    Args:
        folder: The release folder.
        files: Content by name relative to it.

    Raises:
        ImageError: Something has its name already, which stays as it is; the disk is full, or may not be written to.
    """
    scratch: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        made = scratch / "new"
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        for name, data in {**files, CHECKSUMS: render_checksums(hashes).encode()}.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for path in (made, *made.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        # A folder with something in it is never replaced by this, also not one that somebody made meanwhile.
        made.replace(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise ImageError(
                f"{folder} is there already, and a release is never replaced.",
                next_command=f"ls -l {folder}   (the same command again keeps it, if it is the same)",
            ) from error
        message = f"{folder} could not be written: {error.strerror}."
        raise ImageError(message, next_command=f"df -h {folder.parent}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def update_folder(folder: Path, files: Mapping[str, bytes], known: Mapping[str, str]) -> None:
    """Replace files of a release folder one by one, the checksums last.

    Args:
        folder: The release folder.
        files: New content by name.
        known: sha256 of large files that are hashed already.

    Raises:
        ImageError: The release is signed, or the disk is full.
    """
    ReleaseFolder(folder).require_unsigned()
    hashes = {**parse_checksums((folder / CHECKSUMS).read_text(encoding="utf-8")), **known}
    for name, data in files.items():
        write_file(folder / name, data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    write_file(folder / CHECKSUMS, render_checksums(hashes).encode())
