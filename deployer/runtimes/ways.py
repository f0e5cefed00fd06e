"""Every way for a GPU into a container, tried: a small container asks NVML and CUDA what they see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer.errors import DeployerError
from deployer.host import ContainerRuntime, Deep, DiskRate, Fact, GpuRate, Host, Toolkit, Unknown, Way, deep
from deployer.host.deep import PROGRAM, parse
from deployer.progress import Progress

if TYPE_CHECKING:
    import docker as sdk

LIMIT_S = 60  # for one container; the first one wakes the GPUs
_LABEL = "io.deployer.once"


def tried(
    found: Host, address: str, images: tuple[str, ...], make: Callable[[], str], progress: Progress
) -> Deep:
    """Everything that `check --deep` tries. Of `images`, which have python3, the first that is here is used.

    Where none is and one is needed, `make` makes it and gives its name. GPUs are measured on the host, their
    matrix rate in the first image that has torch.
    """
    disks: dict[str, Fact[DiskRate]] = {}
    for name, disk in (("models", found.models_disk), ("images", found.images_disk)):
        if isinstance(disk, Unknown):
            disks[name] = disk
        else:
            progress.say(f"writing and reading 256 MiB in {disk.path}")
            disks[name] = deep.disk_rate(Path(disk.path))
    none = Unknown("there is no usable GPU")
    if isinstance(found.gpus, Unknown) or not found.gpus:
        return Deep(none, disks, none, none)
    progress.say("measuring the GPUs")
    gpus, peers = deep.gpu_rates()
    if not isinstance(found.runtime, ContainerRuntime):
        return Deep(Unknown("there is no container runtime"), disks, gpus, peers)
    try:
        toolkit = None if isinstance(found.toolkit, Unknown) else found.toolkit
        names = configured(found.runtime, toolkit)
        here = [image for image in images if _is_here(address, image)] or ([make()] if names else [])
        if names:
            progress.say(f"starting containers of {here[0]}")
        seen = tuple(_try(_client(address), name, found.runtime, here[0]) for name in names)
        good = next((way.name for way in seen if isinstance(way.cuda, int) and way.cuda), None)
        torch = next((image for image in here if "/transformers:cu" in image), None)
        if good and torch and not isinstance(gpus, Unknown):
            progress.say(f"multiplying matrices in {torch}")
            gpus = _with_matrix(gpus, matrix(address, found.runtime, good, torch))
    except (OSError, DeployerError) as error:
        return Deep(Unknown(str(error)), disks, gpus, peers)
    return Deep(seen, disks, gpus, peers)


def _is_here(address: str, image: str) -> bool:
    import docker.errors

    try:
        _client(address).images.get(image)
    except docker.errors.APIError:
        return False
    return True


def _with_matrix(gpus: tuple[GpuRate, ...], lines: list[dict[str, Any]]) -> tuple[GpuRate, ...]:
    rates = {line["matrix"]["uuid"]: float(line["matrix"]["rate"]) for line in lines if "matrix" in line}
    problem = next((str(line["error"]) for line in lines if "error" in line), "it was not measured")
    return tuple(replace(gpu, matrix=rates.get(gpu.uuid, Unknown(problem))) for gpu in gpus)


def configured(engine: ContainerRuntime, toolkit: Toolkit | None) -> tuple[str, ...]:
    """The ways for a GPU into a container that are set up here, the one that is taken first."""
    names = ["cdi"] if engine.cdi_gpus else []
    if engine.nvidia_runtime:
        names.append("runtime")
    if toolkit is not None and toolkit.hook and engine.kind == "docker":
        names.append("hook")
    return tuple(names)


def matrix(address: str, engine: ContainerRuntime, way: str, image: str) -> list[dict[str, Any]]:
    """The answers of `inside.py matrix` in a container of `image`, which has torch. Raises OSError."""
    said, problem = _run(_client(address), way, engine, image, ["matrix"], 300)
    return parse(said) or [{"error": problem or "it said nothing"}]


def _try(client: sdk.DockerClient, name: str, engine: ContainerRuntime, image: str) -> Way:
    said, problem = _run(client, name, engine, image, ["ask"], LIMIT_S)
    found = {key: value for line in parse(said) for key, value in line.items()}
    if not found:
        reason = Unknown(problem or "the container said nothing")
        return Way(name, reason, reason, reason)
    inside, cuda = found.get("nvml", {}), found.get("cuda", {})
    return Way(
        name,
        inside.get("count", Unknown(str(inside.get("error", problem)))),
        cuda.get("count", Unknown(str(cuda.get("error", problem)))),
        cuda.get("version", Unknown(str(cuda.get("error", problem)))),
    )


def _run(
    client: sdk.DockerClient, way: str, engine: ContainerRuntime, image: str, words: list[str], limit: int
) -> tuple[str, str | None]:
    """What the program printed in a container, and the engine's words where it could not be started or ended."""
    import docker.errors
    import requests
    from docker.types import DeviceRequest

    options: dict[str, Any] = {}
    if way == "cdi":
        names = ["all"] if "all" in engine.cdi_gpus else list(engine.cdi_gpus)
        options["device_requests"] = [
            DeviceRequest(driver="cdi", device_ids=[f"nvidia.com/gpu={n}" for n in names])
        ]
    elif way == "runtime":
        options["runtime"] = "nvidia"
    else:
        options["device_requests"] = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    container = None
    try:
        container = client.containers.create(
            image,
            entrypoint=["python3", "-c", PROGRAM.read_text()],
            command=words,
            environment={"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
            if way == "runtime"
            else {},
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": "size=64m,mode=1777"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            labels={_LABEL: "way"},
            **options,
        )
        container.start()
        container.wait(timeout=limit)
        return container.logs(stdout=True, stderr=False).decode(errors="replace"), None
    except docker.errors.APIError as error:
        return "", str(error.explanation or error)
    except requests.exceptions.RequestException:
        said = "" if container is None else container.logs(stdout=True, stderr=False).decode(errors="replace")
        return said, f"no answer in {limit} s"
    finally:
        if container is not None:
            try:
                container.remove(force=True)
            except (docker.errors.APIError, requests.exceptions.RequestException):
                pass  # one in the driver's hands cannot be removed; its label says whose it is


def _client(address: str) -> sdk.DockerClient:
    import docker
    import docker.errors
    import requests

    try:
        return docker.DockerClient(base_url=address, version="auto", timeout=30)
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise OSError(f"no container engine answers at {address}: {error}") from error
