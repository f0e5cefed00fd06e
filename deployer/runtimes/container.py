"""One part of a unit as the container that the engine is asked to make: hardened, and with its GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployer.frozen import dataclass
from deployer.runtimes.base import OFFLINE, About, Launch, Mount, Part, alias, deployment_of
from deployer.runtimes.living import Member, confinement
from deployer.sizing.memory import shared_memory

PORT = 8080  # inside containers
LABEL = "io.deployer"
SCRATCH = "size=1g,mode=1777"  # Docker adds noexec, nosuid, nodev
_COMPILED = "size=8g,mode=1777,exec"  # for engines that compile kernels at their start
PIDS = 2048
_LOGS = {"max-size": "10m", "max-file": "3"}
# What NVIDIA's documents give containers of several GPUs: NCCL locks the memory that cards read directly.
_SEVERAL = (("memlock", -1), ("stack", 67108864))


@dataclass(frozen=True)
class Ground:
    """What of the engine and of this home decides how containers are made.

    `tag` tells the containers of this home apart; `user` is `uid:gid` inside. `seccomp` is whether the engine knows
    `seccomp=builtin`, its own filter whatever its configuration says; `limits` whether it may raise limits;
    `restart` whether it brings containers back by itself, after a reboot too.
    """

    tag: str
    user: str
    seccomp: bool = True
    limits: bool = True
    restart: bool = False

    def network(self, unit: str, *, inner: bool) -> str:
        return f"deployer-{deployment_of(unit)}-{self.tag}" + ("-inner" if inner else "")

    def options(self, *, inner: bool, outside: bool) -> dict[str, str]:
        """The bridge's: no way out unless the gateway asks `outside`, and not even this host is in the inner one."""
        if inner:
            return {"com.docker.network.bridge.inhibit_ipv4": "true"}
        return {} if outside else {"com.docker.network.bridge.enable_ip_masquerade": "false"}

    @property
    def security(self) -> list[str]:
        return ["no-new-privileges", *(["seccomp=builtin"] if self.seccomp else [])]


def joins(launch: Launch) -> bool:
    """Whether its last part reaches engines, of this unit or of those below it."""
    return launch.port is not None and launch.parts[-1].role == "gateway"


def networks(launch: Launch) -> tuple[bool, ...]:
    """The networks that its parts need: True is the inner one, False the one from which a port is published."""
    inner = launch.port is None or len(launch.parts) > 1 or joins(launch)
    return (*([True] if inner else []), *([False] if launch.port is not None else []))


def create(launch: Launch, part: Part, ground: Ground) -> dict[str, Any]:
    """The arguments of docker's `create_container`."""
    from docker.types import DeviceRequest, HostConfig, LogConfig, Ulimit

    public = launch.port is not None and part is launch.parts[-1]
    network = ground.network(launch.unit, inner=not public)
    devices = []
    if part.gpus and part.gpu_injection == "cdi":
        devices = [DeviceRequest(driver="cdi", device_ids=[f"nvidia.com/gpu={gpu}" for gpu in part.gpus])]
    elif part.gpus and part.gpu_injection == "hook":
        devices = [DeviceRequest(device_ids=list(part.gpus), capabilities=[["gpu"]])]
    several = len(part.gpus) > 1
    host: dict[str, Any] = HostConfig(
        version="1.41",
        binds=[f"{m.source}:{m.target}:{'rw' if m.writable else 'ro'}" for m in part.mounts],
        port_bindings={f"{PORT}/tcp": (launch.address, launch.port)} if public else None,
        network_mode=network,
        read_only=True,
        tmpfs={"/tmp": _COMPILED if part.compiles else SCRATCH},
        cap_drop=["ALL"],
        security_opt=ground.security,
        init=True,  # reaps what engines leave behind, and hands signals on
        pids_limit=PIDS,
        ipc_mode="private",
        shm_size=shared_memory(len(part.gpus)) or None,
        ulimits=[Ulimit(name=n, soft=v, hard=v) for n, v in _SEVERAL] if several and ground.limits else None,
        log_config=LogConfig(type="json-file", config=dict(_LOGS)),
        device_requests=devices or None,
        runtime="nvidia" if _by_runtime(part) else None,
        restart_policy={"Name": "unless-stopped"} if ground.restart else None,
    )
    return {
        "image": part.image,
        "command": list(part.arguments[1:]),
        "name": f"deployer-{launch.unit.replace('/', '-')}-{part.role}-{ground.tag}",
        "user": ground.user,
        "environment": {**OFFLINE, **part.environment, **_named(part)},
        "ports": [PORT] if public else None,
        "host_config": host,
        "networking_config": None
        if public
        else {"EndpointsConfig": {network: {"Aliases": [alias(launch.unit) or part.role]}}},
        "labels": {
            f"{LABEL}.home": ground.tag,
            f"{LABEL}.unit": launch.unit,
            f"{LABEL}.role": part.role,
            f"{LABEL}.order": str(launch.parts.index(part)),
            f"{LABEL}.parts": str(len(launch.parts)),
            f"{LABEL}.generation": str(launch.generation),
            f"{LABEL}.port": str(launch.port or ""),
            f"{LABEL}.fingerprint": launch.fingerprint,
        },
    }


