"""Hosts that tests judge and plan for: plain values, no machine is asked."""

from __future__ import annotations

from dataclasses import replace

from deployer.host import (
    ContainerRuntime,
    Cpu,
    Disk,
    Driver,
    Gpu,
    Host,
    Memory,
    Port,
    System,
    Unknown,
)

GB = 10**9
MIB = 2**20
DENIED = "this user may not use /var/run/docker.sock"
HUNG = "unix:///var/run/docker.sock does not answer"
NO_LIBRARY = Unknown("no NVIDIA library")

SYSTEM = System(
    os="linux",
    kernel="6.8.0",
    architecture="x86_64",
    distribution="Ubuntu 24.04 LTS",
    distribution_like="ubuntu debian",
    python="3.12.3",
    user=1000,
    wsl=False,
    systemd=True,
    tools=("apt-get", "sudo", "docker", "nvidia-ctk"),
)
DISK = Disk("/srv", "ext4", size=2000 * GB, free=1000 * GB, rotating=False, writable=True)
DOCKER = ContainerRuntime(
    kind="docker",
    version="28.3.0",
    api="1.51",
    root="/var/lib/docker",
    storage_driver="overlay2",
    cgroup="systemd v2",
    rootless=False,
    nvidia_runtime=False,
    cdi_gpus=(),
)
CDI = replace(DOCKER, cdi_gpus=("0", "1", "all"))


def gpu(index: int = 0, *, name: str, vram: int, free: int | None = None, capability: str) -> Gpu:
    """A GPU of `vram` MiB, of which all but 300 are free unless told otherwise."""
    left = vram - 300 if free is None else free
    return Gpu(index, f"GPU-{index}{index}{index}{index}", name, vram * MIB, left * MIB, capability)


RTX_4060 = gpu(name="NVIDIA GeForce RTX 4060", vram=8188, capability="8.9")

NO_GPU = Host(
    taken="2026-01-01T00:00:00Z",
    version="0",
    system=SYSTEM,
    cpu=Cpu("Some CPU", cores=8, threads=16, flags=("avx2",)),
    memory=Memory(total=128 * GB, available=120 * GB),
    models_disk=DISK,
    images_disk=DISK,
    engines_disk=DISK,
    driver=None,
    pci_gpus=(),
    cuda=NO_LIBRARY,
    gpus=(),
    runtime=DOCKER,
    ports={"8000": Port(8000, True, None)},
    sources={},
)
RTX = replace(
    NO_GPU,
    driver=Driver("580.65.06", open_module=True),
    pci_gpus=("0000:01:00.0",),
    cuda="13.0",
    gpus=(RTX_4060,),
    runtime=CDI,
)
H100 = replace(RTX, gpus=(gpu(name="NVIDIA H100 80GB HBM3", vram=81559, free=81000, capability="9.0"),))
OLD_DRIVER = replace(RTX, driver=Driver("550.54.14", open_module=False), cuda="12.4")
NO_DRIVER = replace(NO_GPU, pci_gpus=("0000:01:00.0",))
NVML_SILENT = replace(RTX, cuda=Unknown("NVML: timeout"), gpus=Unknown("NVML: timeout"))
FREE_UNKNOWN = replace(RTX, gpus=(replace(RTX_4060, free_vram=Unknown("NVML: not supported")),))
NO_TOOLKIT = replace(RTX, runtime=DOCKER, system=replace(SYSTEM, tools=("apt-get", "docker")))
UNCONFIGURED = replace(RTX, runtime=DOCKER)


def without_runtime(host: Host, reason: str | None = None) -> Host:
    """`host` with no container runtime, or with one that cannot be asked for `reason`."""
    if reason is None:
        return replace(host, runtime=None, images_disk=Unknown("there is no container runtime"))
    return replace(host, runtime=Unknown(reason), images_disk=Unknown(reason))


def bare(host: Host) -> Host:
    """`host` with none of the tools that hints speak of."""
    return replace(host, system=replace(SYSTEM, tools=(), systemd=False))


NAMED = {
    "no-gpu": NO_GPU,
    "rtx-4060": RTX,
    "h100": H100,
    "old-driver": OLD_DRIVER,
    "no-driver": NO_DRIVER,
    "nvml-silent": NVML_SILENT,
    "free-unknown": FREE_UNKNOWN,
    "no-toolkit": NO_TOOLKIT,
    "unconfigured": UNCONFIGURED,
    "no-gpu-no-runtime": without_runtime(NO_GPU),
    "no-gpu-denied": without_runtime(NO_GPU, DENIED),
    "no-gpu-hung": without_runtime(NO_GPU, HUNG),
    "rtx-no-runtime": without_runtime(RTX),
    "rtx-denied": without_runtime(RTX, DENIED),
    "rtx-hung": without_runtime(RTX, HUNG),
}
