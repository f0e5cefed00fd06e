"""What an image is: its configuration, from an engine or a registry; what it demands; whether its labels are true."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from deployer import compat
from deployer.compat import Compat, Demand
from deployer.errors import QuestionError, RuntimeUnavailable, SourceUnreachable
from deployer.frozen import dataclass
from deployer.images.look import engine
from deployer.images.proof import verdict
from deployer.quantity import parse_version

OURS = "io.deployer.image"
PIN = "io.deployer.pin."
CAPABILITY = "io.deployer.compute-capability"
# Programs that people choose images for, as their distributions are called.
ENGINES = (
    *("torch", "transformers", "vllm", "sglang", "tensorrt-llm", "llama-cpp-python", "onnxruntime-gpu"),
    *(
        "tensorflow",
        "jax",
        "ctranslate2",
        "text-generation-server",
        "triton",
        "flash-attn",
        "flashinfer-python",
    ),
)
# Libraries without whose code for a card an engine does not run on it; others are chosen by card at run time.
_MAIN = re.compile(
    r"/(libtorch_cuda(_cu|_cpp)?|libggml-cuda|vllm/_C[.\w-]*|libctranslate2|libtensorflow_\w+|libonnxruntime_providers_cuda)\.so"
)
_LIMIT_S = 60
_HINTS = (
    (
        r"not found|manifest unknown|repository does not exist",
        "no such image is in that registry: check name and tag",
    ),
    (
        r"unauthorized|denied|40[13] |authorization failed|no basic auth",
        "log in first: docker login REGISTRY",
    ),
    (r"x509", "its certificate is not trusted: SSL_CERT_FILE=FILE names your company's"),
    (r"HTTP response to HTTPS", "plain HTTP is spoken with registries on localhost alone"),
    (
        r"no such host|refused|timeout|timed out|unreachable",
        "it is not reached from here; HTTPS_PROXY is heeded",
    ),
)


@dataclass(frozen=True)
class Image:
    """An image as its configuration has it. `place` is `engine` or `registry`.

    `identity` is the digest that names it there, `size` bytes: unpacked on an engine, compressed in a registry, where
    `layers` has each layer's. `platforms` are all that the registry has under this name.
    """

    reference: str
    place: str
    identity: str
    platform: str
    created: str | None
    size: int
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    user: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    platforms: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether it says that `deployer` built it."""
        return OURS in self.labels

    @property
    def pins(self) -> dict[str, str]:
        """The versions that its labels promise."""
        return {key.removeprefix(PIN): value for key, value in self.labels.items() if key.startswith(PIN)}

    @property
    def compute_capability(self) -> tuple[str, ...]:
        """The cards that its label promises code for."""
        return tuple(self.labels.get(CAPABILITY, "").split())


def on_engine(reference: str, address: str) -> Image | None:
    """The image `reference` on the engine at `address`; None when it is not there.

    Raises RuntimeUnavailable when the engine does not answer, QuestionError when this is no reference.
    """
    import docker.errors

    try:
        found: dict[str, Any] = engine(address).images.get(reference).attrs
    except docker.errors.NotFound:
        return None
    except docker.errors.APIError as error:
        if error.is_client_error():
            raise QuestionError(f"`{reference}` names no image: {error.explanation}") from error
        raise RuntimeUnavailable(f"the engine cannot tell of {reference}: {error}") from error
    variant = f"/{found['Variant']}" if found.get("Variant") else ""
    return Image(
        reference=reference,
        place="engine",
        identity=found["Id"],
        platform=f"{found['Os']}/{found['Architecture']}{variant}",
        created=found.get("Created"),
        size=found["Size"],
        digests=tuple(found.get("RepoDigests") or ()),
        **_configuration(found.get("Config") or {}),
    )


def in_registry(reference: str, platform: str) -> Image:
    """The image `reference` as its registry describes it, no layer pulled; of an index, that for `platform`.

    Where an index has none for it, the first is taken. Raises SourceUnreachable with what the registry said.
    """
    text = _imagetools(reference, "--raw")
    manifest, here, platforms = json.loads(text), reference, []
    if "manifests" in manifest:
        entries = {
            _name(entry["platform"]): entry["digest"] for entry in manifest["manifests"] if _real(entry)
        }
        if not entries:
            raise QuestionError(f"{reference} is an index without images")
        platforms = [*entries]
        fits = next((name for name in platforms if name.startswith(platform)), platforms[0])
        here = f"{repository(reference)}@{entries[fits]}"
        text = _imagetools(here, "--raw")
        manifest = json.loads(text)
    if "layers" not in manifest:
        raise QuestionError(f"{reference} is no image that can be run: {manifest.get('mediaType')}")
    whole = json.loads(_imagetools(here, "--format", "{{json .Image}}"))
    layers = tuple(layer["size"] for layer in manifest["layers"])
    return Image(
        reference=reference,
        place="registry",
        identity=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
        platform=_name(whole),
        created=whole.get("created"),
        size=sum(layers),
        layers=layers,
        platforms=tuple(platforms),
        **_configuration(whole.get("config") or {}),
    )


