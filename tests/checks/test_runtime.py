"""The container runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployer.host import Host, Toolkit
from deployer.profile import Profile
from tests import hosts
from tests.checks.machines import NOBODY, WSL, cards, docker, podman
from tests.checks.rows import CHAT, CPU, GPU, LOST, NO_GPU, ROOT, RTX, check, system

CONTAINERS, PROCESS = replace(CPU, runtime="docker"), replace(CPU, runtime="process")
INSTALL = "install Docker Engine: https://docs.docker.com/engine/install/"
TOOLKIT = (
    "install the NVIDIA Container Toolkit: "
    "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
)
DENIED, HUNG = (hosts.without_runtime(RTX, said) for said in (hosts.DENIED, hosts.HUNG))
NONE = hosts.without_runtime(RTX)
INSTEAD = "; without it the embedded runtime is used"
START, RESTART = "sudo systemctl start docker", "sudo systemctl restart docker"


def tools(host: Host, *names: str, **more: Any) -> Host:
    return system(host, tools=names, **more)


GROUP = "usermod -aG docker $USER, then log in again"
ASK = "let this user use the socket, then log in again"
PODMAN_DENIED = hosts.without_runtime(RTX, "this user may not use /run/podman/podman.sock")


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "docker 28.3.0", None),
        (podman(), CPU, "pass", "podman 5.4.0", None),
        (NONE, CPU, "warn", f"none answers{INSTEAD}", START),
        (DENIED, CPU, "warn", f"{hosts.DENIED}{INSTEAD}", ASK),
        (HUNG, CPU, "warn", f"{hosts.HUNG}{INSTEAD}", RESTART),
        (NONE, GPU, "fail", "none answers", START),
        (NONE, CONTAINERS, "fail", "none answers", START),
        (tools(NONE, "sudo", "systemctl"), GPU, "fail", "none answers", INSTALL),
        (tools(NONE, "sudo", "docker"), GPU, "fail", "none answers", INSTALL),
        (tools(NONE, "podman", "systemctl", user=0), GPU, "fail", "none answers",
         "systemctl enable --now podman.socket"),
        (tools(DENIED, "usermod", "sudo"), GPU, "fail", hosts.DENIED, f"sudo {GROUP}"),
        (tools(DENIED, "usermod"), GPU, "fail", hosts.DENIED, f"as root: {GROUP}"),
        (tools(PODMAN_DENIED, "usermod", "sudo"), GPU, "fail", "podman.sock", ASK),
        (HUNG, GPU, "unknown", hosts.HUNG, RESTART),
        (system(HUNG, systemd=False), GPU, "unknown", hosts.HUNG, "restart the container engine"),
        (hosts.without_runtime(RTX, "unix:///run/podman/podman.sock does not answer"), GPU, "unknown",
         "podman.sock", "sudo systemctl restart podman.socket"),
        (NONE, PROCESS, "skip", "embedded runtime", None),
    ],
)  # fmt: skip
def test_engine(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.engine", host, wanted, outcome, found, hint)


NO_WAY = "neither CDI devices nor the nvidia runtime"
NO_HOOK = Toolkit(hook=False, runtime=True)
CONFIGURE = "nvidia-ctk runtime configure --runtime=docker"
GENERATE = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
NO_SPEC = replace(podman(cdi_gpus=()), cdi=())
NO_ENGINE = [
    (NONE, GPU, "skip", "runtime.engine says why", None),
    (HUNG, GPU, "unknown", hosts.HUNG, None),
]
GPU_ONLY = [
    *NO_ENGINE,
    (RTX, CPU, "skip", "does not ask for a GPU", None),
    (NO_GPU, GPU, "skip", "there is no GPU", None),
    (replace(hosts.NO_DRIVER, runtime=RTX.runtime), GPU, "skip", "driver.loaded says why", None),
    (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
    (RTX, replace(GPU, runtime="process"), "skip", "will not run in containers", None),
]


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "CDI: 0, 1, all", None),
        (docker(nvidia_runtime=True), GPU, "pass", "the nvidia runtime", None),
        (podman(), GPU, "pass", "CDI: 0, 1, all", None),
        (replace(WSL, runtime=RTX.runtime), GPU, "pass", "CDI", None),
        (hosts.NO_TOOLKIT, GPU, "fail", f"{NO_WAY}; the Container Toolkit is not installed", TOOLKIT),
        (
            replace(hosts.UNCONFIGURED, toolkit=NO_HOOK), GPU, "fail", "Docker does not know it",
            f"sudo {CONFIGURE} && {RESTART}",
        ),
        (replace(tools(hosts.UNCONFIGURED), toolkit=NO_HOOK), GPU, "fail", "Docker does not know", TOOLKIT),
        (docker(replace(hosts.UNCONFIGURED, toolkit=NO_HOOK), rootless=True), GPU, "fail", NO_WAY,
         f"{CONFIGURE} --config=$HOME/.config/docker/daemon.json, then restart the rootless daemon"),
        (docker(root="/var/snap/docker/common/var-lib-docker"), GPU, "fail", "this Docker is a snap",
         INSTALL),
        (NO_SPEC, GPU, "fail", "no CDI specification has been written", GENERATE),
        (system(NO_SPEC, tools=()), GPU, "fail", "no CDI specification",
         "write a CDI specification with nvidia-ctk cdi generate"),
        (podman(cdi_gpus=()), GPU, "fail", "does not find the CDI specification",
         "runtime.cdi and runtime.cdi_version say why"),
        (hosts.UNCONFIGURED, GPU, "unknown", "whether Docker has seen the toolkit's hook",
         f"sudo {CONFIGURE} && {RESTART}"),
        (
            replace(hosts.UNCONFIGURED, system=ROOT), GPU, "unknown", "the toolkit's hook",
            f"{CONFIGURE} && systemctl restart docker",
        ),
        (replace(hosts.UNCONFIGURED, toolkit=LOST), GPU, "unknown", "lost", None),
        *GPU_ONLY,
    ],
)  # fmt: skip
def test_gpu(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.gpu", host, wanted, outcome, found, hint)


def test_pain_1_one_message_of_docker_has_five_causes_and_each_is_named() -> None:
    gpu = ("runtime.gpu", GPU)
    for host, outcome, found, hint in (
        (NO_GPU, "skip", "there is no GPU", None),
        (hosts.NO_TOOLKIT, "fail", "not installed", TOOLKIT),
        (hosts.UNCONFIGURED, "unknown", "the toolkit's hook", f"sudo {CONFIGURE} && {RESTART}"),
        (docker(root="/var/snap/docker/x"), "fail", "a snap", INSTALL),
    ):
        check(gpu[0], host, gpu[1], outcome, found, hint)
    check("runtime.here", docker(remote=True), GPU, "fail", "another machine",
          "run deployer there, or: unset DOCKER_HOST")  # fmt: skip


def test_pain_4_docker_that_may_use_the_hook_is_not_refused_by_a_word_of_metadata() -> None:
    check("runtime.gpu", hosts.UNCONFIGURED, GPU, "unknown", NO_WAY, f"sudo {CONFIGURE} && {RESTART}")


NEWER = "newer packages: https://docs.docker.com/engine/install/"
PODMAN = "a newer Podman: https://podman.io/docs/installation"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "docker 28.3.0", None),
        (docker(version="28.3.0-rc.1+azure"), GPU, "pass", "28.3.0-rc.1+azure", None),
        (docker(version="25.0"), CPU, "pass", "docker 25.0", None),
        (podman(version="4.9.3"), GPU, "pass", "podman 4.9.3", None),
        (docker(version="24.0.9"), GPU, "warn", "docker 24.0.9", NEWER),
        (docker(version="19.03.15"), GPU, "warn", "docker 19.03.15", NEWER),
        (docker(version="18.09.1"), CPU, "warn", "docker 18.09.1", NEWER),
        (podman(version="3.4.4"), GPU, "warn", "podman 3.4.4", PODMAN),
        (docker(version="18.09.1"), GPU, "fail", "docker 18.09.1", NEWER),
        (docker(version=""), GPU, "unknown", "`` is not a number", None),
        (docker(version="dev"), CPU, "unknown", "`dev` is not a number", None),
        (NONE, CPU, "skip", "will not run in containers", None),
        *NO_ENGINE,
    ],
)  # fmt: skip
def test_version(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.version", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, CPU, "pass", "overlay2", None),
        (docker(storage_driver=""), CPU, "pass", "its default", None),
        (docker(storage_driver="vfs"), CPU, "warn", "vfs",
         'set "storage-driver": "overlay2" in /etc/docker/daemon.json'),
        (podman(storage_driver="vfs"), CPU, "warn", "vfs",
         'set driver = "overlay" in /etc/containers/storage.conf'),
        (RTX, PROCESS, "skip", "will not run in containers", None),
        *NO_ENGINE,
    ],
)  # fmt: skip
def test_storage(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.storage", host, wanted, outcome, found, hint)


SNAP = docker(root="/var/snap/docker/common/var-lib-docker", nvidia_runtime=True)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "/var/lib/docker", None),
        (docker(root=""), GPU, "pass", "not a snap", None),
        (SNAP, GPU, "warn", "a snap: /var/snap/docker", INSTALL),
        (tools(SNAP, "snap", "sudo"), CPU, "warn", "a snap", f"sudo snap remove docker, then {INSTALL}"),
        (RTX, PROCESS, "skip", "will not run in containers", None),
        *NO_ENGINE,
    ],
)  # fmt: skip
def test_snap(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.snap", host, wanted, outcome, found, hint)


def hooked(setting: str | None = None, *, rootless: bool = False, host: Host = RTX) -> Host:
    """Docker with the nvidia runtime, and `no-cgroups` as told."""
    settings = {} if setting is None else {"nvidia-container-cli.no-cgroups": setting}
    about = docker(host, nvidia_runtime=True, rootless=rootless)
    return replace(about, toolkit=Toolkit(True, True, settings))


SET = "sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "CDI does not use it", None),
        (hooked(), GPU, "pass", "off", None),
        (hooked("false"), GPU, "pass", "off", None),
        (hooked("true", rootless=True), GPU, "pass", "on", None),
        (hooked("true"), GPU, "fail", "it is on, and the daemon is the system's", f"{SET}=false --in-place"),
        (hooked(rootless=True), GPU, "fail", "it is off, and the daemon is rootless", f"{SET} --in-place"),
        (hooked(rootless=True, host=NOBODY), GPU, "fail", "it is off", None),
        (replace(hooked(), toolkit=LOST), GPU, "unknown", "lost", None),
        (replace(hooked(), toolkit=None), GPU, "skip", "is not installed", None),
        (replace(docker(rootless=True), toolkit=NO_HOOK), GPU, "skip", "no way to the GPUs", None),
        *GPU_ONLY,
    ],
)  # fmt: skip
def test_rootless(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.rootless", host, wanted, outcome, found, hint)


def test_pain_7_one_setting_that_suits_the_rootless_daemon_breaks_the_other() -> None:
    check("runtime.rootless", hooked("true"), GPU, "fail", "it is on", f"{SET}=false --in-place")
    check("runtime.rootless", hooked("true", rootless=True), GPU, "pass", "on")


def bare(present: Any = False, host: Host = RTX, **changes: Any) -> Host:
    """No buildx, and the image of cpu-small here or not."""
    return replace(docker(host, **{"buildx": False, **changes}), images={"llamacpp:cpu": present})


PLUGIN = "sudo apt-get install docker-buildx-plugin"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "there", None),
        (bare(True), CPU, "pass", "not needed: the image is here", None),
        (bare(LOST, buildx=True), CPU, "pass", "there", None),
        (bare(), CPU, "warn", f"no buildx for the docker client{INSTEAD}", PLUGIN),
        (bare(), CONTAINERS, "fail", "no buildx", PLUGIN),
        (replace(bare(), packages={}), CONTAINERS, "fail", "no buildx", "sudo apt-get install docker-buildx"),
        (tools(bare(), "dnf"), CONTAINERS, "fail", "no buildx", "as root: dnf install docker-buildx-plugin"),
        (tools(bare()), CONTAINERS, "fail", "no buildx", "install docker-buildx-plugin"),
        (bare(kind="podman"), CONTAINERS, "unknown", "whether Podman's docker command", None),
        (bare(LOST), CONTAINERS, "unknown", "lost", None),
        (bare(buildx=LOST), CONTAINERS, "unknown", "lost", None),
        (docker(buildx=False), CONTAINERS, "unknown", "not asked", None),
        (bare(), PROCESS, "skip", "will not run in containers", None),
        *NO_ENGINE,
    ],
)  # fmt: skip
def test_buildx(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.buildx", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, CPU, "pass", "limited", None),
        (docker(logs_limited=None, log_driver="journald"), CPU, "pass", "journald", None),
        (docker(logs_limited=None, log_driver=LOST), CPU, "pass", "another driver", None),
        (docker(logs_limited=False, log_driver="json-file"), CPU, "warn", "json-file, which grows for ever",
         '"log-opts": {"max-size": "50m", "max-file": "3"} in /etc/docker/daemon.json'),
        (docker(logs_limited=LOST), CPU, "unknown", "lost", None),
        (RTX, PROCESS, "skip", "will not run in containers", None),
        *NO_ENGINE,
    ],
)  # fmt: skip
def test_logs(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.logs", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, CPU, "pass", "a local socket", None),
        (docker(remote=True), CHAT, "fail", "another machine", "run deployer there, or: unset DOCKER_HOST"),
        (docker(remote=True), PROCESS, "skip", "will not run in containers", None),
        *NO_ENGINE,
    ],
)  # fmt: skip
def test_here(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.here", host, wanted, outcome, found, hint)


SWARM = replace(hosts.CDI, swarm=True)
LISTED = '"node-generic-resources": ["NVIDIA-GPU=GPU-0000"] in /etc/docker/daemon.json'


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "no swarm", None),
        (replace(RTX, runtime=replace(SWARM, generic_resources=("NVIDIA-GPU=GPU-0000",))), GPU, "pass",
         "NVIDIA-GPU=GPU-0000", None),
        (replace(RTX, runtime=SWARM), GPU, "warn", "in a swarm and lists no GPUs", LISTED),
        (replace(cards(), runtime=SWARM, pci_gpus=RTX.pci_gpus), GPU, "warn", "lists no GPUs",
         '"node-generic-resources": […] in /etc/docker/daemon.json'),
        (docker(swarm=LOST), GPU, "unknown", "lost", None),
        (replace(RTX, runtime=replace(SWARM, generic_resources=LOST)), GPU, "unknown", "lost", None),
        *GPU_ONLY,
    ],
)  # fmt: skip
def test_pain_40_swarm(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("runtime.swarm", host, wanted, outcome, found, hint)
