"""The operating system, the processor, and what they are told by the kernel's files."""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.host import Questions, Unknown
from deployer.host.system import cpu, system
from tests.host.conftest import put

WSL = "5.15.153.1-microsoft-standard-WSL2\n"
VARIABLE = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def test_system(ask: Questions) -> None:
    found = system(ask)
    assert found.os == "linux"
    assert found.kernel == "6.8.0-60-generic"
    assert found.architecture == platform.machine()
    assert found.distribution == "Ubuntu 24.04 LTS"
    assert found.distribution_like == "ubuntu debian"
    assert found.python == platform.python_version().rstrip("+")
    assert found.user == os.geteuid()
    assert not found.wsl
    assert not found.systemd
    assert not found.iommu
    assert not found.apparmor
    assert found.wsl_library is None
    assert found.limits == {}


def test_wsl_and_systemd_are_seen(ask: Questions, machine: Path) -> None:
    put(ask.proc / "sys/kernel/osrelease", WSL)
    (machine / "run/systemd/system").mkdir(parents=True)
    found = system(ask)
    assert found.wsl
    assert found.systemd


@pytest.mark.parametrize("there", [True, False])
def test_the_library_that_windows_gives_to_wsl(there: bool, ask: Questions, machine: Path) -> None:
    put(ask.proc / "sys/kernel/osrelease", WSL)
    if there:
        put(machine / "usr/lib/wsl/lib/libcuda.so.1", "")
    assert system(ask).wsl_library is there


def test_a_distribution_without_a_name_has_none(ask: Questions) -> None:
    put(ask.etc / "os-release", "VERSION=1\n")
    assert (system(ask).distribution, system(ask).distribution_like) == ("unknown", "")


@pytest.mark.parametrize(
    ("path", "content", "found"),
    [
        pytest.param(".dockerenv", "", None, id="the mark of docker alone, as in machines made from images"),
        pytest.param("run/.containerenv", 'engine="podman-4.9.3"\n', "podman", id="podman"),
        pytest.param("proc/1/environ", "HOME=/\0container=lxc\0TERM=linux\0", "lxc", id="lxc"),
        pytest.param("proc/1/environ", "container=\0", None, id="an empty mark"),
        pytest.param("proc/1/environ", "mycontainer=lxc\0HOME=/\0", None, id="another variable"),
        pytest.param("etc/other", "", None, id="none"),
    ],
)
def test_the_container_around_this_process(
    path: str, content: str, found: str | None, ask: Questions, machine: Path
) -> None:
    put(machine / path, content)
    assert system(ask).container == found


def test_a_docker_container_has_files_of_its_own_in_etc(ask: Questions, machine: Path) -> None:
    mounts = "overlay / overlay rw 0 0\n/dev/vda1 {} ext4 rw 0 0\n"
    put(machine / ".dockerenv", "")
    put(ask.proc / "self/mounts", mounts.format("/etc/hosts.d"))
    assert system(ask).container is None
    put(ask.proc / "self/mounts", mounts.format("/etc/hosts"))
    assert system(ask).container == "docker"


@pytest.mark.parametrize(
    ("firmware", "found"),
    [
        pytest.param({"sys_vendor": "QEMU"}, "kvm", id="qemu"),
        pytest.param({"sys_vendor": "Red Hat", "product_name": "KVM"}, "kvm", id="kvm by product"),
        pytest.param({"sys_vendor": "Amazon EC2", "product_name": "g5.xlarge"}, "amazon", id="amazon"),
        pytest.param({"sys_vendor": "Amazon EC2", "product_name": "g4dn.metal"}, None, id="amazon's metal"),
        pytest.param({"sys_vendor": "Google", "product_name": "Google Compute Engine"}, "google", id="google"),
        pytest.param(
            {"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine"}, "microsoft", id="azure"
        ),
        pytest.param(
            {"sys_vendor": "Microsoft Corporation", "product_name": "Surface Book 3"}, None, id="a laptop"
        ),
        pytest.param({"sys_vendor": "VMware, Inc."}, "vmware", id="vmware"),
        pytest.param({"sys_vendor": "innotek GmbH"}, "oracle", id="virtualbox"),
        pytest.param({"sys_vendor": "Some Cloud", "bios_vendor": "Xen"}, "xen", id="xen by firmware"),
        pytest.param({"sys_vendor": "Dell Inc.", "product_name": "PowerEdge R760"}, None, id="a server"),
        pytest.param({}, None, id="no firmware"),
    ],
)  # fmt: skip
def test_the_hypervisor_by_what_the_firmware_says(
    firmware: dict[str, str], found: str | None, ask: Questions
) -> None:
    for name, text in firmware.items():
        put(ask.sys / "class/dmi/id" / name, f"{text}\n")
    assert system(ask).hypervisor == found


def test_xen_says_so_itself(ask: Questions) -> None:
    put(ask.sys / "hypervisor/type", "xen\n")
    assert system(ask).hypervisor == "xen"


def test_a_hypervisor_that_only_the_processor_names_is_some(ask: Questions) -> None:
    put(ask.sys / "class/dmi/id/sys_vendor", "Some Cloud\n")
    text = (ask.proc / "cpuinfo").read_text()
    put(ask.proc / "cpuinfo", text.replace("fpu avx2", "fpu hypervisor avx2"))
    assert system(ask).hypervisor == "unknown"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param(bytes([6, 0, 0, 0, 1]), True, id="on"),
        pytest.param(bytes([6, 0, 0, 0, 0]), False, id="off"),
        pytest.param(bytes([22, 0, 0, 0, 1]), True, id="other attributes"),
        pytest.param(bytes([1, 0, 0, 0, 0]), False, id="attributes are no answer"),
        pytest.param(b"", Unknown(f"{VARIABLE} is empty"), id="empty"),
        pytest.param(None, Unknown("the firmware's variables are not mounted"), id="not mounted"),
    ],
)
def test_secure_boot(content: bytes | None, found: object, ask: Questions) -> None:
    variables = ask.sys / "firmware/efi/efivars"
    variables.mkdir(parents=True)
    put(variables / "SecureBootSupport-1", b"\0\0\0\0\1")
    if content is not None:
        put(variables / VARIABLE, content)
    if content is None:
        (variables / "SecureBootSupport-1").unlink()
    assert system(ask).secure_boot == found


