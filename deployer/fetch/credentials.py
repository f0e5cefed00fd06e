"""Who this user is at a container registry, as `docker login` noted it: in docker's config.json, or with a helper."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deployer.frozen import dataclass
from deployer.home import read_json

_HUB = "index.docker.io"  # what docker's own registry is called in config.json
_HELPER = re.compile(r"[\w.-]+")
_BY_TOKEN = "<token>"  # in the place of a user's name: the secret is an identity token
_LIMIT_S = 20.0


@dataclass(frozen=True)
class Credentials:
    """A name and a password; without a name, an identity token that a registry changes for others."""

    user: str
    secret: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The header's value for HTTP's Basic."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def credentials(config: Path | None, host: str) -> Credentials | None:
    """What `config`, docker's config.json, has for the registry `host`; None for nothing. Raises no error."""
    try:
        raw = read_json(config) if config else None
    except OSError:
        return None
    if not isinstance(raw, dict):
        return None
    name = _HUB if host in ("docker.io", "registry-1.docker.io") else host
    helper = _mapping(raw, "credHelpers").get(name) or raw.get("credsStore")
    if isinstance(helper, str) and _HELPER.fullmatch(helper):
        asked = f"https://{_HUB}/v1/" if name == _HUB else name
        if found := _helped(helper, asked):
            return found
    entries = {_host(key): entry for key, entry in _mapping(raw, "auths").items() if isinstance(entry, dict)}
    return _noted(entries.get(name, {}))


def _noted(entry: dict[str, Any]) -> Credentials | None:
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return Credentials("", token)
    try:
        user, colon, secret = base64.b64decode(str(entry.get("auth", ""))).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Credentials(user, secret.rstrip("\0")) if colon else None


def _helped(helper: str, host: str) -> Credentials | None:
    """What docker's credential helper knows; None where it is missing, fails or knows nothing."""
    import subprocess

    try:
        asked = subprocess.run(
            [f"docker-credential-{helper}", "get"], input=host, capture_output=True, text=True,
            timeout=_LIMIT_S, check=True,
        )  # fmt: skip
        raw = json.loads(asked.stdout)
        user, secret = str(raw["Username"]), str(raw["Secret"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
    return Credentials("" if user == _BY_TOKEN else user, secret) if secret else None


def _host(key: str) -> str:
    """The keys are hosts, or addresses with scheme and path."""
    return (urlsplit(key).netloc if "://" in key else key.partition("/")[0]).lower()


def _mapping(raw: dict[str, Any], key: str) -> dict[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, dict) else {}
