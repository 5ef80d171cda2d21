"""A real sshd on loopback that leads to a Docker engine of this machine, as ``ssh://`` engines are reached."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

SSHD = "/usr/sbin/sshd"


@dataclass(frozen=True)
class Ssh:
    """A running sshd of one test alone, and the folder of the user's keys."""

    engine: str
    home: Path


def make_key(folder: Path, name: str) -> Path:
    """Make a key pair; return the private one."""
    line = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
    subprocess.run(line, check=True)
    return folder / name


@contextmanager
def sshd(folder: Path, home: Path, engine: str, port: int) -> Iterator[Ssh]:
    """Run an sshd that lets one key in; the user's key and the known host are in a home of the test's own.

    Args:
        folder: Gets the server's files.
        home: The client's ``HOME``; several servers may share it.
        engine: Where the Docker engine behind it answers.
        port: Its port on loopback.
    """
    keys = home / ".ssh"
    keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True)
    host_key = make_key(folder, "host")
    user_key = keys / "id_ed25519"
    if not user_key.exists():
        make_key(keys, user_key.name)
    authorized = folder / "authorized_keys"
    shutil.copy(user_key.with_suffix(".pub"), authorized)
    configuration = folder / "sshd_config"
    configuration.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nAuthorizedKeysFile {authorized}\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"SetEnv DOCKER_HOST={engine}\n",
        encoding="utf-8",
    )
    public = host_key.with_suffix(".pub").read_text(encoding="utf-8")
    with (keys / "known_hosts").open("a", encoding="utf-8") as known:
        known.write(f"[127.0.0.1]:{port} {public}")
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(configuration)], stdout=log, stderr=log)
    try:
        wait_for_port(port, server)
        yield Ssh(f"ssh://{getpass.getuser()}@127.0.0.1:{port}", keys)
    finally:
        server.terminate()
        server.wait(30)


@retry(retry=retry_if_exception_type(OSError), stop=stop_after_delay(60), wait=wait_fixed(0.1), reraise=True)
def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server listens on loopback."""
    assert server.poll() is None, "the server has ended"
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
