"""A signature over the checksums with cosign, where cosign and a key are given; all of it works without a network."""

from __future__ import annotations

import os
import shutil
import subprocess

from yrpd.documents.release_folder import CHECKSUMS, SIGNATURE, ReleaseFolder, replacing
from yrpd.errors import ImageError
from yrpd.releasing.verifying import Link
from yrpd.reporting import Reporter

PROGRAM = "cosign"
SIGNING_KEY = "YRPD_COSIGN_KEY"
PUBLIC_KEY = "YRPD_COSIGN_PUBLIC_KEY"


def sign(folder: ReleaseFolder, reporter: Reporter) -> bool:
    """Sign the checksums with the key that ``YRPD_COSIGN_KEY`` names; without it nothing is signed.

    Returns:
        Whether a signature was written.

    Raises:
        ImageError: A key is given, and cosign is missing or refused.
    """
    key = os.environ.get(SIGNING_KEY)
    if not key:
        return False
    with reporter.step(f"sign {CHECKSUMS}"), replacing(folder.path / SIGNATURE) as scratch:
        _run(folder, "sign-blob", "--yes", "--tlog-upload=false", "--key", key, "--output-signature", str(scratch))
    return True


def require_signable(folder: ReleaseFolder) -> None:
    """Prove that a release can be signed again once something was added to it; one without a signature always can.

    Raises:
        ImageError: It is signed, and there is no key, or no cosign.
    """
    if (folder.path / SIGNATURE).exists() and not (os.environ.get(SIGNING_KEY) and shutil.which(PROGRAM)):
        raise ImageError(
            f"{folder.name} is signed: what is added changes {CHECKSUMS}, which needs {PROGRAM} and its key again.",
            next_command=f"export {SIGNING_KEY}=FILE   (with {PROGRAM} on PATH), then the same command",
        )


def verify(folder: ReleaseFolder) -> list[Link]:
    """Hold the signature against the key that ``YRPD_COSIGN_PUBLIC_KEY`` names; no key, no link."""
    key = os.environ.get(PUBLIC_KEY)
    if not key:
        return []
    signature = str(folder.path / SIGNATURE)
    if not (folder.path / SIGNATURE).exists():
        return [Link("signature", False, f"there is no {SIGNATURE}")]
    try:
        _run(folder, "verify-blob", "--insecure-ignore-tlog", "--key", key, "--signature", signature)
    except ImageError as error:
        return [Link("signature", False, error.message)]
    return [Link("signature", True, f"{CHECKSUMS} is signed with {os.path.basename(key)}'s key")]


def _run(folder: ReleaseFolder, *options: str) -> None:
    program = shutil.which(PROGRAM)
    if program is None:
        raise ImageError(f"A key is given, and {PROGRAM} is not installed.", next_command=f"unset {SIGNING_KEY}")
    done = subprocess.run([program, *options, str(folder.path / CHECKSUMS)], capture_output=True, text=True)
    if done.returncode:
        raise ImageError(
            f"{PROGRAM} {options[0]} failed: {done.stderr.strip()[-300:]}.", next_command=f"{PROGRAM} version"
        )
