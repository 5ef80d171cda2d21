"""quickstart.sh's look at the machine, with limits that this machine keeps or breaks."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("bash", "dirname", "id", "uname", "df", "du", "awk", "tail", "tr", "cat", "unshare", "true")


def this_system() -> str:
    release = platform.freedesktop_os_release()
    return f"{release['ID']}-{release.get('VERSION_ID', 'unknown')}"


def check(*options: str, path: str = os.environ["PATH"], user: int | None = None) -> subprocess.CompletedProcess[str]:
    kept = ("--disk-gb", "0", "--memory-gib", "0", "--system", this_system(), "--machine", platform.machine())
    return subprocess.run(
        ["bash", "scripts/check_machine.sh", *kept, *options],
        cwd=ROOT,
        env={"PATH": path},
        user=user,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_machine_that_has_everything_passes_without_a_word() -> None:
    found = check()
    lacking = [line for line in found.stderr.splitlines() if line.startswith("error: ") and "only root" not in line]
    assert (found.stdout, lacking) == ("", [])
    assert found.returncode == (0 if os.getuid() == 0 else 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--disk-gb", "99999999"), "GB free; the checkout and the images need 99999999 GB together."),
        (("--memory-gib", "99999999"), "GiB of memory; two engines and two DataSystem workers need 99999999."),
        (("--system", "plan9-4"), f"this system is {this_system()}; packages and wheels were chosen for plan9-4."),
        (
            ("--machine", "s390x"),
            f"this machine is {platform.machine()}; the wheels of vLLM's CPU build are for s390x.",
        ),
    ],
)
def test_what_is_missing_is_said_with_the_next_step_and_exit_8(options: tuple[str, ...], words: str) -> None:
    found = check(*options)
    assert found.returncode == 8
    assert words in found.stderr
    assert found.stderr.count("next:  ") == found.stderr.count("error: ")


def test_all_that_is_missing_is_said_at_once() -> None:
    found = check("--disk-gb", "99999999", "--memory-gib", "99999999", "--system", "plan9-4")
    assert found.stderr.count("error: ") >= 3


def test_who_is_not_root_is_told_to_use_sudo() -> None:
    nobody = 65534 if os.getuid() == 0 else None
    found = check(user=nobody)
    assert found.returncode == 8
    assert "next:  sudo bash scripts/quickstart.sh" in found.stderr


def test_a_machine_without_python_3_11_is_told_what_to_install(tmp_path: Path) -> None:
    for program in PROGRAMS:
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    found = check(path=str(tmp_path))
    assert found.returncode == 8
    assert "Python 3.11 is not installed" in found.stderr
    assert "apt-get install python3" in found.stderr


def test_an_unknown_option_is_named() -> None:
    found = check("--disc-gb", "1")
    assert found.returncode == 2
    assert "--disc-gb" in found.stderr


def test_the_quickstart_looks_at_the_machine_before_it_installs_anything() -> None:
    nobody = 65534 if os.getuid() == 0 else None
    found = subprocess.run(
        ["bash", "scripts/quickstart.sh"], cwd=ROOT, user=nobody, capture_output=True, text=True, check=False
    )
    assert found.returncode == 8
    assert "next:  sudo bash scripts/quickstart.sh" in found.stderr
    assert "install" not in found.stderr.replace("install Debian packages and make", "")
    assert "kept:" not in found.stderr
