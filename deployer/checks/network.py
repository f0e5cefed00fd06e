"""The port that clients will use, and the ways out: proxies, certificates, the registry."""

from __future__ import annotations

import json
import shlex

from deployer.checks.base import Check, has, install, service, sudo, uses_containers
from deployer.host import Answer, ContainerRuntime, Fact, Host, Proxies, Unknown
from deployer.profile import Profile
from deployer.quantity import format_duration
from deployer.report import Finding, failed, passed, skipped, unknown, warned

_NOT_ASKED = ("not asked", "not in the saved host")  # the only reasons that say nothing of the network
_LOCAL = ("127.0.0.1", "localhost")
_SLOW_S = 1.0
_UNTRUSTED = "certificate not trusted"


def _port(host: Host, profile: Profile) -> Finding:
    """The profile's port on 127.0.0.1 is free.

    Why: the service cannot start where another program listens.
    Pass: it is free.
    Warn: never.
    Fail: something listens there.
    Skip: the deployment itself holds it, or it could not be asked.
    Fix: end what listens there, or choose another port with --port.
    """
    number = profile.serving.port
    wanted = f"port {number} free on 127.0.0.1"
    port = host.ports.get(str(number))
    if port is None:
        return skipped("not asked: the deployment itself holds it, or the host was saved without it", wanted)
    if isinstance(port, Unknown):
        return unknown(wanted, port.reason)
    if port.free:
        return passed(wanted, "free")
    shows = f" ({sudo(host, 'ss -ltnp')} shows it)" if has(host, "ss") else ""
    other = number + 1 if number < 65535 else number - 1
    return failed(
        wanted,
        f"held by {port.owner or f'a process of another user{shows}'}",
        f"end it, or choose another port: --port {other}",
    )


def _proxy(host: Host, profile: Profile) -> Finding:
    """Requests to this machine itself do not go to the proxy.

    Why: a client on this machine that sends http://127.0.0.1 to the company's proxy gets the proxy's error
        page. `deployer` itself never does that; curl and most libraries do.
    Pass: no proxy for http:// is set, or NO_PROXY names 127.0.0.1.
    Warn: one is set and NO_PROXY does not name 127.0.0.1 and localhost.
    Fail: never.
    Skip: it could not be asked.
    Fix: add 127.0.0.1 and localhost to NO_PROXY.
    """
    wanted = "127.0.0.1 and localhost in NO_PROXY"
    proxies = host.proxies
    if isinstance(proxies, Unknown):
        return unknown(wanted, proxies.reason)
    if proxies is None or proxies.http is None:
        return passed(wanted, "no proxy for http:// is set, so none is needed")
    missing = [name for name in _LOCAL if name not in proxies.exempt]
    if not missing or "*" in proxies.exempt:
        return passed(wanted, ",".join(proxies.exempt))
    value = shlex.quote(",".join((*proxies.exempt, *missing)))
    return warned(
        wanted,
        f"http:// goes to {proxies.http}, and NO_PROXY lacks {' and '.join(missing)}",
        f"export NO_PROXY={value} no_proxy={value}",
    )


def _engine_proxy(host: Host, profile: Profile) -> Finding:
    """The container engine knows of the proxy that this user needs.

    Why: the engine pulls with settings of its own; a shell's proxy never reaches it, and the pull hangs.
    Pass: it has a proxy as well, or this user has none.
    Warn: this user has one, the engine has none, and the base of an image has to come from a registry.
    Fail: never.
    Skip: no containers are used, nothing has to come from a registry, or it could not be asked.
    Fix: "proxies" in /etc/docker/daemon.json and a restart of the engine; builds take theirs from
        ~/.docker/config.json.
    """
    if not uses_containers(host, profile):
        return skipped("no containers are used")
    wanted = "a proxy for the container engine too"
    if host.proxies is None:
        return passed(wanted, "this user has none")
    if host.registry is None:
        return skipped("nothing has to come from a registry")
    if isinstance(host.proxies, Unknown):
        return unknown(wanted, host.proxies.reason)
    engine = host.runtime
    if not isinstance(engine, ContainerRuntime):
        return skipped("there is no container runtime") if engine is None else unknown(wanted, engine.reason)
    if isinstance(engine.proxies, Unknown):
        return unknown(wanted, engine.proxies.reason)
    if found := engine.proxies.get("https") or engine.proxies.get("http"):
        return passed(wanted, found)
    said = host.proxies.https or host.proxies.http
    return warned(
        wanted, f"this user has {said}, the engine has none", _give_proxy(host, engine, host.proxies)
    )


def _give_proxy(host: Host, engine: ContainerRuntime, proxies: Proxies) -> str:
    """Docker Engine 23 reads it from daemon.json; Podman's service has its environment from containers.conf."""
    if engine.kind == "podman":
        found = [f"{k}_proxy={v}" for k, v in (("http", proxies.http), ("https", proxies.https)) if v]
        return f"in /etc/containers/containers.conf under [engine]: env = {json.dumps(found)}"
    exempt = ",".join(dict.fromkeys((*proxies.exempt, *_LOCAL)))
    pairs = (("http-proxy", proxies.http), ("https-proxy", proxies.https), ("no-proxy", exempt))
    text = json.dumps({"proxies": {key: value for key, value in pairs if value}})
    place = "~/.config/docker/daemon.json" if engine.rootless else "/etc/docker/daemon.json"
    restart = service(host, "restart docker") if not engine.rootless else None
    return f"put {text} into {place}, then {restart or 'restart the container engine'}"


