"""Makes the key files of ``[datasystem.encryption]``: ``python3 -m yrpd.serving.curve_keys FOLDER``, in the image.

The names are those that the DataSystem's worker (0.8.1) opens in its ``curve_key_dir``: ``worker.key``,
``worker.key_secret``, and ``worker_authorized_clients/``, a public key for each client that it lets in. Workers are
each other's clients, so their own key is among them, and all hosts get the same folder. Keys are ZeroMQ's Z85 texts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

WORKER, CLIENT = "worker", "client"
ADMITTED = "worker_authorized_clients"
_OWNER_READS = 0o600


def make(folder: Path) -> None:
    """Write the worker's and the clients' key pairs.

    Raises:
        FileExistsError: There are keys; they are kept.
    """
    import zmq  # type: ignore[import-not-found]  # in vLLM's environment

    (folder / ADMITTED).mkdir(parents=True)
    for name in (WORKER, CLIENT):
        public, secret = zmq.curve_keypair()
        (folder / f"{name}.key").write_bytes(public)
        (folder / ADMITTED / f"{name}.key").write_bytes(public)
        handle = os.open(folder / f"{name}.key_secret", os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_READS)
        with os.fdopen(handle, "wb") as stream:
            stream.write(secret)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the files in the folder that is named."""
    (folder,) = sys.argv[1:] if arguments is None else arguments
    make(Path(folder))


if __name__ == "__main__":
    main()
