"""The port that clients will use, and the ways out: proxies, certificates, the place of the OS base."""

from __future__ import annotations

import json
import shlex

from deployer.checks.base import Check, has, present, service, sudo, uses_containers
from deployer.host import Answer, ContainerRuntime, Fact, Host, Proxies, Unknown
from deployer.profile import Profile
from deployer.quantity import format_duration
from deployer.report import Finding, failed, passed, skipped, unknown, warned

_NOT_ASKED = ("not asked", "not in the saved host")  # the only reasons that say nothing of the network
_LOCAL = ("127.0.0.1", "localhost")
_SLOW_S = 1.0
_UNTRUSTED = "certificate not trusted"
_REGISTRY = "/v2/"  # how the address of a registry ends, and never that of a Debian mirror
_PLACE = "the place of the OS base"
_OTHER_WAY = "check the network; or name the proxy: --proxy URL, or another Debian mirror: --apt-mirror URL"


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

    Why: the engine pulls with settings of its own; a shell's proxy never reaches it, and the pull hangs. It pulls only
        an OS base that --base names: all else is fetched by `deployer`, or by a build's own steps.
    Pass: it has a proxy as well, or this user has none.
    Warn: this user has one, the engine has none, and the OS base of the image has to come from a registry.
    Fail: never.
    Skip: no containers are used, the engine has nothing to pull, or it could not be asked.
    Fix: "proxies" in /etc/docker/daemon.json and a restart of the engine; builds take theirs from --proxy, or from
        the environment.
    """
    if not uses_containers(host, profile):
        return skipped("no containers are used")
    wanted = "a proxy for the container engine too"
    if host.proxies is None:
        return passed(wanted, "this user has none")
    base = _base_for(host, profile)
    if isinstance(base, Unknown):
        return unknown(wanted, base.reason)
    if base is None or not base.url.endswith(_REGISTRY):
        return skipped("the engine has nothing to pull")
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


def _base(host: Host, profile: Profile) -> Finding:
    """The place that the OS base of images comes from answers, where something has to come from it.

    Why: it is a Debian mirror, or the registry of the image that --base names; a build that cannot have its base ends
        at its first step.
    Pass: it answers; HTTP 401 is a registry's way to ask for a token, which the engine gets by itself.
    Warn: it does not answer, refuses, or says that it is ill; packages that were fetched before need no mirror.
    Fail: never.
    Skip: no containers are used, nothing has to come from it, or it could not be asked.
    Fix: mend the network, or name the proxy (--proxy URL) or another mirror (--apt-mirror URL).
    """
    if not uses_containers(host, profile):
        return skipped("no containers are used")
    base = _base_for(host, profile)
    if base is None:
        return skipped("nothing has to come from it")
    wanted = "a place for the OS base that answers"
    if isinstance(base, Unknown):
        if base.reason in _NOT_ASKED or isinstance(host.runtime, Unknown):
            return unknown(wanted, base.reason)  # whether it is needed, an engine has to say first
        return warned(wanted, f"it does not answer: {base.reason}", _OTHER_WAY)
    found = f"{base.url} answers HTTP {base.status}"
    good = base.status < 400 or (base.status == 401 and base.url.endswith(_REGISTRY))
    return passed(wanted, found) if good else warned(wanted, found, _OTHER_WAY)


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
            elif name == _PLACE:
                hint += (
                    "; if it is a registry, the engine needs them in the system's trust store, and a restart"
                )
            return warned(wanted, f"{name}: {answer.reason}", hint)
    if good := [n for n, a in answers.items() if isinstance(a, Answer) and a.url.startswith("https")]:
        return passed(wanted, ", ".join(good))
    return skipped("nothing was asked over TLS, or nothing answered", wanted)


def _answers(host: Host, profile: Profile) -> dict[str, Fact[Answer]]:
    """What was asked for this profile, by name."""
    found = dict(host.sources) if profile.model.served else {}
    base = _base_for(host, profile) if uses_containers(host, profile) else None
    if base is not None:
        found[_PLACE] = base
    return found


def _base_for(host: Host, profile: Profile) -> Fact[Answer | None]:
    """The place that this profile's image needs its OS base from; None where the image is here already."""
    return None if present(host, profile) is True else host.base


def _slow(host: Host, profile: Profile) -> Finding:
    """The places that things come from answer within a second.

    Why: a slow name server, proxy or line shows in the first answer, and again in gigabytes.
    Pass: they do.
    Warn: one takes longer.
    Fail: never.
    Skip: nothing was asked, nothing answered, or nobody measured how long it took.
    Fix: look at name server and proxy; a mirror that is nearer goes into HF_ENDPOINT, --apt-mirror or --index-url.
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
    Check("network.base", _base, pains=(30,), advice=True),
    Check("network.certificate", _certificate, pains=(30,), advice=True),
    Check("network.slow", _slow, advice=True),
)
