"""A small machine made of files, as the kernel would show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployer.host import Questions

FILES = {
    "proc/meminfo": "MemTotal: 16000000 kB\nMemFree: 1000000 kB\nMemAvailable: 12000000 kB\nHugePages_Total: 0\n",
    "proc/cpuinfo": "".join(
        f"processor\t: {n}\nmodel name\t: Some CPU @ 3 GHz\nphysical id\t: 0\ncore id\t\t: {n // 2}\n"
        "flags\t\t: fpu avx2 amx_tile\n\n"
        for n in range(4)
    ),
    "proc/sys/kernel/osrelease": "6.8.0-60-generic\n",
    "proc/self/mounts": "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04 LTS"\nID=ubuntu\nID_LIKE=debian\n# a comment\n',
}


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


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
