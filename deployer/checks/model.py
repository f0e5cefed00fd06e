"""Whether the model can be had."""

from __future__ import annotations

from deployer.checks.base import Check
from deployer.host import Host, Unknown
from deployer.profile import Profile
from deployer.report import Finding, failed, passed, skipped


def _source(host: Host, profile: Profile) -> Finding:
    if not profile.model.source.startswith("hf://"):
        return skipped("the source needs no hub")
    wanted = f"a hub that serves {profile.model.source}"
    if not host.sources:
        return skipped("not asked: the model is in the store, or the host was saved without it", wanted)
    url, answer = next(iter(host.sources.items()))
    if isinstance(answer, Unknown):
        return failed(
            wanted,
            f"{url} does not answer ({answer.reason})",
            "check network and proxy, or name a mirror: HF_ENDPOINT=https://…",
        )
    if answer.status >= 500:
        return failed(
            wanted, f"{url} answers HTTP {answer.status}", "try again later, or name a mirror in HF_ENDPOINT"
        )
    return passed(wanted, f"{url} answers")


CHECKS = (Check("model.source", _source),)
