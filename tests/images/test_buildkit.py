"""BuildKit's steps and failures, as real builds told them: saved/*.jsonl are streams of `docker buildx bake`.

Recorded with `--progress=rawjson`, one event to a line; in those of single causes BuildKit's own steps are left out.
"""

from __future__ import annotations

import io
import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from deployer.errors import BuildError
from deployer.images import buildkit
from deployer.progress import Silent
from tests.servers import wait_until

SAVED = Path(__file__).parent / "saved"


class Watch:
    """What people were told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.amounts: list[tuple[str, int, int | None, str]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
        self.amounts.append((title, done, total, unit))


def text(name: str) -> str:
    return (SAVED / f"{name}.jsonl").read_text()


def spread(saved: str) -> str:
    """The same stream as older versions of buildx print it: each event over several lines."""
    lines = saved.splitlines()
    return "".join((json.dumps(json.loads(x), indent=2) if x.startswith("{") else x) + "\n" for x in lines)


def play(docker: Path, stream: str, rc: int) -> tuple[Watch, Any]:
    """A build that says `stream`: what people saw, and the digests or the error."""
    (docker / "stderr").write_text(stream)
    (docker / "rc").write_text(str(rc))
    watch, scratch = Watch(), docker.parent
    try:
        return watch, buildkit.bake({"target": {}}, "llamacpp:cpu", watch, scratch)
    except BuildError as error:
        return watch, error


# ------------------------------------------------------------------------------------------------------- success


@pytest.mark.parametrize("form", [str, spread], ids=["lines", "spread"])
def test_a_build_that_succeeds(docker: Path, form: Any) -> None:
    digest = "sha256:" + "1" * 64
    made = {"llamacpp-cpu": {"containerimage.digest": digest}, "cache": {}, "buildx.build.warnings": ["x"]}
    (docker / "metadata").write_text(json.dumps(made))
    watch, digests = play(docker, form(text("success")), 0)
    assert digests == {"llamacpp-cpu": digest}
    assert json.loads((docker / "definition").read_text()) == {"target": {}}
    assert (docker / "words").read_text().startswith("buildx bake --progress=rawjson --metadata-file=")
    step = 'build: build: RUN for n in 1 2 3; do echo "[$n/3] Building CXX object ggml/file$n.cpp.o"; sleep …'
    copies = ("build: image: COPY /big /big", "build: image: RUN cp -r /out /opt/llamacpp")
    assert watch.said == [step, copies[0], f"{step} took 3.4 s", copies[1]]
    compiled = [amount for amount in watch.amounts if amount[3] == "files"]
    assert compiled == [("llamacpp:cpu: compiling", n, 3, "files") for n in (1, 2, 3)]
    loads = [amount for amount in watch.amounts if amount[3] == "B"]
    assert loads[0][1] == 0 and loads[-1][1] == 4001421, "a layer that was pulled"
    assert {(title[:20], total) for title, _, total, _ in loads} == {("llamacpp:cpu: sha256", 4001421)}


def test_a_step_that_several_images_share_is_told_of_the_lowest(docker: Path) -> None:
    (docker / "stderr").write_text(text("shared"))

    def owners(*order: str) -> list[str]:
        watch = Watch()
        buildkit.bake({"target": dict.fromkeys(order)}, "gateway:cpu", watch, docker)
        return [said.split(": ")[1] for said in watch.said if " took " not in said]

    wanted = [*["debian-12"] * 3, "python-3_11", *["gateway-cpu"] * 4]
    assert owners("debian-12", "python-3_11", "gateway-cpu") == wanted
    assert owners("gateway-cpu", "python-3_11", "debian-12") != wanted, "in the order of the definition"


def test_a_builder_is_named(docker: Path) -> None:
    buildkit.bake({}, "x", Silent(), docker, builder="remote")
    assert (docker / "words").read_text().startswith("buildx bake --builder remote ")


# ------------------------------------------------------------------------------------------------------- failure


@pytest.mark.parametrize("form", [str, spread], ids=["lines", "spread"])
def test_the_step_that_failed_is_blamed_and_not_those_it_cancelled(docker: Path, form: Any) -> None:
    watch, error = play(docker, form(text("failed")), 1)
    assert "llamacpp-cpu: RUN echo waiting && sleep 60" in watch.said[1], "it ran when the other failed"
    assert "context canceled" in text("failed")
    assert error.message.startswith("building llamacpp:cpu failed in `llamacpp-cuda: RUN printf ")
    assert error.evidence == ("one", "two halves", "nvcc fatal: unsupported gpu architecture"), "whole lines"
    assert error.hint == "the step's last lines say why"


@pytest.mark.parametrize(
    ("name", "cause", "last"),
    [
        ("disk-full", "the disk is full", "cp: error writing '/opt/venv/python3.11': No space left on device"),
        ("killed", "memory ran out", "Killed"),
        ("index-certificate", "a certificate is not trusted", "invalid peer certificate"),
        ("mirror-certificate", "a certificate is not trusted", "Certificate verification failed"),
        ("wheel-hash", "other bytes than were locked", "Hash mismatch for `some-engine==1.0`"),
        ("package-hash", "other bytes than were locked", "Hash Sum mismatch"),
        ("index-name", "names do not resolve", "failed to lookup address information"),
        ("mirror-name", "names do not resolve", "Could not resolve 'mirror.invalid'"),
        ("registry-name", "names do not resolve", "no such host"),
        ("registry-down", "the registry cannot be reached", "connect: connection refused"),
        ("version-lacking", "lacks a locked version", "there is no version of some-engine==1.0"),
        ("index-unreachable", "the package index cannot be reached", "Connection refused (os error 111)"),
        ("registry-login", "docker login", "401 Unauthorized"),
        ("push-login", "docker login", "no basic auth credentials"),
        ("push-denied", "docker login", "denied"),
        ("attestation", "containerd image store", "Attestation is not supported for the docker driver."),
        ("cache-export", "containerd image store", "Cache export is not supported for the docker driver."),
        ("platform", "another platform needs emulation", "exec /bin/sh: exec format error"),
    ],
)
def test_known_causes(name: str, cause: str, last: str, docker: Path) -> None:
    _, error = play(docker, text(name), 1)
    assert cause in error.hint
    assert any(last in line for line in error.evidence), error.evidence
    assert len(error.evidence) <= 12


def test_every_cause_was_seen_in_a_real_build() -> None:
    seen = set()
    for path in SAVED.glob("*.jsonl"):
        watch = buildkit._Watch("x", Silent())
        for event in buildkit._events(io.StringIO(path.read_text()), watch.other):
            watch.see(event)
        seen.add(watch.error().hint)
    assert {hint for _, hint in buildkit.CAUSES} <= seen


def test_what_only_looks_like_a_cause() -> None:
    for text in ("", "PermissionError: [Errno 13] Permission denied: '/opt/venv'", "cp: '/x': Permission denied"):
        assert buildkit.cause(text) is None


def test_words_before_any_step(docker: Path) -> None:
    _, error = play(docker, "ERROR: failed to find target nothing\n", 1)
    assert error.message == "building llamacpp:cpu failed"
    assert error.evidence == ("ERROR: failed to find target nothing",)


def test_a_program_that_ends_before_it_has_read_the_definition(docker: Path) -> None:
    (docker / "deaf").touch()
    (docker / "stderr").write_text("ERROR: no builder is here\n")
    (docker / "rc").write_text("1")
    large = {"target": {str(n): {"context": "x" * 1000} for n in range(1000)}}
    with pytest.raises(BuildError) as caught:
        buildkit.bake(large, "x", Silent(), docker)
    assert caught.value.evidence == ("ERROR: no builder is here",)


def test_an_interrupt_stops_the_build(docker: Path) -> None:
    class Interrupting(Watch):
        def say(self, text: str) -> None:
            wait_until((docker / "ready").exists)
            raise KeyboardInterrupt

    (docker / "endless").touch()
    (docker / "stderr").write_text(text("success"))
    with pytest.raises(KeyboardInterrupt):
        buildkit.bake({}, "x", Interrupting(), docker)
    assert (docker / "stopped").exists(), "the client was asked to end, and was waited for"


# --------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("[internal] load local bake definitions", None),
        ("[internal] load metadata for docker.io/library/debian:12", None),
        ("[gateway-cpu internal] load build definition from Dockerfile", None),
        ("[gateway-cpu context tools] load from client", None),
        ("[context tools] load .dockerignore", None),
        ("[auth] library/debian:pull token for registry-1.docker.io", None),
        ("[image 1/4] FROM docker.io/library/debian:12", None),
        ("[gateway-cpu image 3/4] WORKDIR /opt/deployer", None),
        ("[python-3_11] exporting to image", None),
        ("exporting to image", None),
        ("", None),
        ("[debian-12 root 1/2] ADD root.tar /", "debian-12: ADD root.tar /"),
        ("[debian-12 stage-1 1/1] COPY --from=root / /", "debian-12: COPY / /"),
        ("[gateway-cpu stage-2 1/1] COPY --from=proof --chown=0:0 /tmp/proof/ /", "gateway-cpu: COPY /tmp/proof/ /"),
        ("[gateway-cpu image 1/4] RUN --mount=type=bind,from=tools,target=/tools --mount=type=secret,id=ca "
         "    /tools/layer /tools/wheels /order/lock", "gateway-cpu: RUN wheels /order/lock"),
        ("[proof 1/1] RUN --mount=type=bind,from=tools,target=/tools /tools/prove", "proof: RUN prove"),
        ("[1/2] RUN true", "RUN true"),
        ("[build 2/2] RUN a \\\n    && b\n", "build: RUN a \\ && b "),
        ("[build 2/2] RUN " + "x" * 100, "build: RUN " + "x" * 78 + "…"),
    ],
)  # fmt: skip
def test_a_step_as_people_read_it(name: str, shown: str | None) -> None:
    assert buildkit.step(name) == shown


def test_events_among_other_lines() -> None:
    other: deque[str] = deque()
    stream = 'WARN: old\n{"a": 1}\n{\n  "b": {\n    "c": "}"\n  }\n}\n#1 done\n{"half":\n'
    assert list(buildkit._events(io.StringIO(stream), other)) == [{"a": 1}, {"b": {"c": "}"}}]
    assert list(other) == ["WARN: old", "#1 done", '{"half":']


@pytest.mark.parametrize(
    ("a", "b", "seconds"),
    [
        ("2026-11-22T05:20:07Z", "2026-11-22T05:20:09.5Z", 2.5),
        ("2026-11-22T05:20:07.1234567Z", "2026-11-22T05:20:07.123956789Z", 0.0005),
        ("2026-11-22T23:59:59.999999999+01:00", "2026-11-23T00:00:01+01:00", 1.0),
    ],
)
def test_times_as_go_writes_them(a: str, b: str, seconds: float) -> None:
    assert buildkit._time(b) - buildkit._time(a) == pytest.approx(seconds, abs=1e-5)


# -------------------------------------------------------------------------------------------------------- buildx


@pytest.mark.parametrize(
    ("said", "rc", "refused"),
    [
        ("github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3\n", 0, None),
        ("github.com/docker/buildx v0.29.1 a32761aeb3debd39be1eca514af3693af0db334b\n", 0, None),
        ("github.com/docker/buildx v0.9.1 ed00243\n", 0, "docker buildx is 0.9.1; 0.13 or later is needed"),
        ("docker: 'buildx' is not a docker command.\n", 1, "`docker buildx` is missing"),
        ("github.com/docker/buildx (devel)\n", 0, None),
    ],
)
def test_buildx_must_be_there_and_new_enough(said: str, rc: int, refused: str | None, docker: Path) -> None:
    (docker / "stdout").write_text(said)
    (docker / "rc").write_text(str(rc))
    if refused is None:
        return buildkit.require_buildx()
    with pytest.raises(BuildError, match=refused) as caught:
        buildkit.require_buildx()
    assert caught.value.hint and "docker-buildx" in caught.value.hint
    return None


def test_no_docker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="`docker` command, which is not installed"):
        buildkit.require_buildx()


def test_the_driver_of_a_builder(docker: Path) -> None:
    (docker / "stdout").write_text("Name:          default\nDriver:        docker\n\nNodes:\nName: default\n")
    assert buildkit.driver(None) == "docker"
    assert (docker / "words").read_text() == "buildx inspect"
    (docker / "stderr").write_text("ERROR: no builder \"far\" found\n")
    (docker / "rc").write_text("1")
    with pytest.raises(BuildError, match="there is no builder far") as caught:
        buildkit.driver("far")
    assert caught.value.evidence == ('ERROR: no builder "far" found',)
    assert (docker / "words").read_text() == "buildx inspect far"
