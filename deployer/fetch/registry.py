"""A container registry over its HTTP API (the OCI distribution specification): manifests, blobs, and who may."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from deployer.errors import HashMismatch, ModelError, QuestionError, SourceUnreachable
from deployer.fetch.credentials import credentials
from deployer.fetch.http import reason_of
from deployer.frozen import dataclass

if TYPE_CHECKING:
    import httpx

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_ACCEPT = ", ".join((MANIFEST, "application/vnd.docker.distribution.manifest.v2+json", *INDEXES))
_MOST = 4 << 20  # bytes of a manifest; the specification's own limit
_UPLOAD_S = (15.0, 900.0, 60.0, 60.0)  # connect, read, write, pool: large blobs are moved and read before the answer
_TOKEN_S = 60.0  # how long a token is good when the registry does not say, by docker's token specification
_REFERENCE = re.compile(
    r"oci://(?P<host>[\w.-]+(?::\d+)?|\[[0-9a-f:]+\](?::\d+)?)"
    r"/(?P<name>[a-z0-9]+(?:(?:\.|_{1,2}|-+|/)[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Reference:
    """A repository of a registry, and what of it: `version` is a tag, or a digest as `sha256:64 hex digits`."""

    host: str
    name: str
    version: str | None = None

    @property
    def origin(self) -> str:
        """The address of the registry: plain HTTP for one of this machine, as docker has it."""
        bare = re.sub(r":\d+$", "", self.host)
        local = bare in ("localhost", "[::1]") or re.fullmatch(r"127\.\d+\.\d+\.\d+", bare)
        host = "registry-1.docker.io" if self.host in ("docker.io", "index.docker.io") else self.host
        return f"{'http' if local else 'https'}://{host}"

    @property
    def base(self) -> str:
        return f"{self.origin}/v2/{self.name}"

    @property
    def place(self) -> str:
        """The address without tag and digest."""
        return f"oci://{self.host}/{self.name}"

    def at(self, version: str) -> str:
        return f"{self.place}{'@' if ':' in version else ':'}{version}"


def parse(address: str) -> Reference:
    """`oci://registry/name`, `…:tag`, `…@sha256:…`; a digest goes before a tag. Raises QuestionError."""
    found = _REFERENCE.fullmatch(address)
    if not found or not (found["host"] == "localhost" or "." in found["host"] or ":" in found["host"]):
        raise QuestionError(
            f"{address} names no artifact of a registry",
            hint="oci://registry.example/name:tag, or oci://registry.example/name@sha256:64 hex digits",
        )
    return Reference(found["host"], found["name"], found["digest"] or found["tag"])


@dataclass(frozen=True)
class Manifest:
    """A manifest as the registry has it; `digest` is the hash of its bytes."""

    digest: str
    kind: str
    raw: dict[str, Any]


def digest_of(content: bytes) -> str:
    """The name of a blob with this content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry:
    """One repository of a registry. Its methods may be called by several threads.

    Raises ModelError for what is not there or not for this user, SourceUnreachable, HashMismatch.
    """

    def __init__(self, client: httpx.Client, reference: Reference, config: Path | None, *, push: bool = False) -> None:
        self.reference = reference
        self._client, self._config, self._push = client, config, push
        self._lock = threading.Lock()
        self._challenge: str | None = None  # how the registry wants to be asked; empty: it does not mind
        self._headers: dict[str, str] = {}
        self._until = 0.0

    def headers(self) -> dict[str, str]:
        """What a request carries now: a token ends after some minutes, and a model may take hours."""
        with self._lock:
            if self._challenge is None:
                answer = self._ask("GET", f"{self.reference.origin}/v2/")
                self._challenge = answer.headers.get("www-authenticate", "") if answer.status_code == 401 else ""
            if time.monotonic() >= self._until:
                self._headers, seconds = self._signed(self._challenge)
                self._until = time.monotonic() + seconds
            return self._headers

    def send(self, method: str, url: str, **more: Any) -> httpx.Response:
        """One request, signed; once more when the registry only then says how it wants to be asked.

        What leads to another host, as the place for an upload may, is not signed.
        """
        extra = more.pop("headers", {})
        if not url.startswith(f"{self.reference.origin}/"):
            return self._ask(method, url, headers=extra, **more)
        answer = self._ask(method, url, headers={**extra, **self.headers()}, **more)
        if answer.status_code == 401 and (said := answer.headers.get("www-authenticate")) and "content" not in more:
            with self._lock:
                self._challenge, self._until = said, 0.0
            answer = self._ask(method, url, headers={**extra, **self.headers()}, **more)
        if answer.status_code in (401, 403):
            raise self._refused(answer)
        return answer

    def manifest(self, version: str) -> Manifest:
        """The manifest of a tag or a digest, held to its hash; of an index with one entry, that entry."""
        where = self.reference.at(version)
        answer = self.send("GET", f"{self.reference.base}/manifests/{version}", headers={"Accept": _ACCEPT})
        if answer.status_code == 404:
            raise ModelError(f"there is no {where}", hint=self._tags())
        if answer.status_code != 200:
            raise self._odd(answer, where)
        body = answer.content
        digest = digest_of(body)
        said = version if ":" in version else answer.headers.get("docker-content-digest", digest)
        if digest != said:
            raise HashMismatch(
                f"the manifest of {where} hashes to {digest}, and not to {said}",
                hint="a proxy or the registry changed it; nothing was fetched",
            )
        try:
            raw = json.loads(body)
            kind = raw.get("mediaType") or answer.headers.get("content-type", "").partition(";")[0]
            if len(body) > _MOST:
                raise ValueError(f"a manifest of {len(body)} bytes")
            if kind in INDEXES:
                return self.manifest(self._only(raw, where))
            if raw.get("schemaVersion") != 2 or not isinstance(raw["layers"], list):
                raise ValueError(f"it is {kind}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SourceUnreachable(
                f"{where} has no manifest that can be read: {error}", hint="is this the address of a registry?"
            ) from error
        return Manifest(digest, kind, raw)

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self.send("HEAD", f"{self.reference.base}/blobs/{digest}").status_code == 200

    def upload(self, digest: str, size: int, content: bytes | Iterator[bytes]) -> None:
        """Writes a blob, which the registry holds to its digest, in one request."""
        to = self.reference
        begun = self.send("POST", f"{to.base}/blobs/uploads/")
        if begun.status_code != 202 or "location" not in begun.headers:
            raise self._no(begun)
        place = urljoin(f"{to.base}/", begun.headers["location"])
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        where = f"{place}{'&' if '?' in place else '?'}digest={digest}"
        answer = self.send("PUT", where, content=content, headers=headers, timeout=_UPLOAD_S)
        if answer.status_code != 201:
            raise self._no(answer)

    def tag(self, name: str, manifest: bytes) -> None:
        """Writes an OCI manifest, and gives it a name."""
        url = f"{self.reference.base}/manifests/{name}"
        answer = self.send("PUT", url, content=manifest, headers={"Content-Type": MANIFEST})
        if answer.status_code != 201:
            raise self._no(answer)

    def _only(self, index: dict[str, Any], where: str) -> str:
        """The one entry of an index; what attests others (platform unknown/unknown) is none."""
        entries = [e for e in index["manifests"] if (e.get("platform") or {}).get("os") != "unknown"]
        if len(entries) != 1 or entries[0].get("mediaType") in INDEXES:
            raise ModelError(
                f"{where} is an index of {len(entries)} artifacts",
                hint=f"name one by its digest: {self.reference.place}@sha256:…",
                evidence=[f"{e['digest']}  {e.get('artifactType') or e.get('platform') or ''}" for e in entries[:20]],
            )
        return str(entries[0]["digest"])

    def _tags(self) -> str:
        answer = self.send("GET", f"{self.reference.base}/tags/list", params={"n": "20"})
        try:
            names = answer.json().get("tags") or []
        except (ValueError, AttributeError):
            names = []
        return f"it has the tags {', '.join(map(str, names[:20]))}" if names else "check name and tag"

    # who may

    def _signed(self, challenge: str) -> tuple[dict[str, str], float]:
        """The header that answers the challenge, and for how many seconds it is good."""
        scheme, _, rest = challenge.partition(" ")
        if not challenge or scheme.lower() not in ("basic", "bearer"):
            return {}, float("inf")
        known = credentials(self._config, self.reference.host)
        if scheme.lower() == "basic":
            return ({"Authorization": known.basic} if known else {}), float("inf")
        said = dict(_CHALLENGE.findall(rest))
        realm = urljoin(self.reference.origin, said.get("realm", ""))
        if self.reference.origin.startswith("https:") and not realm.startswith("https:"):
            known = None  # a password does not go out in the open
        asked = {"scope": f"repository:{self.reference.name}:{'pull,push' if self._push else 'pull'}"}
        if "service" in said:
            asked["service"] = said["service"]
        if known and not known.user:
            form = {**asked, "grant_type": "refresh_token", "refresh_token": known.secret, "client_id": "deployer"}
            answer = self._ask("POST", realm, data=form)
        else:
            answer = self._ask("GET", realm, params=asked, headers={"Authorization": known.basic} if known else {})
        if answer.status_code in (400, 401, 403):
            raise self._refused(answer)
        try:
            raw = answer.json()
            token, seconds = raw.get("token") or raw["access_token"], float(raw.get("expires_in") or _TOKEN_S)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._odd(answer, f"what gives tokens for {self.reference.host}") from error
        return {"Authorization": f"Bearer {token}"}, 0.8 * seconds

    def _ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        import httpx

        try:
            return self._client.request(method, url, **more)
        except httpx.HTTPError as error:
            raise SourceUnreachable(
                f"the registry {self.reference.host} cannot be reached: {reason_of(error)}",
                hint="check the network and the proxy",
            ) from error

    def _refused(self, answer: httpx.Response) -> ModelError:
        known, host = credentials(self._config, self.reference.host), self.reference.host
        if known is None:
            hint = f"docker login {host}"
        else:
            who = known.user or "the identity token"
            hint = f"{who} may not, or the password is old: docker login {host}"
        what, absent = ("written to", "") if self._push else ("read", ", or is not there")  # many do not tell which
        found = f"{self.reference.place} may not be {what} (HTTP {answer.status_code}){absent}"
        return ModelError(found, hint=hint)

    def _no(self, answer: httpx.Response) -> ModelError:
        if answer.status_code >= 500:
            return self._odd(answer, self.reference.place)
        return ModelError(
            f"{self.reference.host} does not take it: HTTP {answer.status_code}{_told(answer)}",
            hint="look at the registry's log; it must take OCI artifacts, and files of this size",
        )

    def _odd(self, answer: httpx.Response, where: str) -> SourceUnreachable:
        return SourceUnreachable(
            f"{where} answers HTTP {answer.status_code}{_told(answer)}", hint="run the same command in a few minutes"
        )


def _told(answer: httpx.Response) -> str:
    """What a registry says of an error, behind a colon."""
    try:
        errors = answer.json()["errors"]
        return ": " + ", ".join(f"{e.get('code')} {e.get('message', '')}".strip() for e in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
