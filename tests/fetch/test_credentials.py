"""What docker's config.json, in all its forms, says of who is at a registry."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from deployer.fetch.credentials import Credentials, credentials

ALICE = base64.b64encode(b"alice:correct:horse").decode()
HELPER = """#!/bin/sh
[ "$1" = get ] || exit 1
read -r host
case "$host" in
  r.example) echo '{"ServerURL": "r.example", "Username": "bob", "Secret": "from the helper"}' ;;
  t.example) echo '{"ServerURL": "t.example", "Username": "<token>", "Secret": "an identity token"}' ;;
  https://index.docker.io/v1/) echo '{"Username": "hub", "Secret": "of the hub"}' ;;
  *) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential helper `docker-credential-chain`, as docker starts them."""
    path = tmp_path / "bin/docker-credential-chain"
    path.parent.mkdir()
    path.write_text(HELPER)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def asked(tmp_path: Path, raw: Any, host: str = "r.example") -> Credentials | None:
    path = tmp_path / "config.json"
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return credentials(path, host)


@pytest.mark.parametrize("key", ["r.example", "https://r.example", "https://r.example/v2/", "R.example"])
def test_a_name_and_a_password(tmp_path: Path, key: str) -> None:
    found = asked(tmp_path, {"auths": {"other.example": {}, key: {"auth": ALICE}}})
    assert found == Credentials("alice", "correct:horse")
    assert found.basic == f"Basic {ALICE}"
    assert "horse" not in repr(found)


def test_docker_hub_has_names_of_its_own(tmp_path: Path) -> None:
    raw = {"auths": {"https://index.docker.io/v1/": {"auth": ALICE}}}
    assert asked(tmp_path, raw, "docker.io") == Credentials("alice", "correct:horse")
    assert asked(tmp_path, raw, "registry-1.docker.io") == Credentials("alice", "correct:horse")
    assert asked(tmp_path, raw, "r.example") is None


def test_an_identity_token(tmp_path: Path) -> None:
    raw = {"auths": {"r.example": {"auth": ALICE, "identitytoken": "a token"}}}
    assert asked(tmp_path, raw) == Credentials("", "a token")


@pytest.mark.usefixtures("helper")
@pytest.mark.parametrize(
    ("raw", "host", "expected"),
    [
        ({"credsStore": "chain"}, "r.example", Credentials("bob", "from the helper")),
        ({"credHelpers": {"r.example": "chain"}}, "r.example", Credentials("bob", "from the helper")),
        ({"credHelpers": {"r.example": "chain"}}, "t.example", None),
        ({"credsStore": "chain"}, "t.example", Credentials("", "an identity token")),
        ({"credsStore": "chain"}, "docker.io", Credentials("hub", "of the hub")),
        ({"credsStore": "chain"}, "unknown.example", None),
        ({"credsStore": "absent", "auths": {"r.example": {"auth": ALICE}}}, "r.example",
         Credentials("alice", "correct:horse")),
        ({"credsStore": "../../bin/sh"}, "r.example", None),
    ],
)  # fmt: skip
def test_helpers(tmp_path: Path, raw: Any, host: str, expected: Credentials | None) -> None:
    assert asked(tmp_path, raw, host) == expected


@pytest.mark.parametrize(
    "raw",
    ["", "no json", "[]", {"auths": []}, {"auths": {"r.example": "x"}}, {"auths": {"r.example": {"auth": "%%%"}}},
     {"auths": {"r.example": {"auth": base64.b64encode(b"no colon").decode()}}}, {"auths": {"r.example": {}}}],
    ids=str,
)  # fmt: skip
def test_files_that_say_nothing(tmp_path: Path, raw: Any) -> None:
    assert asked(tmp_path, raw) is None


def test_no_file(tmp_path: Path) -> None:
    assert credentials(tmp_path / "none", "r.example") is None
    assert credentials(None, "r.example") is None
    assert credentials(tmp_path, "r.example") is None, "a folder"
