"""What the gateway of a deployment is told, and the files that it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployer._version import __version__
from deployer.errors import LaunchError, QuestionError
from deployer.frozen import dataclass
from deployer.home import Home, write_whole
from deployer.plan import keys
from deployer.plan.resolve import Choice
from deployer.profile import Profile, Remote, Safety
from deployer.runtimes import Inside, Launch, Runtime
from deployer.runtimes.base import alias

CERTIFICATE, CERTIFICATE_KEY = "certificate.pem", "certificate.key"  # in the folder that the gateway reads
_REMOTE_KEY = "remote.key"


def told(choice: Choice, inside: Inside, generation: int, key: Path | None) -> dict[str, Any]:
    """What the gateway is told (deployer/gateway/config.py), with a `replica` as each engine of the model is one."""
    asked = choice.profile.gateway
    replica = {
        "slots": choice.concurrency, "key": str(key) if key else None,
        "model": choice.alias if choice.engine.aliases else inside.model,
    }
    model = {
        "id": choice.alias, "engine": choice.engine.name, "context": choice.context,
        "paths": list(choice.engine.serves(choice.profile.model.kind)),
        "replica": replica, "prompt": asked.prompt, "overflow": asked.overflow,
    }  # fmt: skip
    return {
        "deployment": choice.name, "version": __version__, "generation": generation, "models": [model],
        "open": choice.profile.serving.api_key == "none", "queue": asked.queue, "wait": asked.wait,
        "body": asked.body, "cors": list(asked.cors), "log_prompts": asked.log == "prompts",
        "safety": _safety(asked.safety), "remote": _remote(asked.remote, inside),
    } | _fingerprints(choice.profile)  # fmt: skip


@dataclass(frozen=True)
class Side:
    """A generation behind the gateway: it gets all requests, as a `candidate` those for it by name, `draining` none."""

    told: Mapping[str, Any]
    engines: tuple[Launch, ...]
    state: str = "active"


def tell(name: str, sides: Sequence[Side], *, home: Home, runtime: Runtime) -> None:
    """Tells the gateway of deployment `name` which engines stand behind it; the first side says all the rest."""
    models: dict[str, dict[str, Any]] = {}
    for side in sides:
        for model in side.told["models"]:
            one = models.setdefault(model["id"], {**model, "replicas": []})
            one.pop("replica", None)
            one["replicas"] += [
                {**model["replica"], "name": alias(each.unit), "url": runtime.address(each.unit), "state": side.state}
                for each in side.engines
            ]
    home.write_for_gateway(name, "gateway.json", {**sides[0].told, "models": list(models.values())})


def _fingerprints(profile: Profile) -> dict[str, str]:
    """The hash of the certificate, so that one that was renewed is another generation."""
    certificate, _ = certificates(profile)
    if certificate is None:
        return {}
    try:
        return {"certificate": hashlib.sha256(certificate.read_bytes()).hexdigest()}
    except OSError as error:
        raise QuestionError(f"{certificate} cannot be read: {error}", hint="gateway.certificate names it") from error


def _safety(asked: Safety | None) -> dict[str, Any] | None:
    if asked is None:
        return None
    return {
        "patterns": {one.name: one.pattern for one in asked.patterns}, "url": asked.url, "kind": asked.kind,
        "model": asked.model, "before": asked.check != "answers", "after": asked.check != "requests",
        "window": asked.window, "otherwise": asked.otherwise,
    }  # fmt: skip


def _remote(asked: Remote | None, inside: Inside) -> dict[str, Any] | None:
    if asked is None:
        return None
    return {
        "url": asked.url, "model": asked.model, "when": list(asked.when), "name": asked.name,
        "key": f"{inside.config}/{_REMOTE_KEY}" if asked.key_file else None,
    }  # fmt: skip


def certificates(profile: Profile) -> tuple[Path | None, Path | None]:
    """The files of the certificate and its key that a profile names; both or none."""
    names = (profile.gateway.certificate, profile.gateway.certificate_key)
    found = [profile.path.parent / name if name else None for name in names]
    return found[0], found[1]


def engine_key(choice: Choice, home: Home) -> Path:
    """The file with the key that the gateway shows to an engine."""
    return home.deployment(choice.name) / "engine.key"


def prepare(choice: Choice, home: Home) -> None:
    """Writes what the gateway needs besides its configuration: keys, and the certificate with its key.

    It may run already, and takes a certificate that has changed.
    """
    keys.ensure_key(engine_key(choice, home))
    keys.ensure_owner(home, choice.name)
    remote = choice.profile.gateway.remote
    key = choice.profile.path.parent / remote.key_file if remote and remote.key_file else None
    certificate, its_key = certificates(choice.profile)
    # the certificate last: a gateway that runs takes both when that changes
    for source, name in ((its_key, CERTIFICATE_KEY), (certificate, CERTIFICATE), (key, _REMOTE_KEY)):
        if source is not None:
            folder = home.gateway(choice.name)
            write_whole(folder / name, _read(source), 0o600, like=folder)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LaunchError(f"{path} cannot be read: {error}", hint="the profile's gateway section names it") from error