def _registry(host: Host, profile: Profile) -> Finding:
    """The registry that the images' base comes from answers, where something has to come from it.

    Why: a build that cannot have its base ends at its first step.
    Pass: it answers; HTTP 401 is its way to ask for a token, which the engine gets by itself.
    Warn: it does not answer, or says that it is ill; the base can also be made from the Debian archive.
    Fail: never.
    Skip: no containers are used, nothing has to come from it, or it could not be asked.
    Fix: mend network or proxy, or, with debootstrap and as root, --base archive.
    """
    if not uses_containers(host, profile):
        return skipped("no containers are used")
    if host.registry is None:
        return skipped("nothing has to come from it")
    wanted = "a registry that answers"
    if isinstance(host.registry, Unknown):
        if host.registry.reason in _NOT_ASKED:
            return unknown(wanted, host.registry.reason)
        return warned(wanted, f"it does not answer: {host.registry.reason}", _archive(host))
    found = f"{host.registry.url} answers HTTP {host.registry.status}"
    return warned(wanted, found, _archive(host)) if host.registry.status >= 500 else passed(wanted, found)


def _archive(host: Host) -> str:
    hint = "check network and proxy"
    if has(host, "debootstrap"):
        return f"{hint}; or make the base from the Debian archive: {sudo(host, 'deployer up --base archive')}"
    command = install(host, "debootstrap")
    return (
        f"{hint}; or for a base from the Debian archive: {command}, then --base archive" if command else hint
    )


def _certificate(host: Host, profile: Profile) -> Finding:
    """The certificates of the places that things come from are trusted here.

    Why: a company's proxy that opens TLS signs with a certificate of its own, which this machine, the builds and
        the engine each have to be told of. A wrong clock looks the same.
    Pass: every place that answered over TLS has a certificate that is trusted.
    Warn: one has not; options name more certificates than this audit knows of.
    Fail: never.
    Skip: nothing was asked, or nothing answered.
    Fix: --ca-cert FILE or SSL_CERT_FILE for `deployer`; the system's trust store for the engine.
    """
    wanted = "certificates that are trusted"
    answers = _answers(host, profile)
    for name, answer in answers.items():
        if isinstance(answer, Unknown) and _UNTRUSTED in answer.reason:
            hint = "name your company's certificates: --ca-cert FILE, or export SSL_CERT_FILE=FILE"
            if "not yet valid" in answer.reason or "expired" in answer.reason:
                hint = f"is the machine's clock right? It says {host.taken}; else {hint}"
            elif name == _REGISTRY and uses_containers(host, profile):
                hint += "; the engine needs them in the system's trust store, and a restart"
            return warned(wanted, f"{name}: {answer.reason}", hint)
    if good := [n for n, a in answers.items() if isinstance(a, Answer) and a.url.startswith("https")]:
        return passed(wanted, ", ".join(good))
    return skipped("nothing was asked over TLS, or nothing answered", wanted)


_REGISTRY = "the registry"


def _answers(host: Host, profile: Profile) -> dict[str, Fact[Answer]]:
    """What was asked for this profile, by name."""
    found = dict(host.sources) if profile.model.source.startswith("hf://") else {}
    if uses_containers(host, profile) and host.registry is not None:
        found[_REGISTRY] = host.registry
    return found


def _slow(host: Host, profile: Profile) -> Finding:
    """The places that things come from answer within a second.

    Why: a slow name server, proxy or line shows in the first answer, and again in gigabytes.
    Pass: they do.
    Warn: one takes longer.
    Fail: never.
    Skip: nothing was asked, nothing answered, or nobody measured how long it took.
    Fix: look at name server and proxy; a mirror that is nearer goes into HF_ENDPOINT or --index-url.
    """
    wanted = f"answers within {format_duration(_SLOW_S)}"
    answers = [a for a in _answers(host, profile).values() if isinstance(a, Answer)]
    took = [(a.seconds, a.url) for a in answers if not isinstance(a.seconds, Unknown)]
    if not took:
        reasons = [a.seconds.reason for a in answers if isinstance(a.seconds, Unknown)]
        return unknown(wanted, reasons[0]) if reasons else skipped("nothing answered that was asked", wanted)
    seconds, url = max(took)
    found = f"{url} after {format_duration(seconds)}"
    if seconds <= _SLOW_S:
        return passed(wanted, found)
    return warned(wanted, found, "look at name server and proxy, or take a mirror that is nearer")


CHECKS = (
    Check("network.port", _port, pains=(37,)),
    Check("network.proxy", _proxy, pains=(30,), advice=True),
    Check("network.engine_proxy", _engine_proxy, pains=(30,), advice=True),
    Check("network.registry", _registry, pains=(30,), advice=True),
    Check("network.certificate", _certificate, pains=(30,), advice=True),
    Check("network.slow", _slow, advice=True),
)
