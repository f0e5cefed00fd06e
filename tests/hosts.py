"""Hosts that tests judge and plan for: plain values, no machine is asked."""

from __future__ import annotations

from dataclasses import replace

from deployer.host import (
    ContainerRuntime,
    Cpu,
    Disk,
    Driver,
    Ecc,
    Gpu,
    Heat,
    Host,
    KernelLog,
    Libraries,
    Link,
    Memory,
    Mig,
    Modules,
    Node,
    Nodes,
    Package,
    PciGpu,
    Port,
    Power,
    Specification,
    System,
    Toolkit,
    Unknown,
)

GB = 10**9
MIB = 2**20
DENIED = "this user may not use /var/run/docker.sock"
HUNG = "unix:///var/run/docker.sock does not answer"
NO_LIBRARY = Unknown("no NVIDIA library")

NVIDIA_TOOLS = ("nvidia-ctk", "nvidia-smi", "nvidia-modprobe")

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
    tools=("apt-get", "apt-mark", "sudo", "docker", "systemctl", "ps", "ss", *NVIDIA_TOOLS),
    container=None,
    hypervisor=None,
    secure_boot=False,
    selinux=None,
    selinux_devices=None,
    apparmor=True,
    limits={"open_files": 1048576, "locked_memory": None},
    boot=("quiet",),
    iommu=False,
    wsl_library=None,
)
DISK = Disk("/srv", "ext4", size=2000 * GB, free=1000 * GB, rotating=False, writable=True,
            inodes=120_000_000, free_inodes=110_000_000, volume="259:2", owner=1000, read_only=False)  # fmt: skip
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
    cdi=True,
    cdi_folders=("/etc/cdi", "/var/run/cdi"),
    runtimes=("io.containerd.runc.v2", "runc"),
    default_runtime="runc",
    log_driver="local",
    logs_limited=True,
    proxies={},
    swarm=False,
    generic_resources=(),
    containers={},
    components={"Engine": "28.3.0", "containerd": "1.7.27", "runc": "1.2.5"},
    security=("name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"),
    buildx=True,
)
CDI = replace(DOCKER, cdi_gpus=("0", "1", "all"))
SPECIFICATION = Specification("/etc/cdi/nvidia.yaml", "0.6.0", ("0", "1", "all"), "580.65.06", ())


def gpu(index: int = 0, *, name: str, vram: int, free: int | None = None, capability: str) -> Gpu:
    """A GPU of `vram` MiB, of which all but 300 are free unless told otherwise."""
    left = vram - 300 if free is None else free
    return Gpu(
        index, f"GPU-{index}{index}{index}{index}", name, vram * MIB, left * MIB, capability,
        used=(vram - left) * MIB,
        reserved=200 * MIB,
        unified=False,
        pci=f"0000:0{index + 1}:00.0",
        architecture="Ada",
        brand="geforce",
        mig=Mig(False, False, ()) if capability in ("8.0", "9.0") else None,
        ecc=Ecc(True, True, 0, 0) if capability in ("8.0", "9.0") else None,
        retired=None,
        remapped=None,
        throttled=(),
        heat=Heat(45, 90, 95),
        power=Power(60.0, 450.0, 450.0, 600.0),
        link=Link(4, 16, 4, 16),
        nvlinks=None,
        fabric=None,
        persistence=True,
        compute_mode="default",
        display=False,
        processes=(),
        bus_width=128,
        memory_clock=8501,
    )  # fmt: skip


RTX_4060 = gpu(name="NVIDIA GeForce RTX 4060", vram=8188, capability="8.9")

NO_GPU = Host(
    taken="2026-01-01T00:00:00Z",
    version="0",
    system=SYSTEM,
    cpu=Cpu("Some CPU", cores=8, threads=16, flags=("avx2",), sockets=1, all_threads=16),
    memory=Memory(
        total=128 * GB,
        available=120 * GB,
        machine=128 * GB,
        limit=None,
        swap=8 * GB,
        free_swap=8 * GB,
        shared=64 * GB,
        overcommit=0,
        maps=1048576,
    ),
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
    temporary_disk=DISK,
    libraries=Libraries(None, None),
    modules=Modules(("nvme",), built=False),
    nodes=Nodes({}, None, char_links=False),
    nvswitches=0,
    fabric_manager=None,
    kernel_log=KernelLog((), None),
    packages={"docker-ce": Package("5:28.3.0-1~ubuntu.24.04~noble", False)},
    toolkit=None,
    cdi=(),
    images={},
    base=None,
    proxies=None,
    models=(),
)
PACKAGES = {
    "docker-ce": Package("5:28.3.0-1~ubuntu.24.04~noble", False),
    "nvidia-container-toolkit": Package("1.18.2-1", False),
    "nvidia-driver-580": Package("580.65.06-0ubuntu1", True),
}
RTX = replace(
    NO_GPU,
    driver=Driver("580.65.06", open_module=True),
    pci_gpus=(PciGpu("0000:01:00.0", "2882", "nvidia"),),
    cuda="13.0",
    gpus=(RTX_4060,),
    runtime=CDI,
    libraries=Libraries("580.65.06", "580.65.06"),
    modules=Modules(("nvidia", "nvidia_modeset", "nvidia_uvm"), built=None),
    nodes=Nodes(
        {name: Node(195, True) for name in ("nvidia0", "nvidia1", "nvidiactl")}
        | {"nvidia-uvm": Node(508, True)},
        uvm_major=508,
        char_links=True,
    ),
    packages=PACKAGES,
    toolkit=Toolkit(hook=True, runtime=True, settings={}),
    cdi=(SPECIFICATION,),
)
H100 = replace(RTX, gpus=(gpu(name="NVIDIA H100 80GB HBM3", vram=81559, free=81000, capability="9.0"),))
OLD_DRIVER = replace(
    RTX,
    driver=Driver("550.54.14", open_module=False),
    cuda="12.4",
    libraries=Libraries("550.54.14", "550.54.14"),
    cdi=(replace(SPECIFICATION, driver="550.54.14"),),
)
NO_DRIVER = replace(NO_GPU, pci_gpus=(PciGpu("0000:01:00.0", "2882", None),))
NVML_SILENT = replace(RTX, cuda=Unknown("NVML: timeout"), gpus=Unknown("NVML: timeout"))
FREE_UNKNOWN = replace(RTX, gpus=(replace(RTX_4060, free_vram=Unknown("NVML: not supported")),))
NO_TOOLKIT = replace(
    RTX,
    runtime=DOCKER,
    system=replace(SYSTEM, tools=("apt-get", "docker")),
    toolkit=None,
    cdi=(),
    packages={"docker-ce": PACKAGES["docker-ce"]},
)
UNCONFIGURED = replace(RTX, runtime=DOCKER, cdi=())


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