def described(raw: Mapping[str, Any], image: Mapping[str, Any], members: Sequence[Member]) -> About:
    """The container that the engine describes as `raw`, made of the image that it describes as `image`."""
    host, labels, config = raw["HostConfig"], raw["Config"]["Labels"], raw["Config"]
    limits = {
        "user": config["User"],
        "root": "read-only" if host["ReadonlyRootfs"] else "writable",
        "tmp": (host["Tmpfs"] or {}).get("/tmp", "none"),
        "capabilities": "none" if host["CapDrop"] == ["ALL"] and not host["CapAdd"] else "some",
        "security": " ".join(host["SecurityOpt"] or ()),
        "pids": str(host["PidsLimit"]),
        "shared_memory": str(host["ShmSize"]),
        "logs": " × ".join(host["LogConfig"]["Config"].get(key, "unlimited") for key in ("max-file", "max-size")),
        "init": "yes" if host["Init"] else "no",
        "restart": host["RestartPolicy"]["Name"] or "no",
        **{f"ulimit_{one['Name']}": str(one["Hard"]) for one in host["Ulimits"] or ()},
    }
    program = next((one for one in members if one.pid != raw["State"]["Pid"]), None)  # the first one is init
    limits |= confinement(program.pid) if program else {}
    devices = [name for one in host["DeviceRequests"] or () for name in one["DeviceIDs"] or ()]
    networks = {name: one["IPAddress"] for name, one in raw["NetworkSettings"]["Networks"].items()}
    for bindings in (host["PortBindings"] or {}).values():
        networks |= {"host": f"{bindings[0]['HostIp']}:{bindings[0]['HostPort']}"}
    return About(
        role=labels[f"{LABEL}.role"],
        state=raw["State"]["Status"],
        program=config["Image"],
        arguments=tuple(config["Cmd"] or ()),
        pids=tuple(one.pid for one in members),
        limits=limits,
        id=raw["Id"],
        identity=raw["Image"],
        mounts=tuple(Mount(one["Source"], one["Destination"], one["RW"]) for one in raw["Mounts"]),
        gpus=tuple(devices),
        networks=networks,
        labels=image["Config"]["Labels"] or {},
    )


def _by_runtime(part: Part) -> bool:
    return bool(part.gpus) and part.gpu_injection == "runtime"


def _named(part: Part) -> dict[str, str]:
    """The GPUs, where NVIDIA's runtime takes them from the environment."""
    if not _by_runtime(part):
        return {}
    return {"NVIDIA_VISIBLE_DEVICES": ",".join(part.gpus), "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
