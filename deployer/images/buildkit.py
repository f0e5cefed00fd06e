"""BuildKit at work: `docker buildx bake` with a definition, its steps as they go, and why it failed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from deployer.errors import BuildError
from deployer.progress import Progress
from deployer.quantity import format_duration, parse_version

LEAST_BUILDX = "0.13"
_INSTALL = (
    "install it: apt-get install docker-buildx-plugin (Docker's own packages), "
    "docker-buildx (Debian 13, Ubuntu 24.04 or later), dnf install docker-buildx-plugin (Fedora)"
)
_NINJA = re.compile(r"^\[(\d+)/(\d+)\] ")
# What a failed step says, in any case of letters, and what to do about it. The first that matches counts.
CAUSES = (
    (r"no space left on device|ENOSPC", "the disk is full: docker system df shows what can go"),
    (
        r"exit code: 137|Killed signal terminated",
        "memory ran out in the build: end other programs, or give the engine's machine more",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|invalid peer certificate|certificate verification failed|x509: certificate",
        "a certificate is not trusted in the build; name your company's: --ca-cert FILE",
    ),
    (
        r"Hash mismatch|Hash Sum mismatch",
        "the mirror serves other bytes than were locked: use another, or make the locks again with --lock",
    ),
    (
        r"Temporary failure resolving|Could not resolve|failed to lookup address|Name or service not known|"
        r"dns error|no such host",
        "names do not resolve inside builds: check the engine's DNS settings, or name a proxy: --proxy URL",
    ),
    (
        r"dial tcp .*(refused|unreachable|reset|timeout)|failed to do request: .*timeout",
        "the registry cannot be reached from the engine: look at its name and the engine's proxy; "
        "--base archive needs none",
    ),
    (
        r"No solution found|there is no version of|no wheels with a matching|not found in the package registry",
        "the index or wheelhouse lacks a locked version: --index-url URL, --wheelhouse DIR",
    ),
    (
        r"error sending request|Connection refused|Connection reset|Network is unreachable|timed out|Request failed",
        "the package index cannot be reached from the build: --index-url URL, --proxy URL, --wheelhouse DIR",
    ),
    (
        r"401 Unauthorized|403 Forbidden|authentication required|no basic auth credentials|"
        r"(?<!permission )\bdenied\b",
        "log in first: docker login REGISTRY",
    ),
    (
        r"Attestation is not supported|not supported for the docker driver",
        "this needs the engine's containerd image store, or another builder: docker buildx create --use",
    ),
    (r"exec format error", "another platform needs emulation: apt-get install qemu-user-static binfmt-support"),
)


def cause(text: str) -> str | None:
    """What to do about a failure that said `text`; None where its cause is not known."""
    return next((hint for pattern, hint in CAUSES if re.search(pattern, text, re.IGNORECASE)), None)


def driver(builder: str | None) -> str:
    """What runs BuildKit for this builder, as `docker` for the engine itself, or `docker-container`.

    Raises BuildError when there is no such builder.
    """
    command = ["docker", "buildx", "inspect", *([builder] if builder else [])]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^Driver: +(\S+)", asked.stdout, re.MULTILINE)
    said = f"{asked.stdout}\n{asked.stderr}"
    if not builder and re.search(r"Cannot connect to the Docker daemon|permission denied|error during connect", said):
        lines = [line.strip() for line in said.splitlines() if "rror" in line or "annot" in line][:2]
        raise BuildError("the container engine does not answer", hint="deployer check --only runtime", evidence=lines)
    if asked.returncode or not found:
        raise BuildError(
            f"there is no builder {builder or 'to use'}",
            hint="docker buildx ls",
            evidence=asked.stderr.splitlines()[-2:],
        )
    return found[1]


def require_buildx() -> None:
    """Raises BuildError with the way out unless `docker buildx` is here and new enough."""
    try:
        asked = subprocess.run(["docker", "buildx", "version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError("images are built with the `docker` command, which is not installed", hint=_INSTALL) from None
    if asked.returncode:
        raise BuildError("images are built with BuildKit, and `docker buildx` is missing", hint=_INSTALL)
    found = re.search(r"v?(\d+\.\d+(?:\.\d+)?)", asked.stdout.partition(" ")[2])
    if found and parse_version(found[1]) < parse_version(LEAST_BUILDX):
        raise BuildError(f"docker buildx is {found[1]}; {LEAST_BUILDX} or later is needed", hint=_INSTALL)


def bake(
    definition: dict[str, Any], title: str, progress: Progress, scratch: Path, *, builder: str | None = None
) -> dict[str, str]:
    """Builds what the definition says and returns the digest of each target that has an output.

    An interrupt ends the build; what was done stays in BuildKit's cache only.

    Raises BuildError with the failing step, its last lines and, if known, the cause.
    """
    about = scratch / "metadata.json"
    # seven questions to git are of no use: what the recipes are is in the labels
    command = ["env", "BUILDX_GIT_INFO=false", "docker", "buildx", "bake", *(["--builder", builder] if builder else [])]
    command += ["--progress=rawjson", f"--metadata-file={about}", "-f", "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    watch = _Watch(title, progress, tuple(definition.get("target", ())))
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as child:  # type: ignore[call-overload]
        try:
            try:
                child.stdin.write(json.dumps(definition))
                child.stdin.close()
            except BrokenPipeError:
                pass  # it has ended already, and has said why
            for event in _events(child.stderr, watch.other):
                watch.see(event)
        except BaseException:
            child.send_signal(signal.SIGINT)  # the client tells BuildKit to stop
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    if child.returncode:
        raise watch.error()
    found = json.loads(about.read_text()) if about.exists() else {}
    return {key: made["containerimage.digest"] for key, made in found.items() if "containerimage.digest" in made}


def _events(stream: IO[str], other: deque[str]) -> Iterator[dict[str, Any]]:
    """The JSON values in `stream`, which may run over several lines; lines that are none go to `other`."""
    decoder, text = json.JSONDecoder(), ""
    for line in stream:
        if not text and not line.startswith("{"):
            other.append(line.rstrip())
            continue
        text += line
        if line.rstrip().endswith("}"):
            try:
                event, _ = decoder.raw_decode(text)
            except ValueError:
                continue
            text = ""
            yield event
    if text:
        other.extend(text.splitlines())


class _Watch:
    """What the steps say, for people while it runs and for the error when it fails.

    A step that several targets share is told of each; it is the first's in `order`, in which parents come first.
    """

    def __init__(self, title: str, progress: Progress, order: tuple[str, ...] = ()) -> None:
        self._title, self._progress = title, progress
        self._order = {key: number for number, key in enumerate(order)}
        self._names: dict[str, str] = {}
        self._said: set[str] = set()
        self._timed: set[str] = set()
        self._lines: dict[str, deque[str]] = {}
        self._begun: dict[tuple[str, int], bytes] = {}  # lines that have no end yet, by step and stream
        self._failed: tuple[str, str] | None = None
        self.other: deque[str] = deque(maxlen=20)

    def see(self, event: dict[str, Any]) -> None:
        for vertex in event.get("vertexes") or ():
            self._vertex(vertex)
        for status in event.get("statuses") or ():
            self._status(status)
        for log in event.get("logs") or ():
            self._log(log)

    def _vertex(self, vertex: dict[str, Any]) -> None:
        digest = vertex["digest"]
        name = self._names[digest] = min(
            (found for found in (vertex.get("name"), self._names.get(digest)) if found), key=self._place, default=""
        )
        if error := vertex.get("error"):
            if "context canceled" not in error:  # another step's failure ended this one
                self._failed = (digest, error)
        elif shown := step(name):
            started, completed = vertex.get("started"), vertex.get("completed")
            if started and not completed and digest not in self._said:
                self._said.add(digest)
                self._progress.say(f"build: {shown}")
            elif started and completed and not vertex.get("cached"):
                seconds = _time(completed) - _time(started)
                if seconds >= 2 and digest not in self._timed:
                    self._timed.add(digest)
                    self._progress.say(f"build: {shown} took {format_duration(seconds)}")

    def _place(self, name: str) -> int:
        target = re.match(r"\[([^\s\]]+)", name)
        return self._order.get(target[1], len(self._order)) if target else len(self._order)

    def _status(self, status: dict[str, Any]) -> None:
        total = status.get("total") or 0
        if total > 1_000_000:
            name = status.get("id") or status.get("name") or ""
            self._progress.amount(f"{self._title}: {name[:48]}", status.get("current", 0), total)

    def _log(self, log: dict[str, Any]) -> None:
        import base64

        key = log["vertex"], log.get("stream", 0)
        data = self._begun.pop(key, b"") + base64.b64decode(log.get("data", ""))
        *lines, self._begun[key] = data.split(b"\n")
        for line in lines:
            self._line(log["vertex"], line)

    def _line(self, digest: str, said: bytes) -> None:
        line = said.decode(errors="replace").rstrip().rpartition("\r")[2]
        if counted := _NINJA.match(line):
            self._progress.amount(f"{self._title}: compiling", int(counted[1]), int(counted[2]), "files")
        elif line.strip():
            self._lines.setdefault(digest, deque(maxlen=30)).append(line)

    def error(self) -> BuildError:
        for (step_, _), begun in self._begun.items():
            self._line(step_, begun)
        self._begun.clear()
        digest, said = self._failed or ("", "")
        lines = [*self._lines.get(digest, ()), *([] if digest else self.other)]
        text = "\n".join((*lines, said, *self.other))
        where = f" in `{shown}`" if (shown := step(self._names.get(digest, ""))) else ""
        shown_lines = lines[-12:] or [line for line in said.splitlines() if line.strip()][-3:]
        return BuildError(
            f"building {self._title} failed{where}",
            hint=cause(text) or "the step's last lines say why",
            evidence=shown_lines,
        )


def step(name: str) -> str | None:
    """A step as people read it: its target and its command, without mounts; None for BuildKit's own."""
    match = re.match(r"\[([^\]]+)\] (.+)", name, re.DOTALL)
    if not match or re.match(r"internal|context|auth", match[1]) or " internal" in match[1] or "context" in match[1]:
        return None
    if re.match(r"FROM|WORKDIR|resolve image|exporting", match[2]):
        return None
    text = re.sub(r"--mount=\S+ +|--(?:from|link|chown)=?\S* +", "", re.sub(r"\s+", " ", match[2]))
    text = text.replace("/tools/layer ", "").replace("/tools/", "")
    stage = match[1].split()[0]  # of a stage without a name, the number of the step
    whole = text if "/" in stage else f"{stage}: {text}"
    return whole if len(whole) <= 90 else whole[:89] + "…"


def _time(text: str) -> float:
    """Seconds at a time as Go writes it: none to nine decimals, which Python before 3.11 does not read."""
    decimals = re.search(r"\.\d+", text)
    return datetime.fromisoformat(text[:19]).timestamp() + float(decimals[0] if decimals else 0)