def repository(reference: str) -> str:
    """A reference without tag and digest."""
    name = reference.partition("@")[0]
    head, _, tail = name.rpartition(":")
    return head if head and "/" not in tail else name


def _configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    pairs = (pair.partition("=") for pair in config.get("Env") or ())
    return {
        "environment": {key: value for key, _, value in pairs},
        "labels": dict(config.get("Labels") or {}),
        "user": config.get("User") or "",
        "entrypoint": tuple(config.get("Entrypoint") or ()),
        "command": tuple(config.get("Cmd") or ()),
        "volumes": tuple(config.get("Volumes") or ()),
    }


def _name(about: Mapping[str, str]) -> str:
    return "/".join(about[key] for key in ("os", "architecture", "variant") if about.get(key))


def _real(entry: Mapping[str, Any]) -> bool:
    """BuildKit's attestations stand in an index beside the images."""
    return bool(entry.get("platform", {}).get("os", "unknown") != "unknown")


def _imagetools(reference: str, *words: str) -> str:
    """What buildx says of a reference in a registry; it uses docker's own credentials."""
    command = ["docker", "buildx", "imagetools", "inspect", reference, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    except FileNotFoundError as error:
        raise RuntimeUnavailable(
            "registries are asked with `docker buildx`, and there is no docker command",
            hint="install it: apt-get install docker-buildx-plugin",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SourceUnreachable(
            f"the registry of {reference} does not answer within {_LIMIT_S} s", hint=_HINTS[-1][1]
        ) from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1].removeprefix("ERROR: ")
        if "invalid reference format" in said:
            raise QuestionError(
                f"`{reference}` names no image: {said}", hint="write HOST/NAME:TAG or NAME@sha256:…"
            )
        hint = next((hint for pattern, hint in _HINTS if re.search(pattern, said)), None)
        raise SourceUnreachable(f"{reference} cannot be read from its registry: {said}", hint=hint)
    return done.stdout


def demands(image: Image, facts: Mapping[str, Any] | None = None) -> tuple[Demand, ...]:
    """What the image asks of a host, all of which must hold: from its configuration, and from `facts` of its inside.

    Raises ValueError for versions and conditions in its environment that cannot be read.
    """
    asked = compat.demand_of_environment(image.reference, image.environment)
    cuda = asked.cuda or image.pins.get("cuda")
    asked = replace(asked, cuda=cuda, cudnn=asked.cudnn or image.pins.get("cudnn"))
    if facts is None:
        return (replace(asked, sass=image.compute_capability if cuda else ()),)
    found = [numbers for one in reached(facts, "cudart") if (numbers := _number(one["version"]))]
    cuda = max([*found, *([cuda] if cuda else [])], key=parse_version, default=None)
    cudnn = next((_number(one["version"]) for one in reached(facts, "cudnn")), None)
    asked = replace(asked, cuda=cuda, cudnn=cudnn, compat=_compat(image, facts, cuda))
    mains = [one for one in facts["fatbins"] if _main(one)]
    return tuple(replace(asked, sass=tuple(one["sass"]), ptx=tuple(one["ptx"])) for one in mains) or (asked,)


def for_devices(demand: Demand, capabilities: Iterable[str | None]) -> Demand:
    """The same with code for one chip alone (`9.0a`) as what it is for these cards: for that very chip, or none."""
    there = {f"{capability}a": capability for capability in capabilities if capability}
    sass = [code if not code.endswith("a") else there.get(code) for code in demand.sass]
    ptx = [code for code in demand.ptx if not code.endswith("a")]
    return replace(demand, sass=tuple(dict.fromkeys(filter(None, sass))), ptx=tuple(ptx))


def reached(facts: Mapping[str, Any], family: str) -> list[dict[str, Any]]:
    """The libraries of one family that a process gets: the first of each SONAME, as the loader searches."""
    about = {one["path"]: one for one in facts["libraries"]}
    found = []
    for soname, files in facts["loader"]["reach"].items():
        first = about.get(files[0]["path"]) if files else None
        if first and first["family"] == family and (family != "cudnn" or soname.startswith("libcudnn.so")):
            found.append({**first, "by": files[0]["by"], "others": [file["path"] for file in files[1:]]})
    return found


def _main(library: Mapping[str, Any]) -> bool:
    return any(map(_MAIN.search, (library["path"], *library["links"])))


def _number(version: str | None) -> str | None:
    """The version itself, of `9.10.2.21-1` or `12.4.127+x`; None where it is not made of numbers."""
    match = re.match(r"\d+(\.\d+)+(?=$|[-+~])", version or "")
    return match[0] if match else None


def _compat(image: Image, facts: Mapping[str, Any], cuda: str | None) -> Compat | None:
    """The compat libraries that lie in the image."""
    for one in facts["libraries"]:
        if one["family"] != "cuda" or "/compat/" not in one["path"]:
            continue
        named = re.search(r"/cuda-(\d+\.\d+)/", one["path"])
        first = (*image.environment.get("LD_LIBRARY_PATH", "").split(":"), *facts["loader"]["configured"])
        version = named[1] if named else cuda
        if version:
            driver = _number((one["version"] or "").split("-")[0])
            return Compat(version, driver, first=any(path.rstrip("/").endswith("/compat") for path in first))
    return None


def engines(facts: Mapping[str, Any]) -> dict[str, str]:
    """Engines and their versions, by distribution; llama.cpp by its libraries, which tell no version."""
    found = {verdict.plain(one["name"]): one["version"] for one in facts["distributions"]}
    there = {name: found[name] for name in ENGINES if name in found}
    families = {one["family"] for one in facts["libraries"]}
    return there | (
        {"llama.cpp": ""} if families & {"llama", "ggml"} and "llama-cpp-python" not in there else {}
    )


def compiled(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Libraries with code for GPUs, those that decide about a card first, then by name."""
    return sorted(facts["fatbins"], key=lambda one: (not _main(one), one["path"]))


def lies(image: Image, facts: Mapping[str, Any], fatbins: Iterable[str] = ()) -> Iterator[str]:
    """Each promise of the labels that the inside does not keep; `fatbins` are further libraries, as patterns.

    cuDNN is held to what the proof of a build asks: every part of it has the version, and none is reachable twice.
    """
    pins, pythons = image.pins, [one["version"] for one in facts["python"]]
    runs = next((version for version in pythons if verdict.begins(version, pins.get("python", ""))), None)
    process: dict[str, Any] = {"python": runs or " and ".join(pythons) or "none", "versions": {}}
    expect = verdict.Expect(pins=pins, compute_capability=image.compute_capability)
    yield from verdict.versions(expect, {**facts, "process": process})
    yield from verdict.cudnn(expect, {**facts, "process": process})
    if (pin := pins.get("cudnn")) and not reached(facts, "cudnn"):
        yield f"cudnn: {pin} is pinned, and the loader reaches none"
    if pin := pins.get("cuda"):
        found = reached(facts, "cudart")
        for one in found:
            if not verdict.begins(has := one["version"] or "of a version that nobody tells", pin):
                yield f"cuda: {pin} is pinned, and {one['path']} is {has}"
        if not found:
            yield f"cuda: {pin} is pinned, and the loader reaches no libcudart"
    for one in facts["fatbins"]:
        named = any(verdict.fnmatches([one["path"], *one["links"]], pattern) for pattern in fatbins)
        if image.compute_capability and (named or _main(one)):
            yield from _code(image.compute_capability, one)


def _code(label: tuple[str, ...], library: Mapping[str, Any]) -> Iterator[str]:
    """A card without code is a lie, and so is one that is kept quiet; single kernels for more cards are not."""
    counts: dict[str, int] = {}
    for code, count in library["sass"].items():
        counts[code.rstrip("a")] = counts.get(code.rstrip("a"), 0) + count
    typical = max(counts.values(), default=0) / 2
    lacks = [code for code in label if code not in counts]
    more = [code for code, count in counts.items() if code not in label and count >= typical]
    if lacks or more:
        yield (
            f"architectures: the label says {' '.join(label)}, and {library['path']} "
            f"has code for {' '.join(counts) or 'none'}"
        )
