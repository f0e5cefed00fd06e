"""The port, and the ways out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployer.host import Answer, Host, Port, Proxies, Unknown
from deployer.profile import Profile
from tests import hosts
from tests.checks.rows import CPU, GPU, LOST, NO_GPU, PROCESS, RTX, check, system

HUB, HUB_URL = "https://hub.example", "https://hub.example"
REGISTRY, MIRROR = "https://registry.example/v2/", "http://mirror.example/debian/dists/bookworm/InRelease"
NO_ROUTE = Unknown("no route to host")
UNTRUSTED = Unknown("certificate not trusted: self-signed certificate in certificate chain")
EARLY = Unknown("certificate not trusted: certificate is not yet valid")


def port(number: int = 8000, *, free: bool = False, owner: str | None = None) -> Host:
    return replace(NO_GPU, ports={str(number): Port(number, free, owner)})


LAST = replace(CPU, serving=replace(CPU.serving, port=65535))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (NO_GPU, CPU, "pass", "free", None),
        (
            port(owner="nginx (pid 7)"), CPU, "fail", "held by nginx (pid 7)",
            "end it, or choose another port: --port 8001",
        ),
        (
            port(), CPU, "fail", "held by a process of another user (sudo ss -ltnp shows it)",
            "end it, or choose another port: --port 8001",
        ),
        (port(65535), LAST, "fail", "another user", "end it, or choose another port: --port 65534"),
        (replace(NO_GPU, ports={}), CPU, "skip", "not asked", None),
        (replace(NO_GPU, ports={"8000": LOST}), CPU, "unknown", "lost", None),
    ],
)  # fmt: skip
def test_port(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("network.port", host, wanted, outcome, found, hint)


def test_no_command_is_named_that_is_not_there() -> None:
    host = system(port(), tools=())
    check("network.port", host, CPU, "fail", "held by a process of another user", "end it, or choose another "
          "port: --port 8001")  # fmt: skip


PROXY = "http://proxy.example:3128"


def behind(*exempt: str, http: str | None = PROXY, https: str | None = PROXY, **changes: Any) -> Host:
    return replace(RTX, proxies=Proxies(http, https, exempt), **changes)


@pytest.mark.parametrize(
    ("host", "outcome", "found", "hint"),
    [
        (NO_GPU, "pass", "no proxy", None),
        (behind(http=None), "pass", "no proxy for http://", None),
        (behind("127.0.0.1", "localhost"), "pass", "127.0.0.1,localhost", None),
        (behind("*"), "pass", "*", None),
        (
            behind(), "warn", "http:// goes to http://proxy.example:3128, and NO_PROXY lacks 127.0.0.1 and localhost",
            "export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost",
        ),
        (
            behind(".corp", "localhost"), "warn", "lacks 127.0.0.1",
            "export NO_PROXY=.corp,localhost,127.0.0.1 no_proxy=.corp,localhost,127.0.0.1",
        ),
        (replace(NO_GPU, proxies=LOST), "unknown", "lost", None),
    ],
)  # fmt: skip
def test_proxy(host: Host, outcome: str, found: str, hint: str | None) -> None:
    check("network.proxy", host, CPU, outcome, found, hint)


NEEDED = behind(".corp", base=Answer(REGISTRY, 401, 0.2))
HERE = {f"{wanted.image}:{wanted.variant}": True for wanted in (CPU, GPU)}
SETTINGS = (
    'put {"proxies": {"http-proxy": "http://proxy.example:3128", "https-proxy": "http://proxy.example:3128", '
    '"no-proxy": ".corp,127.0.0.1,localhost"}} into '
)


def engine(host: Host, **changes: Any) -> Host:
    return replace(host, runtime=replace(hosts.CDI, **changes))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (
            NEEDED, GPU, "warn", "this user has http://proxy.example:3128, the engine has none",
            f"{SETTINGS}/etc/docker/daemon.json, then sudo systemctl restart docker",
        ),
        (
            system(NEEDED, systemd=False), GPU, "warn", "the engine has none",
            f"{SETTINGS}/etc/docker/daemon.json, then restart the container engine",
        ),
        (
            engine(NEEDED, rootless=True), GPU, "warn", "the engine has none",
            f"{SETTINGS}~/.config/docker/daemon.json, then restart the container engine",
        ),
        (
            engine(NEEDED, kind="podman"), GPU, "warn", "the engine has none",
            'in /etc/containers/containers.conf under [engine]: env = ["http_proxy=http://proxy.example:3128", '
            '"https_proxy=http://proxy.example:3128"]',
        ),
        (engine(NEEDED, proxies={"https": "http://other:1"}), GPU, "pass", "http://other:1", None),
        (replace(NEEDED, proxies=None), GPU, "pass", "this user has none", None),
        (replace(NEEDED, base=None), GPU, "skip", "nothing to pull", None),
        (replace(NEEDED, base=Answer(MIRROR, 200, 0.2)), GPU, "skip", "nothing to pull", None),
        (replace(NEEDED, images=HERE), GPU, "skip", "nothing to pull", None),
        (replace(NEEDED, base=LOST), GPU, "unknown", "lost", None),
        (replace(NEEDED, runtime=None), GPU, "skip", "no container runtime", None),
        (replace(NEEDED, runtime=None), CPU, "skip", "no containers", None),
        (replace(NEEDED, runtime=LOST), GPU, "unknown", "lost", None),
        (replace(NEEDED, proxies=LOST), GPU, "unknown", "lost", None),
        (engine(NEEDED, proxies=LOST), GPU, "unknown", "lost", None),
    ],
)  # fmt: skip
def test_engine_proxy(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("network.engine_proxy", host, wanted, outcome, found, hint)


def base(answer: Answer | Unknown | None, host: Host = NO_GPU, **changes: Any) -> Host:
    return replace(host, base=answer, **changes)


OTHER = "check the network; or name the proxy: --proxy URL, or another Debian mirror: --apt-mirror URL"


@pytest.mark.parametrize(
    ("host", "outcome", "found", "hint"),
    [
        (base(Answer(MIRROR, 200)), "pass", f"{MIRROR} answers HTTP 200", None),
        (base(Answer(MIRROR, 302)), "pass", "answers HTTP 302", None),
        (base(Answer(MIRROR, 401)), "warn", "answers HTTP 401", OTHER),
        (base(Answer(MIRROR, 404)), "warn", "answers HTTP 404", OTHER),
        (base(Answer(MIRROR, 407)), "warn", "answers HTTP 407", OTHER),
        (base(Answer(MIRROR, 503)), "warn", "answers HTTP 503", OTHER),
        (base(Answer(REGISTRY, 401)), "pass", f"{REGISTRY} answers HTTP 401", None),
        (base(Answer(REGISTRY, 200)), "pass", "answers HTTP 200", None),
        (base(Answer(REGISTRY, 404)), "warn", "answers HTTP 404", OTHER),
        (base(Answer(REGISTRY, 503)), "warn", "answers HTTP 503", OTHER),
        (base(NO_ROUTE), "warn", "no route to host", OTHER),
        (base(NO_ROUTE, images=dict.fromkeys(HERE, False)), "warn", "no route to host", OTHER),
        (base(NO_ROUTE, images=dict.fromkeys(HERE, LOST)), "warn", "no route to host", OTHER),
        (base(NO_ROUTE, images=HERE), "skip", "nothing has to come", None),
        (base(None), "skip", "nothing has to come", None),
        (base(NO_ROUTE, PROCESS), "skip", "no containers", None),
        (base(Answer(MIRROR, 200), replace(PROCESS, runtime=LOST)), "skip", "no containers", None),
        (base(Unknown("not asked")), "unknown", "not asked", None),
        (base(Unknown("not in the saved host")), "unknown", "not in the saved host", None),
    ],
)  # fmt: skip
def test_base(host: Host, outcome: str, found: str, hint: str | None) -> None:
    check("network.base", host, CPU, outcome, found, hint)


def test_the_silence_of_the_engine_is_not_that_of_the_place() -> None:
    denied = Unknown(hosts.DENIED)
    check("network.base", base(denied, RTX, runtime=denied), GPU, "unknown", hosts.DENIED)


def hub(answer: Answer | Unknown, **changes: Any) -> Host:
    return replace(RTX, sources={HUB: answer}, **changes)


TRUST = "name your company's certificates: --ca-cert FILE, or export SSL_CERT_FILE=FILE"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (hub(Answer(HUB_URL, 200)), GPU, "pass", "https://hub.example", None),
        (hub(UNTRUSTED), GPU, "warn", "https://hub.example: certificate not trusted: self-signed", TRUST),
        (
            hub(EARLY), GPU, "warn", "not yet valid",
            f"is the machine's clock right? It says 2026-01-01T00:00:00Z; else {TRUST}",
        ),
        (
            hub(Answer(HUB_URL, 200), base=UNTRUSTED), GPU, "warn",
            "the place of the OS base: certificate not trusted",
            f"{TRUST}; if it is a registry, the engine needs them in the system's trust store, and a restart",
        ),
        (hub(Answer(HUB_URL, 200), base=UNTRUSTED, images=HERE), GPU, "pass", "https://hub.example", None),
        (hub(NO_ROUTE, base=Answer(MIRROR, 200)), GPU, "skip", "nothing was asked over TLS", None),
        (hub(Answer("http://mirror", 200)), GPU, "skip", "nothing was asked over TLS", None),
        (hub(NO_ROUTE), GPU, "skip", "nothing answered", None),
        (RTX, GPU, "skip", "nothing was asked", None),
        # not this profile's source
        (hub(UNTRUSTED), CPU, "skip", "nothing was asked", None),
        (replace(PROCESS, base=UNTRUSTED), CPU, "skip", "nothing was asked", None),
    ],
)  # fmt: skip
def test_certificate(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("network.certificate", host, wanted, outcome, found, hint)


SLOW = "look at name server and proxy, or take a mirror that is nearer"


@pytest.mark.parametrize(
    ("host", "outcome", "found", "hint"),
    [
        (hub(Answer(HUB_URL, 200, 1.0)), "pass", "https://hub.example after 1.0 s", None),
        (hub(Answer(HUB_URL, 200, 1.4)), "warn", "https://hub.example after 1.4 s", SLOW),
        (
            hub(Answer(HUB_URL, 200, 0.1), base=Answer(MIRROR, 200, 1.6)), "warn",
            "http://mirror.example/debian/dists/bookworm/InRelease after 1.6 s", SLOW,
        ),
        (hub(Answer(HUB_URL, 200, LOST)), "unknown", "lost", None),
        (hub(NO_ROUTE), "skip", "nothing answered", None),
        (RTX, "skip", "nothing answered", None),
    ],
)  # fmt: skip
def test_slow(host: Host, outcome: str, found: str, hint: str | None) -> None:
    check("network.slow", host, GPU, outcome, found, hint)
