"""Where a command runs: the home, the way out, the container engine; the only reader of the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deployer import host, images
from deployer.errors import QuestionError
from deployer.frozen import dataclass
from deployer.home import Home
from deployer.host.base import gather
from deployer.profile import Profile

if TYPE_CHECKING:
    from deployer import runtimes
    from deployer.description import Description
    from deployer.fetch import Web
    from deployer.images.bake import BuildSettings
    from deployer.runtimes.service import Service


MIRROR = "http://deb.debian.org"  # as in images/debian.py, which takes too long to import for `check`


@dataclass(frozen=True)
class Place:
    """What a command needs of its surroundings."""

    home: Home
    docker: str
    index_url: str | None = None
    ca_cert: str | None = None
    wheelhouse: str | None = None
    apt_mirror: str | None = None
    proxy: str | None = None
    base: str = images.ARCHIVE

    @property
    def web(self) -> Web:
        """The way out, from options first, then from the environment's usual variables."""
        from deployer.fetch import Web

        get = os.environ.get
        ca = self.ca_cert or get("SSL_CERT_FILE") or get("REQUESTS_CA_BUNDLE")
        wheels = self.wheelhouse or get("PIP_FIND_LINKS")
        caches = Path(get("HF_HOME") or Path(get("XDG_CACHE_HOME") or "~/.cache") / "huggingface") / "hub"
        return Web(
            index=self.index_url or get("PIP_INDEX_URL") or get("UV_DEFAULT_INDEX"),
            hub=get("HF_ENDPOINT") or "https://huggingface.co",
            token=get("HF_TOKEN"),
            ca=Path(ca) if ca and Path(ca).is_file() else None,
            wheelhouse=Path(wheels).absolute() if wheels and Path(wheels).is_dir() else None,
            proxy=self.proxy,
            mirrors=tuple((get("DEPLOYER_MIRRORS") or "").split()),
            cache=Path(get("HF_HUB_CACHE") or caches).expanduser(),
            modelscope=_modelscope(get("MODELSCOPE_ENDPOINT") or get("MODELSCOPE_DOMAIN")),
            modelscope_token=get("MODELSCOPE_API_TOKEN"),
            docker=Path(get("DOCKER_CONFIG") or "~/.docker").expanduser() / "config.json",
        )

    def settings(self, **more: Any) -> BuildSettings:
        """How images are built here, for this machine: with what the ways out and the environment say, and `more`."""
        from deployer.images.bake import BuildSettings

        proxy = self.proxy or _proxy("https") or _proxy("http")
        if proxy and not self.proxy and any(name in proxy for name in ("//localhost", "//127.", "//[::1]")):
            proxy = None  # this machine's own; a build would ask itself
        ways = {"base": self.base, "apt_mirror": self.apt_mirror, "proxy": proxy, "no_proxy": _proxy("no")}
        return BuildSettings(**{"platform": this_platform(), **ways, **more})

    def runtime(self, name: str) -> runtimes.Runtime:
        from deployer import runtimes

        return runtimes.runtime(name, self.home, self.docker, dict(os.environ))

    def service(self, name: str, runtime: str | None) -> Service:
        """The deployment as a unit of systemd: the system's for root, else this user's own."""
        from deployer.runtimes import service

        own = os.geteuid() != 0
        config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        usual = self.docker in ("unix:///var/run/docker.sock", f"unix:///run/user/{os.geteuid()}/docker.sock")
        containers = runtime == "docker"
        return service.Service(
            name=name,
            command=(sys.executable, "-m", "deployer", "--home", str(self.home.root)),
            folder=config / "systemd/user" if own else service.SYSTEM,
            own=own,
            engine=service.engine_unit(self.docker, own=own) if containers else None,
            address=self.docker if containers and not usual else None,
        )

    def ports_of(self, unit: str) -> set[int]:
        """The ports that the unit of this name holds, on any runtime."""
        from deployer import runtimes
        from deployer.errors import RuntimeUnavailable

        found = set()
        for name in runtimes.RUNTIMES:
            try:
                about = self.runtime(name).find(unit)
            except RuntimeUnavailable:
                continue
            if about and about.port and about.state != "stopped":
                found.add(about.port)
        return found

    def seen_by(self, facts: host.Host, wanted: Profile, unit: str) -> host.Host:
        """`facts` as they are for the deployment `unit`: a port that it holds itself is not taken."""
        fact = facts.ports[str(wanted.serving.port)]
        if isinstance(fact, host.Unknown) or fact.free or wanted.serving.port not in self.ports_of(unit):
            return facts
        return replace(facts, ports={})

    def with_headers(self, facts: host.Host, profiles: tuple[Profile, ...], *, hub: bool = False) -> host.Host:
        """`facts` with what the headers of the profiles' models say: in the store, in a folder, and, with `hub`, there.

        What the catalogue knows by its shapes is not asked for.
        """
        from deployer import models
        from deployer.engines import engine

        wanted = {models.model_id(p.model, engine(p.engine).files): p for p in profiles}
        # As with the list of what the store holds, a dead network disk must not hold up the audit.
        found = gather({id_: partial(self._headers_here, id_, p) for id_, p in wanted.items()}, 0.5)
        if hub:
            asked = {id_: partial(self._headers_there, p) for id_, p in wanted.items() if found[id_] is None}
            found |= gather(asked, 10.0)
        return replace(facts, headers={id_: one for id_, one in found.items() if one is not None})

    def _headers_here(self, id_: str, wanted: Profile) -> Description | None:
        from deployer import models
        from deployer.description import compact
        from deployer.models import metadata

        if stored := models.Store(self.home).get(id_):
            return compact(metadata.describe(stored.weights))
        if not wanted.model.source.startswith("file://"):
            return None
        path = Path(wanted.model.source.removeprefix("file://"))
        named = _gguf(wanted)
        return compact(metadata.describe(path / named if named and path.is_dir() else path))

    def _headers_there(self, wanted: Profile) -> Description | None:
        from deployer.description import compact
        from deployer.models.metadata import remote
        from deployer.sizing import catalogue

        if not wanted.model.served or catalogue.of(wanted.model):
            return None
        return compact(remote.describe(wanted.model, self.web, file=_gguf(wanted)).description)

    def questions(self, profiles: tuple[Profile, ...], *, ports: tuple[int, ...]) -> host.Questions:
        """What to ask the machine so that every one of `profiles` can be judged."""
        urls: set[str] = set()
        if away := [p for p in profiles if p.model.served]:
            from deployer import models
            from deployer.engines import engine

            store, wanted_of = models.Store(self.home), {}
            for wanted in away:
                if url := models.source_url(wanted.model, self.web):
                    wanted_of[models.model_id(wanted.model, engine(wanted.engine).files)] = url
            # A dead network disk must not hold up the audit: what it holds is then taken as not there.
            held = gather({id_: partial(store.get, id_) for id_ in wanted_of}, limit=0.25)
            urls = {
                url for id_, url in wanted_of.items() if isinstance(held[id_], host.Unknown) or not held[id_]
            }
        return host.Questions(
            models=self.home.models,
            engines=self.home.root / "engines",  # as it is: to resolve it would wait for a dead disk
            docker=self.docker,
            temporary=Path(os.environ.get("TMPDIR") or "/tmp"),
            ports=ports,
            urls=tuple(sorted(urls)),
            base=self._base_address(),
            images={
                f"{p.image}:{p.variant}": tag
                for p in profiles
                if (tag := images.tag(p.image, p.variant, self.base))
            },
            proxies={scheme: found for scheme in ("http", "https", "no") if (found := _proxy(scheme))},
            root=Path(os.environ.get("DEPLOYER_ROOT") or "/"),
        )

    def _base_address(self) -> str:
        """What to ask of the place that the OS base comes from: a Debian mirror, or a registry."""
        if self.base == images.ARCHIVE:
            return f"{(self.apt_mirror or MIRROR).rstrip('/')}/debian/dists/bookworm/InRelease"
        registry, slash, _ = self.base.partition("/")
        if not slash or not (registry == "localhost" or "." in registry or ":" in registry):
            registry = "docker.io"
        if registry in ("docker.io", "index.docker.io"):
            registry = "registry-1.docker.io"
        scheme = "http" if registry.split(":")[0] in ("localhost", "127.0.0.1") else "https"
        return f"{scheme}://{registry}/v2/"


