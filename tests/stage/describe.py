"""Descriptions of hosts: read from hosts/*.json, completed, and written out in full for the fake libraries."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MIB, GIB, GB = 2**20, 2**30, 10**9
CARDS: dict[str, Any] = json.loads((HERE / "cards.json").read_text())
ARCHITECTURES = {"6.1": 4, "7.0": 5, "7.5": 6, "8.0": 7, "8.6": 7, "8.7": 7, "8.9": 8, "9.0": 9}
BLACKWELL = 10
LOST = 15  # NVML_ERROR_GPU_IS_LOST
NO_FUNCTION = 13  # what nvidia-ml-py makes of a symbol that the library lacks
NO_PERMISSION = 4
TESLA_MAJOR, UVM_TOOLS = 195, 1

Description = dict[str, Any]


def names() -> tuple[str, ...]:
    """Every host that is described, `base` left out."""
    return tuple(sorted(path.stem for path in (HERE / "hosts").glob("*.json") if path.stem != "base"))


def load(name: str) -> Description:
    """The description with all that it leaves out, from the host that it is `like`, else from `base`."""
    said = json.loads((HERE / "hosts" / f"{name}.json").read_text())
    if name == "base":
        return dict(said)
    return {**merged(load(said.pop("like", "base")), said), "name": name}


def merged(under: Any, over: Any) -> Any:
    """Objects are merged; anything else, lists too, takes the place of what was there."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {**under, **{key: merged(under.get(key), value) for key, value in over.items()}}


def address(gpu: dict[str, Any], index: int) -> str:
    """The PCI address as the kernel writes it."""
    return str(gpu.get("pci", f"0000:{index + 1:02x}:00.0"))


def play(said: Description, root: Path, names: dict[str, int]) -> dict[str, Any]:
    """What the fake libraries read. `names` are places of the network and the ports where they are played."""
    gpus = [_gpu(said, index) for index in range(len(said["gpus"]))]
    driver = said["driver"] or {}
    return {
        "driver": driver.get("library"),
        "cuda_version": _cuda_version(driver["cuda"]) if driver.get("cuda") else None,
        "gpus": [gpu for gpu in gpus if gpu["seen"]],
        "cuda": {"devices": [device for gpu in gpus for device in gpu.pop("devices")]},
        "errors": {**dict.fromkeys(said["missing"], NO_FUNCTION), **said["errors"]},
        "hang": said["hang"],
        "libc": _libc(said, root, names),
    }


def _gpu(said: Description, index: int) -> dict[str, Any]:
    mine = said["gpus"][index]
    card = {**CARDS[mine["card"]], **mine}
    capability = [int(part) for part in card["capability"].split(".")]
    reserved, processes = card.get("reserved", 0), card.get("processes", [])
    used = mine.get("used", 2) + sum(p.get("memory") or 0 for p in processes)
    ecc, power, pcie, mig = card["ecc"], card["power"], card["pcie"], card["mig"]
    link = mine.get("link", [1, pcie[1]] if pcie else None)
    slices = [_slice(said, index, n, part) for n, part in enumerate(mine.get("slices", []))]
    found: dict[str, Any] = {
        "seen": mine.get("nvml", True),
        "name": mine["card"],
        "uuid": f"GPU-{_uuid(said, index)}",
        "pci": f"0000{address(mine, index).upper()}" if card["device"] else None,
        "pci_device": int(card["device"], 16) if card["device"] else 0,
        "memory": _memory(card["vram"], reserved, used) if card["vram"] else None,
        "capability": capability,
        "architecture": ARCHITECTURES.get(card["capability"], BLACKWELL),
        "brand": card["brand"],
        "mig": [int(bool(slices)), int(mine.get("mig_pending", bool(slices))), mig] if mig else None,
        "slices": slices,
        "ecc": mine.get("ecc_mode", [1, 1]) if ecc else None,
        "ecc_errors": mine.get("ecc_errors", [0, 0]) if ecc else None,
        "retired": int(mine.get("retired", False)) if ecc and not card["rows"] else None,
        "remapped": mine.get("remapped", [0, 0, 0, 0]) if card["rows"] and not slices else None,
        "clock_reasons": mine.get("clock_reasons", 1),
        "temperature": mine.get("temperature", 38),
        "utilization": None if slices else mine.get("utilization", [0, 0]),
        "thresholds": card["thresholds"],
        "power": [int(w * 1000) for w in (mine.get("draw", card["idle"]), *power)] if power else None,
        "pcie": [*link, *pcie] if pcie else None,
        "nvlinks": _links(said, card),
        "fabric": {"state": mine.get("fabric", 0), "status": mine.get("fabric_status", 0)},
        "persistence": mine.get("persistence", 1),
        "compute_mode": mine.get("compute_mode", 0),
        "display": mine.get("display", 0),
        "bus_width": card["bus_width"],
        "memory_clock": card["memory_clock"],
        "compute": [_process(p) for p in processes if not p.get("graphics")],
        "graphics": [_process(p) for p in processes if p.get("graphics")],
        "errors": dict(mine.get("errors", {})),
        "hang": mine.get("hang", []),
    }
    if mine.get("lost"):
        found["errors"]["*"] = LOST
    if slices and said["system"]["user"]:  # only root is told of the whole card
        found["errors"] |= dict.fromkeys(
            ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"), NO_PERMISSION
        )
    found |= dict.fromkeys(mine.get("without", ()))
    found["devices"] = _cuda_devices(said, mine, index, found)
    return found


