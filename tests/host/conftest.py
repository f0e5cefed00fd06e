"""A small machine made of files, as the kernel would show it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer.host import Questions

FILES = {
    "proc/meminfo": "MemTotal: 16000000 kB\nMemFree: 1000000 kB\nMemAvailable: 12000000 kB\n"
    "SwapTotal: 2000000 kB\nSwapFree: 1500000 kB\nHugePages_Total: 0\n",
    "proc/cpuinfo": "".join(
        f"processor\t: {n}\nmodel name\t: Some CPU @ 3 GHz\nphysical id\t: 0\ncore id\t\t: {n // 2}\n"
        "flags\t\t: fpu avx2 amx_tile\n\n"
        for n in range(4)
    ),
    "proc/sys/kernel/osrelease": "6.8.0-60-generic\n",
    "proc/self/mounts": "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04 LTS"\nID=ubuntu\nID_LIKE=debian\n# a comment\n',
}
DROP = """
import os, sys
import resource, subprocess, yaml  # while Python's own files may still be read
from pathlib import Path
from deployer.host import Questions, deep, driver, network, probe
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The root of the machine; tests write to it what they want to be found."""
    for name, text in FILES.items():
        put(tmp_path / name, text)
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def ask(machine: Path) -> Questions:
    return Questions(
        models=machine / "home/models",
        engines=machine / "home/engines",
        docker=f"unix://{machine}/docker.sock",
        temporary=machine / "tmp",
        root=machine,
    )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which nobody but this user may with those of pytest."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def put(path: Path, text: str | bytes, mode: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    if mode is not None:
        path.chmod(mode)
    return path


def link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def as_nobody(code: str, *words: object) -> str:
    """What `code` prints as a user without rights: `nobody` where the tests run as root."""
    ran = subprocess.run(
        [sys.executable, "-c", DROP + code, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert ran.stderr == ""
    assert ran.returncode == 0
    return ran.stdout.strip()


def is_root() -> bool:
    return os.geteuid() == 0
