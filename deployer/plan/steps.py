"""The steps of `up`, as values: what `--dry-run` prints is what `apply` uses."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from deployer import resources
from deployer.engines import Job
from deployer.frozen import dataclass
from deployer.home import Home
from deployer.plan import door
from deployer.plan.resolve import Choice
from deployer.runtimes import Launch, Part, Runtime
from deployer.sizing import wanted


@dataclass(frozen=True)
class Build:
    """An image, built from its recipe."""

    image: str
    variant: str
    reference: str
    base: str

    @property
    def title(self) -> str:
        return f"build image {self.reference}"

    @property
    def commands(self) -> tuple[str, ...]:
        return (f"deployer build {self.image}:{self.variant} --base {self.base}",)


@dataclass(frozen=True)
class Provision:
    """An engine for the embedded runtime."""

    engine: str
    variant: str
    program: Path

    @property
    def title(self) -> str:
        return f"make engine {self.program}"

    @property
    def commands(self) -> tuple[str, ...]:
        return (f"# compiles or installs {self.engine} into {self.program.parent}",)


@dataclass(frozen=True)
class Pull:
    """The model, into the store."""

    model: str
    profile: str

    @property
    def title(self) -> str:
        return f"pull model {self.model}"

    @property
    def commands(self) -> tuple[str, ...]:
        return (f"deployer pull {shlex.quote(self.profile)}",)


@dataclass(frozen=True)
class Convert:
    """The model in a format that the engine can load, into the store."""

    model: str
    converted: str
    program: str

    @property
    def title(self) -> str:
        return f"convert {self.model} to safetensors"

    @property
    def commands(self) -> tuple[str, ...]:
        return (f"deployer models convert {self.model} --to safetensors --no-measure",)


@dataclass(frozen=True)
class Fit:
    """The model's headers against the memory and the context that is asked for."""

    weights: Path
    context: int
    concurrency: int
    engine: str
    number: str

    @property
    def title(self) -> str:
        return f"check that {self.concurrency} × {self.context} tokens fit"

    @property
    def commands(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Replace:
    """What runs under this name with another fingerprint than `wanted` is stopped."""

    unit: str
    wanted: str

    @property
    def title(self) -> str:
        return f"stop what runs as {self.unit} and is not this"

    @property
    def commands(self) -> tuple[str, ...]:
        return (f"deployer down {self.unit}",)


@dataclass(frozen=True)
class Start:
    """The unit."""

    launch: Launch
    shell: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"start {self.launch.unit} on {self.launch.address}:{self.launch.port}"

    @property
    def commands(self) -> tuple[str, ...]:
        return self.shell


@dataclass(frozen=True)
class Ready:
    """Waiting while the engine makes progress."""

    unit: str
    url: str
    certificate: Path | None = None

    @property
    def title(self) -> str:
        return f"wait until {self.unit} is ready"

    @property
    def commands(self) -> tuple[str, ...]:
        trust = f"--cacert {shlex.quote(str(self.certificate))} " if self.certificate else ""
        return (f"curl {trust}--fail --retry 100 --retry-all-errors {self.url}/health",)


@dataclass(frozen=True)
class Accept:
    """A real answer: the right shape, with the key only, at a speed this host should give."""

    unit: str
    url: str
    model: str
    kind: str
    key_file: Path | None
    first_token: float
    per_token: float
    weights: Path
    certificate: Path | None = None

    @property
    def title(self) -> str:
        what = "embeddings" if self.kind == "embedding" else f"a streamed {self.kind}"
        return f"accept {self.unit}: {what}, measured"

    @property
    def commands(self) -> tuple[str, ...]:
        return (example(self.url, self.model, self.kind, self.key_file, self.certificate),)


Step = Build | Provision | Pull | Convert | Fit | Replace | Start | Ready | Accept


def steps(choice: Choice, *, home: Home, runtime: Runtime, generation: int) -> tuple[Step, ...]:
    """What `up` does for `choice`, in order."""
    profile = choice.profile
    what = launch(choice, home=home, runtime=runtime, generation=generation)
    address = profile.serving.address
    certificate, _ = door.certificates(profile)
    scheme = "https" if certificate else "http"
    url = f"{scheme}://{'127.0.0.1' if address == '0.0.0.0' else address}:{choice.port}"
    found: list[Step] = []
    if choice.runtime == "docker":
        found.append(Build(profile.image, profile.variant, choice.program, choice.base))
        found.append(Build("gateway", "cpu", choice.gateway, choice.base))
    else:
        found.append(Provision(choice.engine.name, profile.variant, Path(choice.program)))
    shipped = profile.path.parent == resources.folder("profiles")
    found.append(Pull(choice.model, profile.name if shipped else str(profile.path)))
    if choice.converted:
        found.append(Convert(choice.model, choice.converted, choice.program))
    return (
        *found,
        Fit(choice.weights, choice.context, choice.concurrency, choice.engine.name, wanted.number(profile)),
        Replace(choice.name, what.fingerprint),
        Start(what, runtime.commands(what)),
        Ready(choice.name, url, certificate),
        Accept(
            choice.name, url, choice.alias, profile.model.kind, key_file(choice, home),
            profile.limits.first_token, profile.limits.per_token, choice.weights, certificate,
        ),
    )  # fmt: skip


def launch(choice: Choice, *, home: Home, runtime: Runtime, generation: int) -> Launch:
    """The unit that serves `choice`, as its runtime will start it."""
    inside = runtime.inside(choice.name, choice.weights, choice.folder, choice.port)
    containers = choice.runtime == "docker"
    # an engine that every program of this host can reach asks for a key of its own, if it can
    key = door.engine_key(choice, home) if choice.engine.own_key and not containers else None
    job = Job(
        program=choice.program,
        model=inside.model,
        alias=choice.alias,
        host=inside.listen,
        port=inside.engine_port,
        context=choice.context,
        concurrency=choice.concurrency,
        threads=choice.threads,
        key_file=str(key) if key else None,
        gpus=len(choice.gpus),
        half=choice.half,
        cache=choice.profile.serving.cache,
        share=choice.share,
        kind=choice.profile.model.kind,
        whole=choice.whole,
    )
    engine_part = Part(
        role="engine",
        arguments=choice.engine.arguments(job),
        image=choice.program if containers else None,
        environment=choice.engine.environment,
        mounts=runtime.mounts(choice.name, choice.folder, "engine"),
        gpus=choice.gpus,
        gpu_injection=choice.gpu_injection,
        compiles=choice.engine.compiles,
    )
    gateway = (
        *(("gateway",) if containers else (sys.executable, "-m", "deployer.gateway")),
        *("--config", inside.config),
        *("--state", inside.state),
        *("--engine-port", inside.engine_port),
        *("--host", inside.listen if containers else choice.profile.serving.address),
        *("--port", inside.public_port),
    )
    if any(door.certificates(choice.profile)):
        gateway += ("--certificate", f"{inside.config}/{door.CERTIFICATE}")
        gateway += ("--certificate-key", f"{inside.config}/{door.CERTIFICATE_KEY}")
    gateway_part = Part(
        role="gateway",
        arguments=gateway,
        image=choice.gateway if containers else None,
        mounts=runtime.mounts(choice.name, choice.folder, "gateway"),
    )
    told = door.told(choice, inside, generation, key)
    address = choice.profile.serving.address
    return Launch(choice.name, generation, choice.port, (engine_part, gateway_part), address, told)


def key_file(choice: Choice, home: Home) -> Path | None:
    """Where the deployment's key is, None when the profile says that none is asked for."""
    if choice.profile.serving.api_key == "none":
        return None
    return home.deployment(choice.name) / "key"


def example(url: str, model: str, kind: str, key: Path | None, certificate: Path | None = None) -> str:
    """One curl line that a person can paste."""
    if certificate:  # it is for another name than this host's own address
        url = f"--insecure {url}"
    header = f' -H "Authorization: Bearer $(cat {shlex.quote(str(key))})"' if key else ""
    if kind == "chat":
        body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
        return f"curl {url}/v1/chat/completions{header} -H 'Content-Type: application/json' -d '{body}'"
    if kind == "embedding":
        body = f'{{"model": "{model}", "input": "The capital of France is Paris."}}'
        return f"curl {url}/v1/embeddings{header} -H 'Content-Type: application/json' -d '{body}'"
    body = f'{{"model": "{model}", "prompt": "The capital of France is", "max_tokens": 16}}'
    return f"curl {url}/v1/completions{header} -H 'Content-Type: application/json' -d '{body}'"
