"""What the gateway of a deployment is told, and the files that it is given."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from deployer._version import __version__
from deployer.errors import LaunchError, QuestionError
from deployer.home import Home, write_whole
from deployer.plan import keys
from deployer.plan.resolve import Choice
from deployer.profile import Profile, Remote, Safety
from deployer.runtimes import Inside

CERTIFICATE, CERTIFICATE_KEY = "certificate.pem", "certificate.key"  # in the folder that the gateway reads
_REMOTE_KEY = "remote.key"


def told(choice: Choice, inside: Inside, generation: int, key: Path | None) -> dict[str, Any]:
    """What the gateway is told (deployer/gateway/config.py)."""
    asked = choice.profile.gateway
    replica = {
        "name": "engine", "url": inside.engine_url, "slots": choice.concurrency, "key": str(key) if key else None,
        "model": choice.alias if choice.engine.aliases else inside.model,
    }  # fmt: skip
    model = {
        "id": choice.alias, "engine": choice.engine.name, "context": choice.context,
        "paths": list(choice.engine.serves(choice.profile.model.kind)),
        "replicas": [replica], "prompt": asked.prompt, "overflow": asked.overflow,
    }  # fmt: skip
    return {
        "deployment": choice.name, "version": __version__, "generation": generation, "models": [model],
        "open": choice.profile.serving.api_key == "none", "queue": asked.queue, "wait": asked.wait,
        "body": asked.body, "cors": list(asked.cors), "log_prompts": asked.log == "prompts",
        "safety": _safety(asked.safety), "remote": _remote(asked.remote, inside),
    } | _fingerprints(choice.profile)  # fmt: skip


def _fingerprints(profile: Profile) -> dict[str, str]:
    """The hash of the certificate, so that one that was renewed is another launch."""
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
    """Writes what the gateway needs besides its configuration: keys, and the certificate with its key."""
    keys.ensure_key(engine_key(choice, home))
    keys.ensure_owner(home, choice.name)
    remote = choice.profile.gateway.remote
    key = choice.profile.path.parent / remote.key_file if remote and remote.key_file else None
    files = (*certificates(choice.profile), key)
    for source, name in zip(files, (CERTIFICATE, CERTIFICATE_KEY, _REMOTE_KEY), strict=True):
        if source is not None:
            write_whole(home.gateway(choice.name) / name, _read(source), 0o600)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LaunchError(f"{path} cannot be read: {error}", hint="the profile's gateway section names it") from error
