"""The files of a described host below one root: /proc, /sys, /etc, /dev, libraries, packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.stage.describe import CARDS, Description, address, devices, nodes

SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
HOOKS = ("nvidia-container-runtime-hook", "nvidia-container-runtime", "nvidia-ctk")
BOUND = ("/etc/resolv.conf", "/etc/hostname", "/etc/hosts")  # what engines mount into every container
FREE_INODE = 70000  # of the sockets that hold ports


def write(said: Description, root: Path, libraries: Path | None) -> None:
    """Writes everything below `root`; the driver's libraries are links to those in `libraries`."""
    for part in (_proc, _processes, _sys, _etc, _dev, _programs, _packages, _cdi):
        for name, text in part(said, root).items():
            put(root / name, text)
    _links(said, root, libraries)
    for folder in ("tmp", "home/ubuntu", "dev/shm", "sys/bus/pci/devices", *said["disks"]):
        (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    if said["engine"]:
        (root / said["engine"]["root"].lstrip("/")).mkdir(parents=True, exist_ok=True)
    if said["system"]["systemd"]:
        (root / "run/systemd/system").mkdir(parents=True)


def put(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def library_folder(said: Description) -> str:
    """Where the driver's libraries are on such a host, without the leading slash."""
    machine = said["system"]["architecture"]
    return str((said["driver"] or {}).get("folder", f"usr/lib/{machine}-linux-gnu"))


def _proc(said: Description, root: Path) -> dict[str, str | bytes]:
    system, memory, cpu, driver = said["system"], said["memory"], said["cpu"], said["driver"]
    limits = system["limits"]
    files: dict[str, str | bytes] = {
        "proc/sys/kernel/osrelease": f"{system['kernel']}\n",
        "proc/version": f"Linux version {system['kernel']} (buildd@host) (gcc) #1 SMP\n",
        "proc/cmdline": f"{system['boot']}\n",
        "proc/meminfo": "".join(
            f"{name}: {int(value * 2**20)} kB\n"
            for name, value in {
                "MemTotal": memory["total"],
                "MemFree": memory["available"] / 2,
                "MemAvailable": memory["available"],
                "SwapTotal": memory["swap"],
                "SwapFree": memory["swap"],
            }.items()
        )
        + "HugePages_Total: 0\n",
        "proc/cpuinfo": "".join(_processor(cpu, n) for n in range(cpu["threads"])),
        "proc/sys/vm/overcommit_memory": f"{memory['overcommit']}\n",
        "proc/sys/vm/max_map_count": f"{memory['maps']}\n",
        "proc/self/mounts": "".join(
            f"{disk.get('source', '/dev/disk')} {'' if path == '/' else root}{path} {disk['filesystem']} rw 0 0\n"
            for path, disk in said["disks"].items()
        )
        + "".join(f"/dev/disk {path} ext4 rw 0 0\n" for path in BOUND if system["container"]),
        "proc/self/limits": "Limit                     Soft Limit           Hard Limit           Units\n"
        f"Max open files            {_limit(limits['open_files'])}              1048576              files\n"
        f"Max locked memory         {_limit(limits['locked_memory'])}             unlimited            bytes\n",
        "proc/self/cgroup": "0::/deployer\n" if memory["limit"] else "0::/user.slice/session-1.scope\n",
        "proc/1/comm": "systemd\n" if system["systemd"] else "sh\n",
        "proc/1/environ": b"HOME=/\0TERM=linux\0",
    }
    if system.get("kernel_modules", True):
        loaded = [*(driver or {}).get("loaded", ()), *said.get("modules", ())]
        files["proc/modules"] = "".join(
            f"{name} 16384 0 - Live 0x0000000000000000\n" for name in (*loaded, "ext4")
        )
        built = driver and driver["built"]
        files[f"lib/modules/{system['kernel']}/modules.dep"] = "kernel/fs/ext4/ext4.ko.zst:\n" + (
            "updates/dkms/nvidia.ko.zst:\n" if built else ""
        )
    numbers = "Character devices:\n  1 mem\n195 nvidia\n" if driver else "Character devices:\n  1 mem\n"
    if driver and "nvidia_uvm" in driver["loaded"]:
        numbers += f"{driver['uvm']} nvidia-uvm\n"
    files["proc/devices"] = numbers + "\nBlock devices:\n259 blkext\n"
    if driver and driver["module"] and "nvidia" in driver["loaded"]:
        kind = (
            f"Open Kernel Module for {system['architecture']}"
            if driver["open"]
            else f"{system['architecture']} Kernel Module"
        )
        files["proc/driver/nvidia/version"] = (
            f"NVRM version: NVIDIA UNIX {kind}  {driver['module']}  Release Build  (dvs-builder@U22)\n"
            "GCC version:  gcc version 13.3.0\n"
        )
    return files


def _limit(value: int | None) -> str:
    return "unlimited" if value is None else str(value)


def _processor(cpu: dict[str, Any], number: int) -> str:
    cores = cpu["cores"] * cpu["sockets"]
    core = number % cores
    model = f"model name\t: {cpu['model']}\n" if "part" not in cpu else f"CPU part\t: {cpu['part']}\n"
    return (
        f"processor\t: {number}\n{model}physical id\t: {core // cpu['cores']}\ncore id\t\t: {core % cpu['cores']}\n"
        f"flags\t\t: {cpu['flags']}\n\n"
    )


def _processes(said: Description, root: Path) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {}
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    for pid, one in said["processes"].items():
        container = one.get("container")
        group = f"/system.slice/docker-{container}.scope" if container else "/user.slice/session-2.scope"
        user = one.get("user", 1000)
        files |= {
            f"proc/{pid}/comm": f"{one['name'][:15]}\n",
            f"proc/{pid}/status": f"Name:\t{one['name'][:15]}\nUid:\t{user}\t{user}\t{user}\t{user}\n",
            f"proc/{pid}/stat": f"{pid} ({one['name'][:15]}) {one.get('state', 'S')} 1 {pid} {pid} 0 -1 4194560\n",
            f"proc/{pid}/cgroup": f"0::{group}\n",
        }
    for n, (port, pid) in enumerate(said["ports"].items()):
        table += (
            f"   {n}: 0100007F:{int(port):04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000"
        )
        table += f"        0 {FREE_INODE + n} 1 0000000000000000 100 0 0 10 0\n"
        if pid:
            handle = root / f"proc/{pid}/fd/3"
            handle.parent.mkdir(parents=True, exist_ok=True)
            handle.symlink_to(f"socket:[{FREE_INODE + n}]")
    return {**files, "proc/net/tcp": table}


def _sys(said: Description, root: Path) -> dict[str, str | bytes]:
    system, memory = said["system"], said["memory"]
    files: dict[str, str | bytes] = {
        "sys/class/dmi/id/sys_vendor": f"{system['vendor']}\n",
        "sys/class/dmi/id/product_name": f"{system['product']}\n",
        "sys/fs/cgroup/memory.stat": "inactive_file 0\n",
    }
    if system["secure_boot"] is not None:
        files[f"sys/firmware/efi/efivars/{SECURE_BOOT}"] = bytes([6, 0, 0, 0, system["secure_boot"]])
    if system["selinux"]:
        files["sys/fs/selinux/enforce"] = "1" if system["selinux"] == "enforcing" else "0"
        files["sys/fs/selinux/booleans/container_use_devices"] = "0 0\n"
    if system["apparmor"]:
        files["sys/kernel/security/apparmor/profiles"] = ""
    if system["iommu"]:
        files["sys/class/iommu/ivhd0/name"] = ""
    if memory["limit"]:
        files["sys/fs/cgroup/deployer/memory.max"] = f"{int(memory['limit'] * 2**30)}\n"
        files["sys/fs/cgroup/deployer/memory.current"] = f"{int(memory['used'] * 2**30)}\n"
    for (path, disk), (major, minor) in zip(said["disks"].items(), devices(said), strict=True):
        if disk["rotating"] is not None and path != "/dev/shm":
            kind = "virtio1" if disk.get("virtual") else "nvme"
            place = f"sys/devices/{kind}/block/disk{minor}"
            files[f"{place}/queue/rotational"] = f"{int(disk['rotating'])}\n"
            block = root / f"sys/dev/block/{major}:{minor}"
            block.parent.mkdir(parents=True, exist_ok=True)
            block.symlink_to(f"../../{place.removeprefix('sys/')}")
    on_bus = [(address(g, n), g) for n, g in enumerate(said["gpus"]) if CARDS[g["card"]]["device"]]
    for place, gpu in on_bus if said.get("bus", True) else ():
        files |= _pci(place, CARDS[gpu["card"]]["device"], gpu.get("class", "0x030200"), gpu.get("numa", -1))
        bound = gpu.get("bound", "nvidia" if said["driver"] and said["driver"]["loaded"] else None)
        if bound:
            (root / f"sys/bus/pci/drivers/{bound}").mkdir(parents=True, exist_ok=True)
            (root / f"sys/bus/pci/devices/{place}").mkdir(parents=True)
            (root / f"sys/bus/pci/devices/{place}/driver").symlink_to(f"../../drivers/{bound}")
    for n in range(said["nvswitches"]):
        files |= _pci(f"0000:{0x70 + n:02x}:00.0", "22a3", "0x068000", -1)
    return files


def _pci(place: str, device: str, kind: str, numa: int) -> dict[str, str | bytes]:
    folder = f"sys/bus/pci/devices/{place}"
    return {
        f"{folder}/vendor": "0x10de\n",
        f"{folder}/device": f"0x{device}\n",
        f"{folder}/class": f"{kind}\n",
        f"{folder}/numa_node": f"{numa}\n",
    }


def _etc(said: Description, root: Path) -> dict[str, str | bytes]:
    system, engine, toolkit = said["system"], said["engine"], said["toolkit"]
    like = f"ID_LIKE={system['like']}\n" if system["like"] else ""
    files: dict[str, str | bytes] = {
        "etc/os-release": f'PRETTY_NAME="{system["name"]}"\nID={system["id"]}\n{like}',
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n",
    }
    if engine and engine["settings"]:
        files["etc/docker/daemon.json"] = json.dumps(engine["settings"], indent=4)
    if toolkit:
        sections: dict[str, list[str]] = {}
        for name, value in toolkit["settings"].items():
            section, _, key = name.rpartition(".")
            sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}\n")
        files["etc/nvidia-container-runtime/config.toml"] = "".join(
            (f"[{section}]\n" if section else "") + "".join(lines)
            for section, lines in sorted(sections.items())
        )
    if system["container"] == "docker":
        files[".dockerenv"] = ""
    return files


def _dev(said: Description, root: Path) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {f"dev/{name}": "" for name in nodes(said)}
    files["dev/kmsg"] = "".join(
        f"{4 if 'Xid' in line else 6},{1000 + n},{5_000_000 + 1_000_000 * n},-;{line}\n"
        for n, line in enumerate(said["log"])
    )
    char = root / "dev/char"
    char.mkdir(parents=True)
    for name, numbers in nodes(said).items():
        if numbers and said.get("char_links", True):
            (char / f"{numbers[0]}:{numbers[1]}").symlink_to(f"../{name}")
    return files


def _programs(said: Description, root: Path) -> dict[str, str | bytes]:
    driver, toolkit, engine = said["driver"], said["toolkit"], said["engine"]
    names = list(said["tools"])
    if driver and driver["library"]:
        names += ["nvidia-smi", "nvidia-modprobe"]
    if toolkit:
        names += toolkit.get("programs", HOOKS)
    if said.get("fabric_manager"):
        names.append("nv-fabricmanager")
    for name in names:
        path = root / "usr/bin" / name
        put(path, "")
        path.chmod(0o755)
    buildx = engine and engine["buildx"]
    return {"usr/libexec/docker/cli-plugins/docker-buildx": ""} if buildx else {}


def _packages(said: Description, root: Path) -> dict[str, str | bytes]:
    if "debian" not in (said["system"]["id"], said["system"]["like"]):
        return {}
    found, held = dict(said["packages"]), said.get("held", ())
    driver, toolkit = said["driver"], said["toolkit"]
    windows = driver and "wsl" in driver.get("folder", "")  # its libraries come with no package
    if driver and driver["library"] and said["system"]["like"] and not windows:
        branch = driver["library"].split(".")[0]
        version = f"{driver['library']}-0ubuntu0.24.04.1"
        found |= {
            f"nvidia-driver-{branch}{'-open' if driver['open'] else ''}": version,
            f"libnvidia-compute-{branch}": version,
        }
    if said.get("fabric_manager"):
        branch = said["fabric_manager"].split(".")[0]
        found[f"nvidia-fabricmanager-{branch}"] = f"{said['fabric_manager']}-0ubuntu0.24.04.1"
    if toolkit:
        found["nvidia-container-toolkit"] = toolkit["version"]
    text = "".join(
        f"Package: {name}\nStatus: {'hold' if name in held else 'install'} ok installed\nArchitecture: amd64\n"
        f"Version: {version}\n\n"
        for name, version in sorted(found.items())
    )
    return {"var/lib/dpkg/status": text}


def _cdi(said: Description, root: Path) -> dict[str, str | bytes]:
    """As `nvidia-ctk cdi generate` writes it: devices by number, by UUID and all at once."""
    files: dict[str, str | bytes] = {}
    for spec in said["cdi"] if said["driver"] and said["gpus"] else ():
        driver = spec.get("driver", said["driver"]["library"])
        folder = library_folder(said)
        devices = spec.get("devices", [*(str(n) for n in range(len(said["gpus"]))), "all"])
        lines = [f"---\ncdiVersion: {spec['version']}\nkind: nvidia.com/gpu\ndevices:\n"]
        for name in devices:
            each = range(len(said["gpus"])) if name == "all" else [int(name.split(":")[0])]
            lines.append(f'- name: "{name}"\n  containerEdits:\n    deviceNodes:\n')
            lines += [f"    - path: /dev/{node}\n" for node in spec.get("each", [f"nvidia{n}" for n in each])]
        lines.append("containerEdits:\n  deviceNodes:\n")
        lines += [f"  - path: /dev/{name}\n" for name in spec.get("nodes", ("nvidiactl", "nvidia-uvm"))]
        lines.append("  mounts:\n")
        for library in ("libcuda.so", "libnvidia-ml.so"):
            path = f"/{folder}/{library}.{driver}"
            lines.append(
                f"  - hostPath: {path}\n    containerPath: {path}\n    options: [ro, nosuid, nodev, bind]\n"
            )
        files[spec["path"].lstrip("/")] = "".join(lines)
    return files


def _links(said: Description, root: Path, libraries: Path | None) -> None:
    version = (said["driver"] or {}).get("library")
    if not version or libraries is None:
        return
    folder = root / library_folder(said)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libcuda.so", "libnvidia-ml.so"):
        (folder / f"{name}.{version}").symlink_to(libraries / f"{name}.1")
        (folder / f"{name}.1").symlink_to(f"{name}.{version}")
