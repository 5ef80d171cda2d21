"""What a host looks like from inside a container of the image. Runs there by its text alone: imports nothing of ours.

``python3 -c TEXT '{"look": {...}}'`` prints one JSON report, ``read`` what files hold; ``listen`` and ``dial`` try the
ways between hosts.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time

SAMPLE = 1 << 20  # of large files, the beginning and the end are hashed, and pieces at equal distances between them
PIECES, PIECE = 256, 4096
# What no engine loads: a change of it is no other model. Names that begin with a dot (``.git``, ``.cache``) neither.
NO_MODEL_FOLDERS = ("__pycache__", "cache", "logs")
NO_MODEL_FILES = (".lock", ".log", ".md", ".pyc", ".tmp")
PATIENCE_S = 20.0
CONNECT_S = 3.0
LISTENING_S = 600


def look(asked: dict[str, object]) -> dict[str, object]:
    """Return clock, disk, memory, ports that cannot be bound, the model's files, and what the NPU network says."""
    folder, address = str(asked["folder"]), str(asked["address"])
    ports = [int(str(port)) for port in asked["ports"]]  # type: ignore[attr-defined]
    npus = {str(inside): str(number) for inside, number in asked["npus"].items()}  # type: ignore[attr-defined]
    return {
        "time": time.time(),
        "disk_free": shutil.disk_usage("/").free,
        "spill_free": shutil.disk_usage(str(asked["spill"])).free if asked["spill"] else None,
        "memory_available": memory_available(),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "busy_ports": {str(port): problem for port in ports if (problem := why_not(address, port))},
        "files": files(folder),
        "index": text_of(os.path.join(folder, "model.safetensors.index.json")),
        "nodes": {str(path): node(str(path)) for path in asked["nodes"]},  # type: ignore[attr-defined]
        "hccn": text_of("/etc/hccn.conf"),
        "hccn_tool": {number: hccn_tool(inside, "ip", r"ipaddr:\s*(\S+)") for inside, number in npus.items()},
        "links": {
            number: {
                "link": hccn_tool(inside, "link", r"link status:\s*(\S+)"),
                "tls": hccn_tool(inside, "tls", r"tls switch\[(\d)\]"),
            }
            for inside, number in npus.items()
        },
        "npu_smi": said(["npu-smi", "info"]) if npus else None,
        "plugin": plugin(str(asked["plugin"])) if asked["plugin"] else "",
        "hccl_busy": [port for port in asked["hccl_ports"] if why_not(address, int(str(port)))],  # type: ignore[attr-defined]
    }


def memory_available() -> int:
    """Return the bytes that can be had without swapping."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def why_not(address: str, port: int) -> str:
    """Return why a port cannot be listened on; empty when it can."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((address, port))
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
    return ""


def read(asked: dict[str, object]) -> dict[str, object]:
    """Return the files of each folder, or the file itself, that is asked for."""
    return {str(path): files(str(path)) for path in asked["paths"]}  # type: ignore[attr-defined]


def files(folder: str) -> dict[str, list[object]]:
    """Return every file of the model: path to size and digest; large files are sampled.

    What cannot be read has no bytes and its reason in place of the digest: a link whose target is gone, or a folder
    (NFS, SELinux). Folders that links lead to are entered, once each.
    """
    found: dict[str, list[object]] = {}
    entered = set()

    def unreadable(failure: OSError) -> None:
        found[os.path.relpath(failure.filename, folder)] = [0, os.strerror(failure.errno or 0)]

    if os.path.isfile(folder):
        return {"": list(size_and_digest(folder))}
    for root, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        place = os.path.realpath(root)
        if place in entered:
            folders.clear()
            continue
        entered.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NO_MODEL_FOLDERS)
        for name in sorted(names):
            path = os.path.join(root, name)
            if name.startswith(".") or name.endswith(NO_MODEL_FILES):
                continue
            try:
                if stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for whoever writes
                    found[os.path.relpath(path, folder)] = list(size_and_digest(path))
            except OSError as failure:
                found[os.path.relpath(path, folder)] = [0, os.strerror(failure.errno or 0)]
    return found


def size_and_digest(path: str) -> tuple[int, str]:
    """Return a file's bytes, and the sha256 of all or of samples."""
    size = os.path.getsize(path)
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        if size <= 4 * SAMPLE:
            digest.update(stream.read())
        else:
            digest.update(stream.read(SAMPLE))
            for offset in range(SAMPLE, size - SAMPLE, max(PIECE, size // PIECES)):
                stream.seek(offset)
                digest.update(stream.read(PIECE))
            stream.seek(-SAMPLE, os.SEEK_END)
            digest.update(stream.read(SAMPLE))
    return size, digest.hexdigest()


def text_of(path: str) -> str | None:
    """Return a file's content; ``None`` when there is no such file."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, ValueError):
        return None


def node(path: str) -> dict[str, object]:
    """Return whether a device node can be opened as its driver's library would, and whose it is."""
    try:
        why = ""
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as failure:
        why = errno.errorcode.get(failure.errno or 0, str(failure))
    status = os.stat(path)
    return {"why": why, "gid": status.st_gid, "mode": stat.S_IMODE(status.st_mode)}


def hccn_tool(number: str, what: str, pattern: str) -> str | None:
    """Return what an NPU of this container says of its network; ``None`` when it cannot be asked."""
    tool = shutil.which("hccn_tool") or "/usr/local/Ascend/driver/tools/hccn_tool"
    match = re.search(pattern, said([tool, "-i", number, f"-{what}", "-g"]) or "")
    return match.group(1) if match else None


def said(command: list[str], **environment: str) -> str | None:
    """Return what a program prints, errors too; ``None`` when it cannot be run."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env={**os.environ, **environment},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


def plugin(path: str) -> str:
    """Return why a shared object of the image does not load, in a process of its own; empty when it does."""
    if not os.path.exists(path):
        return f"{path} is not in the image"
    folders = os.path.dirname(path) + ":" + os.environ.get("LD_LIBRARY_PATH", "")
    text = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print('loaded')"
    lines = (said([sys.executable, "-c", text, path], LD_LIBRARY_PATH=folders) or "no answer").strip().splitlines()
    return "" if lines[-1] == "loaded" else lines[-1]


def listen(asked: dict[str, object]) -> dict[str, object]:
    """Take connections on all ports until this process is ended."""
    servers = [socket.create_server((str(asked["address"]), int(str(port)))) for port in asked["ports"]]  # type: ignore[attr-defined]
    for server in servers:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
    print("listening", flush=True)
    time.sleep(LISTENING_S)
    return {}


def serve(server: socket.socket) -> None:
    """Take every connection, and end it."""
    while True:
        server.accept()[0].close()


def dial(asked: dict[str, object]) -> dict[str, object]:
    """Return which addresses cannot be reached, and why."""
    unreachable = []
    for address, port in asked["targets"]:  # type: ignore[attr-defined]
        try:
            socket.create_connection((address, port), timeout=CONNECT_S).close()
        except OSError as failure:
            unreachable.append([address, port, str(failure)])
    return {"unreachable": unreachable}


if __name__ == "__main__":
    ((what, given),) = json.loads(sys.argv[1]).items()
    try:
        print(json.dumps({"look": look, "read": read, "listen": listen, "dial": dial}[what](given)), flush=True)
    except OSError as failure:
        sys.exit(str(failure))
