"""Containers, through the Docker Engine's API (Docker Engine, or Podman's socket).

Containers are found by their labels. Each unit has a network of its own from which no connection leads
out: without a gateway the bridge does no address translation, with one the engine's network is internal.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer.errors import LaunchError, RuntimeUnavailable
from deployer.home import Home
from deployer.progress import Progress
from deployer.runtimes.base import (
    Inside,
    Launch,
    Mount,
    Once,
    Part,
    Unit,
    ending,
    errors_in,
    fill,
    resident,
    watched,
)
from deployer.runtimes.shell import PORT, as_command
from deployer.sizing.memory import SHARED

if TYPE_CHECKING:
    import docker as sdk

USER = 10001  # of the images in images/
_LABEL = "io.deployer"
_STOP_S = 10
_CONFIG = "/run/deployer"
_SCRATCH = "size=1g,mode=1777"  # Docker adds noexec, nosuid, nodev
_COMPILED = "size=8g,mode=1777,exec"  # for engines that compile kernels at their start


class DockerRuntime:
    """Containers of `home` on the engine that listens at `address`."""

    name = "docker"

    def __init__(self, home: Home, address: str) -> None:
        self._home = home
        self._address = address
        self._client: sdk.DockerClient | None = None
        self._tag = hashlib.sha256(str(home.root).encode()).hexdigest()[:6]

    def inside(self, unit: str, model: Path, folder: Path, port: int) -> Inside:
        return Inside(
            model=str(Path("/models") / folder.name / model.relative_to(folder)),
            config=_CONFIG,
            state=f"{_CONFIG}/state",
            listen="0.0.0.0",
            engine_port=str(PORT),
            public_port=str(PORT),
            engine_url=f"http://engine:{PORT}",
        )

    def mounts(self, unit: str, folder: Path, role: str) -> tuple[Mount, ...]:
        if role == "engine":
            return (Mount(str(folder), f"/models/{folder.name}"),)
        told = self._home.gateway(unit)  # a folder, because a file that is replaced would stay the old one inside
        return (Mount(str(told), _CONFIG), Mount(str(told / "state"), f"{_CONFIG}/state", writable=True))

    def start(self, launch: Launch) -> None:
        import docker.errors

        self._share(self._home.write_for_gateway(launch.unit, "gateway.json", launch.told))
        client = self._engine()
        behind = len(launch.parts) > 1
        try:
            # containers name their network when they are made and need it when they start
            with ThreadPoolExecutor() as aside:
                networks = [
                    aside.submit(self._ensure_network, launch.unit, inner, launch.outside)
                    for inner in ((True, False) if behind else (False,))
                ]
                made = [client.api.create_container(**self._create(launch, part)) for part in launch.parts]
                for network in networks:
                    network.result()
            if behind:
                client.networks.get(self._network(launch.unit, inner=True)).connect(made[-1]["Id"])
            for container in made:
                client.api.start(container["Id"])
        except docker.errors.APIError as error:
            said = error.explanation or error
            raise LaunchError(f"the engine refuses to start {launch.unit}: {said}") from error

    def find(self, unit: str) -> Unit | None:
        return next((u for u in self.units() if u.name == unit), None)

    def units(self) -> tuple[Unit, ...]:
        found: dict[str, list[dict[str, Any]]] = {}
        for container in self._containers():
            found.setdefault(container["Labels"][f"{_LABEL}.unit"], []).append(container)
        return tuple(self._unit(name, containers) for name, containers in sorted(found.items()))

    def pulse(self, unit: str) -> Hashable:
        signs: list[Hashable] = []
        for container in self._containers(unit):
            about = self._engine().api.inspect_container(container["Id"])
            pid = about["State"]["Pid"]
            try:
                log = Path(about["LogPath"]).stat().st_size
            except OSError:
                log = len(self._engine().api.logs(container["Id"], tail=2000))
            try:
                memory = Path(f"/proc/{pid}/statm").read_text()
            except OSError:
                memory = ""
            signs.append((pid, log, memory))
        return tuple(signs)

    def resident(self, unit: str) -> int | None:
        pids = [
            self._engine().api.inspect_container(container["Id"])["State"]["Pid"]
            for container in self._containers(unit)
            if container["Labels"].get(f"{_LABEL}.role") == "engine"
        ]
        return resident(pids) or None  # the engine may be on another machine

    def stop(self, unit: str) -> None:
        import docker.errors

        client = self._engine()
        containers = self._containers(unit)
        for container in containers:
            try:
                client.api.stop(container["Id"], timeout=_STOP_S)
                client.api.remove_container(container["Id"], force=True)
            except docker.errors.NotFound:
                continue
        for network in client.networks.list(filters={"label": f"{_LABEL}.network={self._tag}-{unit}"}):
            network.remove()

    def logs(self, unit: str, *, lines: int | None = None, follow: bool = False) -> Iterator[str]:
        containers = sorted(self._containers(unit), key=lambda c: c["Labels"][f"{_LABEL}.order"])
        for container in containers:
            prefix = f"{container['Labels'][f'{_LABEL}.role']} | " if len(containers) > 1 else ""
            if follow and container is not containers[0]:
                return  # the engine is what people follow
            stream = self._engine().api.logs(
                container["Id"], stream=True, follow=follow, tail=lines if lines else "all"
            )
            yield from (prefix + line for line in _lines(stream))

    def commands(self, launch: Launch) -> tuple[str, ...]:
        return tuple(as_command(self._create(launch, part), part) for part in launch.parts)

    def has_image(self, reference: str) -> bool:
        import docker.errors

        try:
            self._engine().images.get(reference)
        except docker.errors.NotFound:  # Podman says it in other words than Docker
            return False
        return True

    def once(self, job: Once, progress: Progress) -> str:
        import docker.errors

        engine = self._engine()
        mine = hashlib.sha256(job.purpose.encode()).hexdigest()[:12]
        for left in engine.api.containers(all=True, filters={"label": f"{_LABEL}.once={self._tag}"}):
            labels = left["Labels"]  # of a command that was killed
            if labels.get(f"{_LABEL}.purpose") == mine or not Path("/proc", labels.get(f"{_LABEL}.pid", "-")).exists():
                engine.api.remove_container(left["Id"], force=True)
        outside = [job.paths[key] for key in job.writable] if os.geteuid() == 0 else []
        paths = {key: f"/{key}/{path.name}" if path.is_file() else f"/{key}" for key, path in job.paths.items()}
        first, *rest = (fill(word, paths) for word in job.arguments)
        container = None
        try:
            for path in outside:
                os.chown(path, USER, USER)
            container = engine.containers.create(
                job.program,
                entrypoint=[f"{job.folder}/{first}"],
                command=rest,
                volumes={
                    str(path): {"bind": paths[key], "mode": "rw" if key in job.writable else "ro"}
                    for key, path in job.paths.items()
                },
                name=f"deployer-once-{mine}-{self._tag}",
                user=self._user(),
                network_mode="none",
                read_only=True,
                tmpfs={"/tmp": _SCRATCH},
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                pids_limit=2048,
                labels={
                    f"{_LABEL}.once": self._tag, f"{_LABEL}.purpose": mine, f"{_LABEL}.pid": str(os.getpid()),
                },
            )  # fmt: skip
            container.start()
            said = watched(_lines(container.logs(stream=True, follow=True)), job.title, progress)
            if code := container.wait()["StatusCode"]:
                raise LaunchError(f"{job.title} failed ({ending(code)})", evidence=errors_in(said))
            return said
        except docker.errors.APIError as error:
            raise LaunchError(f"{job.title} could not be started: {error.explanation or error}") from error
        finally:
            if container is not None:
                container.remove(force=True)
            for path in (one for folder in outside for one in (folder, *folder.rglob("*"))):
                shutil.chown(path, 0, 0)

    def engine_folder(self, program: str, folder: str, name: str, scratch: Path) -> Path:
        import docker.errors

        container = None
        try:
            labels = {f"{_LABEL}.once": self._tag, f"{_LABEL}.pid": str(os.getpid())}
            container = self._engine().containers.create(program, labels=labels)
            pieces, _ = container.get_archive(f"{folder}/{name}")
            with (scratch / f"{name}.tar").open("w+b") as file:
                file.writelines(pieces)
                file.seek(0)
                with tarfile.open(fileobj=file) as archive:
                    archive.extractall(scratch, filter="data")
        except docker.errors.APIError as error:
            raise LaunchError(f"{name} cannot be taken out of {program}: {error.explanation or error}") from error
        finally:
            if container is not None:
                container.remove(force=True)
        return scratch / name

    def named(self, program: str) -> str:
        return f"{program} {self._engine().images.get(program).id}"

    def _engine(self) -> sdk.DockerClient:
        if self._client is None:
            import docker
            import docker.errors
            import requests

            try:
                self._client = docker.DockerClient(base_url=self._address, version="auto", timeout=60)
            except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
                raise RuntimeUnavailable(
                    f"no container engine answers at {self._address}: {error}",
                    hint="start it, or use the embedded runtime: --runtime process",
                ) from error
        return self._client

    def _containers(self, unit: str | None = None) -> list[dict[str, Any]]:
        import requests

        wanted = [f"{_LABEL}.home={self._tag}", *([f"{_LABEL}.unit={unit}"] if unit else [])]
        try:
            found: list[dict[str, Any]] = self._engine().api.containers(all=True, filters={"label": wanted})
        except requests.exceptions.RequestException as error:
            raise RuntimeUnavailable(
                f"the container engine at {self._address} does not answer: {error}",
                hint="restart it, or use the embedded runtime: --runtime process",
            ) from error
        return found

    def _unit(self, name: str, containers: list[dict[str, Any]]) -> Unit:
        labels = containers[0]["Labels"]
        whole = len(containers) == int(labels[f"{_LABEL}.parts"])
        running = all(c["State"] == "running" for c in containers)
        ended = next((c["Status"] for c in containers if c["State"] != "running"), None)
        state = "running" if running and whole else "stopped" if not any(
            c["State"] == "running" for c in containers
        ) else "dead"  # fmt: skip
        return Unit(
            name,
            state,
            labels[f"{_LABEL}.fingerprint"],
            int(labels[f"{_LABEL}.generation"]),
            self.name,
            int(labels[f"{_LABEL}.port"]),
            ended,
        )

    def _create(self, launch: Launch, part: Part) -> dict[str, Any]:
        """The arguments of `create_container`."""
        from docker.types import DeviceRequest, HostConfig, LogConfig

        public = part is launch.parts[-1]
        network = self._network(launch.unit, inner=not public)
        devices = []
        if part.gpus and part.gpu_injection == "cdi":
            names = [f"nvidia.com/gpu={gpu}" for gpu in part.gpus]
            devices = [DeviceRequest(driver="cdi", device_ids=names)]
        elif part.gpus:
            devices = [DeviceRequest(device_ids=list(part.gpus), capabilities=[["gpu"]])]
        host: dict[str, Any] = HostConfig(
            version="1.41",
            binds=[f"{m.source}:{m.target}:{'rw' if m.writable else 'ro'}" for m in part.mounts],
            port_bindings={f"{PORT}/tcp": (launch.address, launch.port)} if public else None,
            network_mode=network,
            read_only=True,
            tmpfs={"/tmp": _COMPILED if part.compiles else _SCRATCH},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=2048,
            shm_size=SHARED if len(part.gpus) > 1 else None,
            log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
            device_requests=devices or None,
        )
        order = launch.parts.index(part)
        return {
            "image": part.image,
            "command": list(part.arguments[1:]),
            "name": f"deployer-{launch.unit}-g{launch.generation}-{part.role}-{self._tag}",
            "user": self._user(),
            "environment": {**part.environment, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            "ports": [PORT] if public else None,
            "host_config": host,
            "networking_config": None if public else {"EndpointsConfig": {network: {"Aliases": [part.role]}}},
            "labels": {
                f"{_LABEL}.home": self._tag,
                f"{_LABEL}.unit": launch.unit,
                f"{_LABEL}.role": part.role,
                f"{_LABEL}.order": str(order),
                f"{_LABEL}.parts": str(len(launch.parts)),
                f"{_LABEL}.generation": str(launch.generation),
                f"{_LABEL}.port": str(launch.port),
                f"{_LABEL}.fingerprint": launch.fingerprint,
            },
        }

    def _network(self, unit: str, *, inner: bool) -> str:
        return f"deployer-{unit}-{self._tag}" + ("-inner" if inner else "")

    def _ensure_network(self, unit: str, inner: bool, outside: bool) -> None:
        import docker.errors

        name = self._network(unit, inner=inner)
        options = {} if inner or outside else {"com.docker.network.bridge.enable_ip_masquerade": "false"}
        label = {f"{_LABEL}.network": f"{self._tag}-{unit}"}
        client = self._engine()
        if all(network.name != name for network in client.networks.list(names=[name])):  # matches parts too
            try:
                client.networks.create(name, driver="bridge", internal=inner, options=options, labels=label)
            except docker.errors.APIError:  # Podman does not know the option; its network then leads out
                client.networks.create(name, driver="bridge", internal=inner, labels=label)

    def _user(self) -> str:
        """The user inside: this one, or for root the images' own; root where the engine itself is rootless."""
        if self._rootless():
            return "0:0"
        return f"{USER}:{USER}" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"

    def _rootless(self) -> bool:
        return os.geteuid() != 0 and f"/run/user/{os.geteuid()}/" in self._address

    def _share(self, folder: Path) -> None:
        """Gives what a container reads to its user; root can read it still, others cannot."""
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, USER, USER)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = re.split(rb"\r?\n|\r", rest + chunk)
        yield from (line.decode(errors="replace") for line in whole)
    if rest:
        yield rest.decode(errors="replace")
