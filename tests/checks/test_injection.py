"""CDI specifications and the Container Toolkit's settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployer.host import Driver, Host, Libraries, Package, Specification, Toolkit
from deployer.profile import Profile
from tests import hosts
from tests.checks.machines import CARD, CUT, NOBODY, OTHER, cards, docker, podman
from tests.checks.rows import CPU, GPU, LOST, NO_GPU, ROOT, RTX, check, system

SPEC, NONE = hosts.SPECIFICATION, hosts.without_runtime(RTX)
RUN = replace(SPEC, path="/var/run/cdi/nvidia.yaml")
BROKEN = Specification("/etc/cdi/nvidia.yaml", "", (), None, (), unreadable="ValueError: bad")
GENERATE = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
REFRESH = "sudo systemctl restart nvidia-cdi-refresh.service"
BY_HAND = "install the NVIDIA Container Toolkit and write the specification anew with nvidia-ctk cdi generate"
HOOKED = docker(nvidia_runtime=True)  # reads CDI, and finds no devices
GPU_ONLY = [
    (NONE, GPU, "skip", "runtime.engine says why", None),
    (hosts.without_runtime(RTX, hosts.HUNG), GPU, "unknown", hosts.HUNG, None),
    (RTX, CPU, "skip", "does not ask for a GPU", None),
    (NO_GPU, GPU, "skip", "there is no GPU", None),
    (replace(hosts.NO_DRIVER, runtime=RTX.runtime), GPU, "skip", "driver.loaded says why", None),
    (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
]
OF_CDI = [
    *GPU_ONLY,
    (replace(RTX, cdi=()), GPU, "skip", "no CDI specification", None),
    (replace(RTX, cdi=LOST), GPU, "unknown", "lost", None),
    (replace(RTX, runtime=replace(hosts.CDI, cdi=LOST)), GPU, "unknown", "lost", None),
]
NOT_READ = (docker(cdi=False), GPU, "skip", "this engine reads none of them: runtime.cdi", None)


def specified(*specifications: Specification, host: Host = RTX) -> Host:
    return replace(host, cdi=specifications)


FEATURE = '"features": {"cdi": true} in /etc/docker/daemon.json'
RESTART = "sudo systemctl restart docker"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "/etc/cdi, /var/run/cdi", None),
        (
            specified(replace(SPEC, path="/run/cdi/nvidia.yaml")), GPU, "pass", "/etc/cdi, /var/run/cdi", None,
        ),
        (docker(cdi=False, version="27.5.1"), GPU, "warn", "docker 27.5.1 does not",
         f"{FEATURE}, then {RESTART}"),
        (docker(system(RTX, systemd=False), cdi=False), GPU, "warn", "does not",
         f"{FEATURE}, then start the engine again"),
        (docker(cdi=False, version="24.0.9"), GPU, "warn", "docker 24.0.9 does not",
         "Docker 25 or later: https://docs.docker.com/engine/install/"),
        (docker(cdi_folders=("/usr/share/cdi",)), GPU, "warn", "it looks in /usr/share/cdi, and not in /etc/cdi",
         "sudo nvidia-ctk cdi generate --output=/usr/share/cdi/nvidia.yaml"),
        (docker(cdi_folders=LOST), GPU, "unknown", "lost", None),
        *OF_CDI,
    ],
)  # fmt: skip
def test_cdi(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.cdi", host, wanted, outcome, found, hint)


OLDER = "--feature-flag no-additional-gids-for-device-nodes"
NEW = replace(SPEC, version="0.7.0")
PODMAN = specified(NEW, host=podman(version="4.9.3"))
PODMAN_HINT = f"podman 5.1 or later, or: sudo nvidia-ctk cdi generate {OLDER} --output=/etc/cdi/nvidia.yaml"


def reads(version: str, *specifications: Specification) -> Host:
    """Docker of this version, which gives GPUs through these specifications."""
    return specified(*specifications, host=replace(RTX, runtime=replace(hosts.CDI, version=version)))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "/etc/cdi/nvidia.yaml (0.6.0)", None),
        (specified(NEW), GPU, "pass", "(0.7.0)", None),
        (reads("26.1.0", NEW), GPU, "pass", "(0.7.0)", None),
        (specified(NEW, host=podman(version="5.1.0")), GPU, "pass", "(0.7.0)", None),
        (reads("24.0.9", replace(SPEC, version="0.5.0")), GPU, "pass", "(0.5.0)", None),
        (reads("25.0.3", NEW, replace(RUN, version="0.6.0")), GPU, "warn", "/etc/cdi/nvidia.yaml is version",
         f"docker 26.1 or later, or: sudo nvidia-ctk cdi generate {OLDER} --output=/etc/cdi/nvidia.yaml"),
        (specified(BROKEN, RUN), GPU, "warn", "ValueError: bad", f"sudo {GENERATE}"),
        (specified(NEW, host=podman(HOOKED, version="4.9.3", cdi_gpus=())), GPU, "warn", "version 0.7.0",
         PODMAN_HINT),
        (PODMAN, GPU, "fail", "is version 0.7.0; podman 4.9.3 does not read it", PODMAN_HINT),
        (system(PODMAN, tools=()), GPU, "fail", "version 0.7.0", "podman 5.1 or later"),
        (reads("24.0.9", SPEC), GPU, "fail", "is version 0.6.0; docker 24.0.9", "docker 25 or later"),
        (reads("dev", SPEC), GPU, "unknown", "`dev` is not a number", None),
        (reads("28.3.0", replace(SPEC, version="")), GPU, "unknown", "is not a number", None),
        NOT_READ,
        *OF_CDI,
    ],
)  # fmt: skip
def test_cdi_version(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.cdi_version", host, wanted, outcome, found, hint)


def test_pain_3_podman_cannot_read_a_newer_specification() -> None:
    check("runtime.cdi_version", PODMAN, GPU, "fail", "podman 4.9.3 does not read it", PODMAN_HINT)
    nixos = docker(cdi_folders=("/usr/share/cdi",))
    check("runtime.cdi", nixos, GPU, "warn", "and not in /etc/cdi",
          "sudo nvidia-ctk cdi generate --output=/usr/share/cdi/nvidia.yaml")  # fmt: skip


STALE = replace(SPEC, driver="570.133.20")
MISSING = replace(SPEC, missing=("/usr/lib/libcuda.so.570.133.20", "/dev/nvidia1"))
WAITING = replace(specified(replace(SPEC, driver="580.95.05")), libraries=Libraries("580.95.05", "580.95.05"))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "/etc/cdi/nvidia.yaml", None),
        (specified(replace(SPEC, driver=None)), GPU, "pass", "/etc/cdi/nvidia.yaml", None),
        (specified(STALE, RUN), GPU, "pass", "/var/run/cdi/nvidia.yaml", None),
        (specified(BROKEN, RUN), GPU, "pass", "/var/run/cdi/nvidia.yaml", None),
        (specified(STALE, host=HOOKED), GPU, "warn", "is for driver 570.133.20", f"sudo {GENERATE}"),
        (specified(STALE), GPU, "fail", "is for driver 570.133.20, 580.65.06 is loaded", f"sudo {GENERATE}"),
        (specified(SPEC, replace(RUN, driver="570.1")), GPU, "fail", "/var/run/cdi/nvidia.yaml is for driver",
         REFRESH),
        (
            specified(MISSING), GPU, "fail",
            "names /usr/lib/libcuda.so.570.133.20 and 1 more, which is not there", f"sudo {GENERATE}",
        ),
        (specified(MISSING, host=replace(RTX, system=ROOT)), GPU, "fail", "is not there", GENERATE),
        (specified(MISSING, host=NOBODY), GPU, "fail", "is not there", BY_HAND),
        (
            specified(replace(MISSING, path=RUN.path), host=replace(RTX, packages={})), GPU, "fail",
            "is not there", "sudo nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml",
        ),
        (WAITING, GPU, "skip", "driver.libraries", None),
        (replace(WAITING, libraries=LOST), GPU, "fail", "is for driver 580.95.05", f"sudo {GENERATE}"),
        (specified(BROKEN), GPU, "unknown", "ValueError: bad", None),
        (replace(RTX, driver=Driver("abc", True)), GPU, "unknown", "`abc`", None),
        NOT_READ,
        *OF_CDI,
    ],
)  # fmt: skip
def test_cdi_files(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.cdi_files", host, wanted, outcome, found, hint)


BESIDE = replace(SPEC, path="/etc/cdi/other.yaml")


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "0, 1, all", None),
        (specified(SPEC, replace(RUN, devices=("2",))), GPU, "pass", "0, 1, all, 2", None),
        (specified(SPEC, RUN), GPU, "warn", "`0` is in /etc/cdi/nvidia.yaml and in /var/run/cdi/nvidia.yaml",
         "sudo rm /etc/cdi/nvidia.yaml"),
        (specified(SPEC, BESIDE, host=HOOKED), GPU, "warn", "other.yaml", "sudo rm /etc/cdi/nvidia.yaml"),
        (specified(SPEC, replace(BESIDE, driver="570.1")), GPU, "fail", "and in /etc/cdi/other.yaml",
         "sudo rm /etc/cdi/other.yaml"),
        (specified(STALE, BESIDE, host=NOBODY), GPU, "fail", "and in /etc/cdi/other.yaml",
         "as root: rm /etc/cdi/nvidia.yaml"),
        (specified(BROKEN), GPU, "unknown", "ValueError: bad", None),
        NOT_READ,
        *OF_CDI,
    ],
)  # fmt: skip
def test_cdi_once(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.cdi_once", host, wanted, outcome, found, hint)


def test_pain_6_an_old_specification_beside_the_one_that_is_kept_is_named() -> None:
    check("runtime.cdi_once", specified(SPEC, RUN), GPU, "warn", "is in /etc/cdi/nvidia.yaml",
          "sudo rm /etc/cdi/nvidia.yaml")  # fmt: skip


BOTH = cards(CARD, OTHER)
ONE = replace(SPEC, devices=("0", "all"))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "0, 1", None),
        (specified(replace(SPEC, devices=("GPU-0000", "GPU-1111")), host=BOTH), GPU, "pass", "GPU-1111", None),
        (specified(replace(SPEC, devices=("all",)), host=BOTH), GPU, "pass", "all", None),
        (specified(ONE, host=BOTH), GPU, "warn", "0; NVML shows 2 GPUs", f"sudo {GENERATE}"),
        (
            specified(ONE, host=cards(replace(CARD, uuid=LOST), replace(OTHER, uuid=LOST))), GPU, "warn",
            "NVML shows 2 GPUs", f"sudo {GENERATE}",
        ),
        (specified(ONE, host=cards(CUT)), GPU, "warn", "0; NVML shows 2 GPUs", f"sudo {GENERATE}"),
        (specified(replace(SPEC, devices=("0:0", "0:1")), host=cards(CUT)), GPU, "pass", "0:0, 0:1", None),
        (specified(BROKEN), GPU, "unknown", "ValueError: bad", None),
        (replace(RTX, gpus=LOST), GPU, "unknown", "lost", None),
        NOT_READ,
        *OF_CDI,
    ],
)  # fmt: skip
def test_cdi_gpus(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.cdi_gpus", host, wanted, outcome, found, hint)


def packaged(version: str, host: Host = RTX) -> Host:
    return replace(host, packages={"nvidia-container-toolkit": Package(version, False)})


UPGRADE = "sudo apt-get install --only-upgrade nvidia-container-toolkit"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "1.18.2", None),
        (packaged("1.18.0-1"), GPU, "warn", "1.18.0 leaves compat libraries", f"{UPGRADE} && {RESTART}"),
        (packaged("1.17.4-1", podman()), GPU, "warn", "1.17.4", UPGRADE),
        (packaged("1.17.4~rc.1-1", NOBODY), GPU, "warn", "1.17.4",
         "a later version of nvidia-container-toolkit"),
        (packaged("latest"), GPU, "unknown", "`latest` is not a number", None),
        (replace(RTX, packages=LOST), GPU, "unknown", "lost", None),
        (replace(RTX, packages={}), GPU, "skip", "not installed as a package", None),
        *GPU_ONLY,
    ],
)  # fmt: skip
def test_toolkit(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.toolkit", host, wanted, outcome, found, hint)


def moded(mode: str, host: Host = RTX, **more: Any) -> Host:
    return replace(host, toolkit=Toolkit(True, True, {"nvidia-container-runtime.mode": mode}), **more)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "mode auto", None),
        (moded("cdi"), GPU, "pass", "mode cdi", None),
        (moded("legacy", HOOKED), GPU, "pass", "mode legacy", None),
        (moded("cdi", HOOKED, cdi=()), GPU, "fail", "mode is cdi, and the engine finds no CDI devices",
         REFRESH),
        (moded("cdi", system(HOOKED, systemd=False)), GPU, "fail", "mode is cdi",
         "sudo nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml"),
        (moded("cdi", podman(cdi_gpus=())), GPU, "skip", "Podman does not use them", None),
        (replace(RTX, toolkit=None), GPU, "skip", "is not installed", None),
        (replace(RTX, toolkit=LOST), GPU, "unknown", "lost", None),
        *GPU_ONLY,
    ],
)  # fmt: skip
def test_mode(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.mode", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "CDI specifications", None),
        (HOOKED, GPU, "pass", "nvidia-container-runtime", None),
        (replace(HOOKED, toolkit=None), GPU, "warn", "in no usual folder", "prove it: deployer check --deep"),
        (replace(HOOKED, toolkit=Toolkit(True, False)), GPU, "warn", "in no usual folder",
         "prove it: deployer check --deep"),
        (docker(), GPU, "skip", "no way is configured: runtime.gpu", None),
        (replace(HOOKED, toolkit=LOST), GPU, "unknown", "lost", None),
        *GPU_ONLY,
    ],
)  # fmt: skip
def test_parts(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.parts", host, wanted, outcome, found, hint)
