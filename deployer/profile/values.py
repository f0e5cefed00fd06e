"""The values that a profile file becomes. Sizes are bytes, times are seconds, versions are text."""

from __future__ import annotations

from pathlib import Path

from deployer.frozen import dataclass


@dataclass(frozen=True)
class GpuNeed:
    """`vram` is the nominal size of one card; `free_vram` is what must be free on it now."""

    count: int = 1
    vram: int | None = None
    free_vram: int | None = None
    compute_capability: str | None = None


@dataclass(frozen=True)
class DiskNeed:
    """`size` is the whole file system; `images` and `models` are free bytes where those land."""

    size: int | None = None
    images: int | None = None
    models: int | None = None
    kind: str = "any"


@dataclass(frozen=True)
class Requirements:
    gpu: GpuNeed | None = None
    driver: str | None = None
    cuda: str | None = None
    memory: int | None = None
    disk: DiskNeed = DiskNeed()
    os: str = "linux"
    python: str | None = None


@dataclass(frozen=True)
class ModelFile:
    """`path` is a name inside the source; `*` patterns are allowed where no hash is pinned."""

    path: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class ModelChoice:
    """`download` is the number of bytes that will be fetched, as far as the profile knows; `allow` are loosenings."""

    source: str
    revision: str | None = None
    files: tuple[ModelFile, ...] = ()
    kind: str = "chat"
    download: int | None = None
    allow: tuple[str, ...] = ()

    @property
    def served(self) -> str | None:
        """The kind of source that a server must answer for, as `hf`; None for folders and wheels."""
        scheme = self.source.partition("://")[0]
        return None if scheme in ("file", "pypi") else scheme

    @property
    def size(self) -> int:
        """Bytes of its files as far as the profile knows, 0 where it says nothing."""
        return sum(f.size or 0 for f in self.files) or self.download or 0


@dataclass(frozen=True)
class Serving:
    """`context` in tokens and `concurrency` in requests: None leaves them to what the memory holds.

    `replicas` engines serve it, each with its own part of the GPUs, or of the processor.
    """

    context: int | None = None
    concurrency: int | None = None
    replicas: int = 1
    cache: str = "16-bit"
    address: str = "127.0.0.1"
    port: int = 8000
    api_key: str = "required"


@dataclass(frozen=True)
class Pattern:
    """A regular expression that neither requests nor answers may match, and what it stands for."""

    name: str
    pattern: str


@dataclass(frozen=True)
class Safety:
    """A check of requests and answers: patterns, or what answers at `url`. `window` in characters."""

    patterns: tuple[Pattern, ...] = ()
    url: str | None = None
    kind: str = "moderation"
    model: str | None = None
    check: str = "both"
    window: int = 160
    otherwise: str = "refuse"


@dataclass(frozen=True)
class Remote:
    """An OpenAI-compatible service that is asked for what this host cannot do; `when` says for what."""

    url: str
    model: str
    when: tuple[str, ...]
    name: str | None = None
    key_file: str | None = None


@dataclass(frozen=True)
class Gateway:
    """What the gateway lets in. `queue` in requests, `wait` in seconds, `body` in bytes, `prompt` in tokens."""

    queue: int = 64
    wait: float = 120.0
    body: int = 8 << 20
    prompt: int | None = None
    overflow: str = "refuse"
    cors: tuple[str, ...] = ()
    log: str = "requests"
    certificate: str | None = None
    certificate_key: str | None = None
    safety: Safety | None = None
    remote: Remote | None = None
    offline: str = "false"


@dataclass(frozen=True)
class Limits:
    """What the acceptance holds the deployment to, in seconds."""

    first_token: float = 10.0
    per_token: float = 1.0


@dataclass(frozen=True)
class Profile:
    """One profile; `rank` says which one to prefer when several fit."""

    name: str
    path: Path
    description: str
    rank: int
    requirements: Requirements
    model: ModelChoice
    engine: str
    image: str
    variant: str
    runtime: str | None
    serving: Serving
    limits: Limits
    gateway: Gateway = Gateway()