def test_a_machine_without_uefi_has_no_secure_boot(ask: Questions) -> None:
    assert system(ask).secure_boot is None


@pytest.mark.parametrize(("text", "found"), [("1", "enforcing"), ("0", "permissive"), (None, None)])
def test_selinux(text: str | None, found: str | None, ask: Questions) -> None:
    if text is not None:
        put(ask.sys / "fs/selinux/enforce", text)
    assert system(ask).selinux == found


@pytest.mark.parametrize(("text", "found"), [("1 1", True), ("0 0", False), ("0 1", False), (None, None)])
def test_whether_selinux_lets_containers_use_devices(
    text: str | None, found: bool | None, ask: Questions
) -> None:
    if text is not None:
        put(ask.sys / "fs/selinux/booleans/container_use_devices", text)
    assert system(ask).selinux_devices is found


def test_apparmor_and_an_iommu_are_seen(ask: Questions) -> None:
    (ask.sys / "kernel/security/apparmor").mkdir(parents=True)
    (ask.sys / "class/iommu/dmar0").mkdir(parents=True)
    assert system(ask).apparmor is True
    assert system(ask).iommu is True


def test_a_kernel_that_knows_iommus_and_has_none(ask: Questions) -> None:
    (ask.sys / "class/iommu").mkdir(parents=True)
    assert system(ask).iommu is False


def test_the_options_of_the_kernel(ask: Questions) -> None:
    assert isinstance(system(ask).boot, Unknown)
    put(ask.proc / "cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/vda1 iommu=pt  quiet\n")
    assert system(ask).boot == ("BOOT_IMAGE=/vmlinuz", "root=/dev/vda1", "iommu=pt", "quiet")


LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            {files:<20} 1048576              files
Max locked memory         {locked:<20} unlimited            bytes
"""


@pytest.mark.parametrize(
    ("files", "locked", "found"),
    [
        pytest.param("1024", "8388608", {"open_files": 1024, "locked_memory": 8388608}, id="numbers"),
        pytest.param("65536", "unlimited", {"open_files": 65536, "locked_memory": None}, id="unlimited"),
    ],
)
def test_limits(files: str, locked: str, found: dict[str, int | None], ask: Questions) -> None:
    put(ask.proc / "self/limits", LIMITS.format(files=files, locked=locked))
    assert system(ask).limits == found


def test_the_limits_are_those_that_this_process_has(ask: Questions) -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    found = system(replace(ask, root=Path("/"))).limits
    assert found["open_files"] == (None if soft == resource.RLIM_INFINITY else soft)


def test_tools_are_programs_below_the_root(ask: Questions, machine: Path) -> None:
    put(machine / "usr/bin/docker", "#!/bin/sh\n", 0o755)
    put(machine / "usr/sbin/modprobe", "#!/bin/sh\n", 0o755)
    put(machine / "usr/local/bin/nvidia-ctk", "#!/bin/sh\n", 0o755)
    put(machine / "usr/bin/podman", "not a program\n", 0o644)
    assert system(ask).tools == ("docker", "modprobe", "nvidia-ctk")


def test_tools_of_the_machine_itself_are_on_the_path(
    ask: Questions, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(machine / "mine/nvidia-smi", "#!/bin/sh\n", 0o755)
    before = system(replace(ask, root=Path("/"))).tools
    monkeypatch.setenv("PATH", str(machine / "mine"))
    after = system(replace(ask, root=Path("/"))).tools
    assert "nvidia-smi" in after
    sbin = {name for name in before if any(Path(place, name).exists() for place in ("/usr/sbin", "/sbin"))}
    assert sbin <= set(after)


def test_cpu_counts_cores_and_threads_apart(ask: Questions) -> None:
    found = cpu(ask)
    assert found.model == "Some CPU @ 3 GHz"
    assert found.cores == 2
    assert found.threads == len(os.sched_getaffinity(0))
    assert found.flags == ("fpu", "avx2", "amx_tile")
    assert (found.sockets, found.all_threads) == (1, 4)


def test_two_sockets_have_cores_of_the_same_number(ask: Questions) -> None:
    put(
        ask.proc / "cpuinfo",
        "".join(
            f"processor\t: {n}\nmodel name\t: Xeon\nphysical id\t: {n // 4}\ncore id\t\t: {n % 4}\n\n"
            for n in range(8)
        ),
    )
    found = cpu(ask)
    assert (found.sockets, found.cores, found.all_threads) == (2, 8, 8)


def test_a_process_bound_to_one_processor_knows_how_many_there_are(ask: Questions) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        found = cpu(ask)
    finally:
        os.sched_setaffinity(0, allowed)
    assert (found.threads, found.all_threads) == (1, 4)


def test_an_arm_cpu_has_features_and_no_core_ids(ask: Questions) -> None:
    put(
        ask.proc / "cpuinfo",
        "".join(f"processor\t: {n}\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n\n" for n in range(3)),
    )
    found = cpu(ask)
    assert (found.model, found.cores, found.flags) == ("0xd0c", 3, ("fp", "asimd"))
    assert (found.sockets, found.all_threads) == (1, 3)
