"""Installed packages, from dpkg's own file."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployer import host
from deployer.host import Package, Questions, Unknown
from deployer.host.system import packages
from tests.host.conftest import put

STATUS = """\
Package: adduser
Status: install ok installed
Priority: important
Version: 3.134
Description: add and remove users and groups
 Package: nvidia-in-a-description
 .
 This is no entry: Version: 1

Package: docker-ce
Status: install ok installed
Section: admin
Architecture: amd64
Version: 5:28.3.0-1~ubuntu.24.04~noble
Depends: containerd.io (>= 1.7.27), docker-ce-cli, iptables
Description: Docker: the open-source application container engine

Package: docker-ce-cli
Status: hold ok installed
Version: 5:28.3.0-1~ubuntu.24.04~noble
Description: Docker CLI

Package: nvidia-driver-570
Status: deinstall ok config-files
Version: 570.172.08-0ubuntu1
Description: removed; its settings are left

Package: nvidia-driver-580
Status: hold ok installed
Version: 580.65.06-0ubuntu1
Conffiles:
 /etc/modprobe.d/nvidia.conf 0123456789abcdef0123456789abcdef
Description: NVIDIA driver metapackage

Package: nvidia-driver-580-open
Status: install ok half-configured
Version: 580.65.06-0ubuntu1

Package: libnvidia-compute-580
Status: install ok installed
Version: 580.65.06-0ubuntu1

Package: libfoo-nvidia
Status: install ok installed
Version: 1

Package: nvidia-without-a-version
Status: install ok installed

Package: unattended-upgrades
Status: install ok installed
Version: 2.9.1+nmu4ubuntu1
"""


def test_packages_that_matter_with_their_versions(ask: Questions, machine: Path) -> None:
    put(machine / "var/lib/dpkg/status", STATUS)
    assert packages(ask) == {
        "docker-ce": Package("5:28.3.0-1~ubuntu.24.04~noble", held=False),
        "docker-ce-cli": Package("5:28.3.0-1~ubuntu.24.04~noble", held=True),
        "libnvidia-compute-580": Package("580.65.06-0ubuntu1", held=False),
        "nvidia-driver-580": Package("580.65.06-0ubuntu1", held=True),
        "unattended-upgrades": Package("2.9.1+nmu4ubuntu1", held=False),
    }


def test_a_removed_package_is_not_there_whatever_was_held(ask: Questions, machine: Path) -> None:
    for state in ("deinstall ok config-files", "hold ok config-files", "purge ok not-installed"):
        put(machine / "var/lib/dpkg/status", f"Package: docker-ce\nStatus: {state}\nVersion: 1\n")
        assert packages(ask) == {}


def test_a_package_that_will_be_removed_is_still_there(ask: Questions, machine: Path) -> None:
    text = "Package: podman\nStatus: deinstall ok installed\nVersion: 4.9.3\n"
    put(machine / "var/lib/dpkg/status", text)
    assert packages(ask) == {"podman": Package("4.9.3", held=False)}


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_the_last_entry_counts_however_the_file_ends(end: str, ask: Questions, machine: Path) -> None:
    text = "Package: podman\nStatus: install ok installed\nVersion: 4.9.3"
    put(machine / "var/lib/dpkg/status", text + end)
    assert packages(ask) == {"podman": Package("4.9.3", held=False)}


def test_a_machine_without_such_packages_has_none(ask: Questions, machine: Path) -> None:
    put(machine / "var/lib/dpkg/status", STATUS[: STATUS.index("Package: docker-ce\n")])
    assert packages(ask) == {}


def test_another_package_manager_is_unknown_and_not_nothing(ask: Questions) -> None:
    found = host.probe(ask).packages
    assert isinstance(found, Unknown)
    assert "only Debian's package database" in found.reason