def place(
    ctx: click.Context,
    *,
    index_url: str | None = None,
    ca_cert: str | None = None,
    wheelhouse: str | None = None,
    apt_mirror: str | None = None,
    proxy: str | None = None,
    base: str | None = None,
) -> Place:
    """The surroundings of this command."""
    home = ctx.obj or Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "deployer"
    # A dead network disk must not hold this up.
    if gather({"file": Path(home).is_file}, limit=0.1)["file"] is True:
        raise QuestionError(f"{home} is a file", hint="name a folder with --home or $DEPLOYER_HOME")
    return Place(
        Home(Path(home).absolute()),
        _engine_address(),
        index_url,
        ca_cert,
        wheelhouse,
        apt_mirror,
        proxy,
        base or images.ARCHIVE,
    )


def _gguf(wanted: Profile) -> str | None:
    return next((f.path for f in wanted.model.files if f.path.endswith(".gguf")), None)


def this_platform() -> str:
    """The platform of this machine, as `linux/amd64`."""
    import platform

    return {"aarch64": "linux/arm64", "arm64": "linux/arm64"}.get(platform.machine(), "linux/amd64")


def build_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that may build or fetch."""
    for option in (
        click.option(
            "--wheelhouse",
            type=click.Path(exists=True, file_okay=False),
            help="Folder of wheels that need no index.  [default: $PIP_FIND_LINKS]",
        ),
        click.option(
            "--ca-cert",
            type=click.Path(exists=True, dir_okay=False),
            help="Certificates to trust, for a company's proxy; never lands in an image.  [default: $SSL_CERT_FILE]",
        ),
        click.option("--index-url", metavar="URL", help="Python package index.  [default: pip's]"),
        click.option(
            "--apt-mirror",
            metavar="URL",
            help="Stands for http://deb.debian.org; on a base of another system, for its archive.",
        ),
        click.option(
            "--proxy", metavar="URL", help="Proxy for downloads and builds.  [default: $https_proxy]"
        ),
        click.option(
            "--base",
            metavar="archive|REF",
            help="OS base of images: `archive`, made from locked Debian packages, or a registry's image.",
        ),
    ):
        function = option(function)
    return function


def _modelscope(said: str | None) -> str:
    """ModelScope's address; its client takes a bare host name too, in the older of the two variables."""
    return "https://modelscope.cn" if not said else said if "://" in said else f"https://{said}"


def _engine_address() -> str:
    if address := os.environ.get("DOCKER_HOST"):
        return address
    rootless = f"/run/user/{os.geteuid()}/docker.sock"
    default = "/var/run/docker.sock"
    if not Path(default).exists() and Path(rootless).exists():
        return f"unix://{rootless}"
    return f"unix://{default}"


def _proxy(scheme: str) -> str | None:
    return os.environ.get(f"{scheme}_proxy") or os.environ.get(f"{scheme.upper()}_PROXY")