def _memory(total: int, reserved: int, used: int) -> dict[str, int]:
    left = total - reserved - used
    return {"total": total * MIB, "reserved": reserved * MIB, "used": used * MIB, "free": left * MIB}


def _slice(said: Description, index: int, number: int, part: Any) -> dict[str, Any] | None:
    """None: nothing is in this place."""
    if part is None:
        return None
    return {
        "name": f"{said['gpus'][index]['card']} MIG {part['profile']}",
        "uuid": f"MIG-{_uuid(said, index, number)}",
        "memory": _memory(part["vram"], 0, part.get("used", 12)),
    }


def _links(said: Description, card: dict[str, Any]) -> list[int] | None:
    """All are up between several cards and none on a card that is alone, unless told otherwise."""
    if not card["nvlinks"]:
        return None
    up = card.get("links_up", card["nvlinks"] if len(said["gpus"]) > 1 else 0)
    return [int(n < up) for n in range(card["nvlinks"])]


def _process(said: dict[str, Any]) -> dict[str, Any]:
    memory = said.get("memory")
    return {"pid": said["pid"], "memory": None if memory is None else memory * MIB}


def _cuda_devices(
    said: Description, mine: dict[str, Any], index: int, gpu: dict[str, Any]
) -> list[dict[str, Any]]:
    """What CUDA sees of the card: of slices the first alone, of a lost card nothing."""
    if mine.get("lost") or not gpu["seen"]:
        return []
    part = next((s for s in gpu["slices"] if s), None) or gpu
    memory = part["memory"] or {
        "total": int(said["memory"]["total"] * GIB),
        "free": int(said["memory"]["available"] * GIB),
    }
    major, minor = gpu["capability"]
    others = [n for n in range(len(said["gpus"])) if n != index]
    device = {
        "name": part["name"],
        "uuid": part["uuid"],
        "pci": (gpu["pci"] or "00000000:00:00.0")[4:],
        "total": memory["total"],
        "free": memory["free"],
        "attributes": {"75": major, "76": minor},
        "peers": others if gpu["nvlinks"] and any(gpu["nvlinks"]) else [],
        "errors": {k: v for k, v in gpu["errors"].items() if k.startswith("cu")},
        "hang": [name for name in gpu["hang"] if name.startswith("cu")],
    }
    return [{**device, **mine.get("cuda", {})}]


def _libc(said: Description, root: Path, names: dict[str, int]) -> dict[str, Any]:
    system, user = said["system"], said["system"]["user"]
    owners = [{"path": "/", "user": 0}, {"path": "/tmp", "user": 0, "open": True}]
    owners += [{"path": "/home/ubuntu", "user": 1000}, *said.get("owners", [])]
    home = Path(said["home"])
    if not said["home"].startswith(("/home", "/root")) and not said.get("owners"):
        owners.append({"path": str(home.parent), "user": user})
    return {
        "root": str(root),
        "architecture": system["architecture"],
        "kernel": system["kernel"],
        "cpus": said["cpu"]["allowed"] or said["cpu"]["threads"],
        "user": user,
        "disks": [
            {
                "path": path,
                "size": disk["size"] * GB,
                "free": disk["free"] * GB,
                "inodes": disk["inodes"],
                "free_inodes": disk.get("free_inodes", disk["inodes"] // 10 * 9),
                "read_only": disk.get("read_only", False),
                "hang": disk.get("hang", False),
                "major": device[0],
                "minor": device[1],
            }
            for (path, disk), device in zip(said["disks"].items(), devices(said), strict=True)
        ],
        "owners": owners,
        "nodes": [
            {"path": f"/dev/{name}", "major": n[0], "minor": n[1]} for name, n in nodes(said).items() if n
        ],
        "denied": said["denied"],
        "ports": [int(number) for number in said["ports"]],
        "names": names,
    }


def devices(said: Description) -> list[tuple[int, int]]:
    """The kernel's numbers of the disks: 259 for those in the machine, 0 for memory and the network."""
    disks = said["disks"].values()
    return [(0 if disk["rotating"] is None else 259, n + 1) for n, disk in enumerate(disks)]


def nodes(said: Description) -> dict[str, tuple[int, int] | None]:
    """Device files of the driver; None for a plain file. `"nodes"` of the description has the last word."""
    if "nodes" in said:
        return {name: tuple(n) if n else None for name, n in said["nodes"].items()}
    driver = said["driver"]
    if not driver or "nvidia" not in driver["loaded"]:
        return {}
    found: dict[str, tuple[int, int] | None] = {
        f"nvidia{n}": (TESLA_MAJOR, n) for n in range(len(said["gpus"]))
    }
    found |= {"nvidiactl": (TESLA_MAJOR, 255), "nvidia-modeset": (TESLA_MAJOR, 254)}
    if "nvidia_uvm" in driver["loaded"]:
        found |= {"nvidia-uvm": (driver["uvm"], 0), "nvidia-uvm-tools": (driver["uvm"], UVM_TOOLS)}
    return found


def _uuid(said: Description, *place: int) -> str:
    return str(uuid.UUID(bytes=hashlib.md5(f"{said['name']} {place}".encode()).digest()))


def _cuda_version(text: str) -> int:
    major, minor = text.split(".")
    return int(major) * 1000 + int(minor) * 10
