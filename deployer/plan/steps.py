"""The steps of `up`, as values: what `--dry-run` prints is what `apply` uses."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from deployer import resources
from deployer.frozen import dataclass
from deployer.home import Home
from deployer.plan import door
from deployer.plan.door import Side
from deployer.plan.launches import example, key_file, launches, where
from deployer.plan.record import Record, kept_units, limits
from deployer.plan.resolve import Choice
from deployer.runtimes import Launch, Runtime
from deployer.runtimes.base import alias
from deployer.sizing import wanted

REPLICA = "X-Deployer-Replica"  # the header by which the gateway is asked for one engine, whatever its state
DRAIN_S = 600.0


@dataclass(frozen=True)
class Way:
    """How a generation follows the one that runs: `beside` it or after it, and `because` of what, in words.

    It must give `share` of the old one's rate, 0 for any; `drain` is how long the old one may end what it has begun, in
    seconds.
    """

    beside: bool
    because: str
    share: float = 0.0
    drain: float = DRAIN_S


FIRST = Way(True, "")


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

    commands: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Clear:
    """What earlier attempts left under this name goes; these launches stay, and the units that are kept."""

    unit: str
    stays: tuple[Launch, ...]
    kept: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"stop what earlier attempts left of {self.unit}"

    commands: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Pause:
    """The engines of a generation are stopped and kept; requests wait in the gateway meanwhile."""

    name: str
    url: str
    key_file: Path | None
    old: Side
    generation: int
    because: str
    drain: float
    certificate: Path | None = None

    @property
    def title(self) -> str:
        return f"stop generation {self.generation} before the next one starts: {self.because}"

    commands: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Start:
    """The engines of a generation."""

    launches: tuple[Launch, ...]
    shell: tuple[str, ...]
    because: str = ""

    @property
    def title(self) -> str:
        names = ", ".join(one.unit for one in self.launches)
        return f"start {names}" + (f", {self.because}" if self.because else "")

    @property
    def commands(self) -> tuple[str, ...]:
        return self.shell


@dataclass(frozen=True)
class Open:
    """The gateway, with the new engines as candidates behind it, beside those that it has."""

    gateway: Launch
    new: Side
    old: Side | None
    shell: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"open the gateway on {self.gateway.address}:{self.gateway.port}"

    @property
    def commands(self) -> tuple[str, ...]:
        return self.shell


@dataclass(frozen=True)
class Ready:
    """Waiting while the engines make progress."""

    unit: str
    url: str
    engines: tuple[str, ...]
    certificate: Path | None = None

    @property
    def title(self) -> str:
        return f"wait until {self.unit} is ready"

    @property
    def commands(self) -> tuple[str, ...]:
        trust = f"--cacert {shlex.quote(str(self.certificate))} " if self.certificate else ""
        curl = f"curl {trust}--fail --retry 100 --retry-all-errors"
        return tuple(f"{curl} -H '{REPLICA}: {alias(one)}' {self.url}/health" for one in self.engines)


@dataclass(frozen=True)
class Switch:
    """The new engines get all requests; the old ones end what they have begun, and are kept, stopped.

    `drain` is how long they may, in seconds.
    """

    name: str
    url: str
    key_file: Path | None
    new: Side
    old: Side | None
    drain: float
    certificate: Path | None = None

    @property
    def title(self) -> str:
        return "let requests in" if self.old is None else "switch; what the old engines have begun, they end"

    commands: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Against:
    """What a new generation is compared with: `share` of the rate, in tokens/s, that `generation` gives, or gave.

    `replica` is who gives it now, None where nobody does and `rate` is that of its own acceptance; `size` of its
    weights in bytes.
    """

    generation: int
    replica: str | None
    rate: float
    share: float
    size: int
    model: str
    kind: str


@dataclass(frozen=True)
class Accept:
    """A real answer: the right shape, with the key only, at a speed this host should give.

    Each of `engines` is asked by name.
    """

    unit: str
    url: str
    model: str
    kind: str
    key_file: Path | None
    first_token: float
    per_token: float
    weights: Path
    certificate: Path | None = None
    engines: tuple[str, ...] = ()
    against: Against | None = None

    @property
    def title(self) -> str:
        more = f", at least {self.against.share:.0%} of generation {self.against.generation}" if self.against else ""
        what = "embeddings" if self.kind == "embedding" else f"a streamed {self.kind}"
        return f"accept {self.unit}: {what}, measured{more}"

    @property
    def commands(self) -> tuple[str, ...]:
        return (example(self.url, self.model, self.kind, self.key_file, self.certificate),)


Step = Build | Provision | Pull | Convert | Fit | Clear | Pause | Start | Open | Ready | Accept | Switch


def steps(
    choice: Choice, *, home: Home, runtime: Runtime, generation: int, last: Record | None = None,
    now: Record | None = None, way: Way = FIRST,
) -> tuple[Step, ...]:
    """What `up` does for `choice`, in order.

    `last` is the generation that was accepted last, `now` the same where it runs, and `way` how this one follows it.
    """
    profile = choice.profile
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
    found.append(Fit(choice.weights, choice.context, choice.concurrency, choice.engine.name, wanted.number(profile)))
    engines, gateway, told = launches(choice, home=home, runtime=runtime, generation=generation)
    if last and [one.fingerprint for one in last.engines] == [one.fingerprint for one in engines]:
        engines = last.engines  # at most what the gateway is told is new
    if last and last.gateway.fingerprint == gateway.fingerprint:
        gateway = last.gateway
    if last and engines == last.engines and gateway == last.gateway and limits(told) == limits(last.told):
        told = last.told
    at = Standing(
        name=choice.name,
        url=where(choice),
        key_file=key_file(choice, home),
        certificate=door.certificates(profile)[0],
        engines=engines,
        gateway=gateway,
        told=told,
    )
    accept = Accept(
        choice.name, at.url, choice.alias, profile.model.kind, at.key_file, profile.limits.first_token,
        profile.limits.per_token, choice.weights, at.certificate,
    )  # fmt: skip
    return (*found, *follow(at, accept, home=home, runtime=runtime, now=now, way=way))


@dataclass(frozen=True)
class Standing:
    """A generation as it is to stand: its engines behind its gateway, and where that is asked."""

    name: str
    url: str
    key_file: Path | None
    certificate: Path | None
    engines: tuple[Launch, ...]
    gateway: Launch
    told: Mapping[str, Any]

    @classmethod
    def of(cls, record: Record) -> Standing:
        return cls(
            record.name, record.url.removesuffix("/v1"), Path(record.key_file) if record.key_file else None,
            Path(record.certificate) if record.certificate else None, record.engines, record.gateway, record.told,
        )  # fmt: skip


def follow(
    at: Standing, accept: Accept, *, home: Home, runtime: Runtime, now: Record | None, way: Way,
    going: Record | None = None,
) -> tuple[Step, ...]:
    """The steps by which a generation takes the place of `now`: beside it or after it, accepted, then switched to.

    `going` is the one that it is, where it was accepted before.
    """
    units = tuple(one.unit for one in at.engines)
    leaves = tuple(one for one in now.engines if one.unit not in units) if now else ()
    new, old = Side(at.told, at.engines, "candidate"), Side(now.told, now.engines) if now else None
    kept = (*(kept_units(home, now) if now else ()), *(going.units if going else ()))
    stays = (*at.engines, at.gateway, *((*now.engines, now.gateway) if now else ()))
    steps: list[Step] = [Clear(at.name, stays, kept)]
    if leaves and now and not way.beside:
        before = Standing.of(now)
        steps.append(
            Pause(
                at.name, before.url, before.key_file, Side(now.told, leaves), now.generation, way.because, way.drain,
                before.certificate,
            )
        )  # fmt: skip
        old = None
    shell = tuple(dict.fromkeys(line for one in at.engines for line in runtime.commands(one)))
    steps.append(Start(at.engines, shell, way.because if leaves and way.beside else ""))
    if now and not leaves:
        new, old = replace(new, state="active"), None
    against = None
    if leaves and now and way.share:
        against = Against(now.generation, alias(leaves[0].unit) if old else None, now.rate, way.share, now.size,
                          now.model, now.kind)  # fmt: skip
    accept = replace(accept, engines=units, against=against)
    done = Side(at.told, at.engines)
    return (
        *steps,
        Open(at.gateway, new, old, runtime.commands(at.gateway)),
        Ready(at.name, at.url, units, at.certificate),
        accept,
        Switch(
            at.name, at.url, at.key_file, done, Side(now.told, leaves) if now and leaves else None, way.drain,
            at.certificate,
        ),
    )  # fmt: skip
