"""Whether the model can be had, is the one that was meant, and fits the GPUs."""

from __future__ import annotations

import re

from deployer.checks.base import NOT_ASKED, Check, need_of, wants_gpu
from deployer.checks.gpu import capability, usable
from deployer.host import Answer, Host, Unknown
from deployer.profile import Profile
from deployer.quantity import at_least, format_size
from deployer.report import Finding, failed, passed, skipped, unknown, warned

_NO_HUB = "the source needs no hub"
# What serves a model, and what else may: by the kind of source.
_SERVERS = {
    "hf": ("hub", "a mirror: HF_ENDPOINT=https://…", "a mirror in HF_ENDPOINT"),
    "modelscope": ("hub", "another site: MODELSCOPE_ENDPOINT=https://…", "another site in MODELSCOPE_ENDPOINT"),
    "oci": ("registry", "another registry in model.source", "another registry in model.source"),
}
_SERVER = ("server", "another address in model.source", "another address in model.source")
_NOBODY_ASKED = "not asked: the model is in the store, or the host was saved without it"
_TOO_FEW = "there is no GPU, or too few of them: decided by another finding"
# What the names of models say of their weights, and the compute capability that computes with such.
_FORMATS = ((r"nvfp4", "NVFP4", "10.0"), (r"fp8", "FP8", "8.9"))


def _source(host: Host, profile: Profile) -> Finding:
    """The hub, the registry or the server that the model comes from answers.

    Why: better known now than after the image was built.
    Pass: it answers, whatever it answers to strangers.
    Warn: never.
    Fail: it does not answer, or says that it is ill.
    Skip: the model comes from elsewhere or is in the store already.
    Fix: mend network or proxy, or name a mirror in HF_ENDPOINT.
    """
    if not (kind := profile.model.served):
        return skipped(_NO_HUB)
    what, other, later = _SERVERS.get(kind, _SERVER)
    wanted = f"a {what} that serves {profile.model.source.partition('#')[0]}"
    if not host.sources:
        return skipped(_NOBODY_ASKED, wanted)
    url, answer = next(iter(host.sources.items()))
    if isinstance(answer, Unknown):
        return failed(
            wanted,
            f"{url} does not answer ({answer.reason})",
            f"check network and proxy, or name {other}",
        )
    if answer.status >= 500:
        return failed(
            wanted, f"{url} answers HTTP {answer.status}", f"try again later, or name {later}"
        )
    return passed(wanted, f"{url} answers")


def _access(host: Host, profile: Profile) -> Finding:
    """The hub lets this machine in.

    Why: a mirror may want a token, a proxy may forbid the hub, and the hub limits how often strangers may ask.
        Only the hub itself is asked: whether this model is gated shows at the beginning of the pull.
    Pass: it answers without turning anybody away. HTTP 401 is a registry's way to ask who is there.
    Warn: it answers HTTP 401, 403, 407 or 429.
    Fail: never.
    Skip: the model comes from elsewhere, is in the store already, or the hub does not answer.
    Fix: a token in HF_TOKEN or MODELSCOPE_API_TOKEN, for gated models after their licence was accepted; or a mirror.
    """
    if not (kind := profile.model.served):
        return skipped(_NO_HUB)
    wanted = f"a {_SERVERS.get(kind, _SERVER)[0]} that lets this machine in"
    if not host.sources:
        return skipped(_NOBODY_ASKED, wanted)
    url, answer = next(iter(host.sources.items()))
    if not isinstance(answer, Answer):
        return skipped("decided by another finding", wanted)
    found = f"{url} answers HTTP {answer.status}"
    if answer.status == 401 and kind == "oci":
        return passed(wanted, f"{found}; who may have this model shows at the pull")
    if answer.status in (401, 403):
        return warned(wanted, found, _way_in(url, profile.model.source))
    if answer.status == 407:
        return warned(wanted, found, "the proxy wants a password: export HTTPS_PROXY=http://USER:PASSWORD@…")
    if answer.status == 429:
        token = "export HF_TOKEN=hf_…, or wait" if kind == "hf" else "wait"
        return warned(wanted, found, f"too many questions from here: {token} an hour")
    return passed(wanted, f"{found}; whether this model is gated shows at the pull")


def _way_in(url: str, source: str) -> str:
    scheme, _, name = source.partition("://")
    page = f"{url.rstrip('/')}/{'models/' if scheme == 'modelscope' else ''}{name}"
    ways = {
        "hf": f"export HF_TOKEN=hf_…, and accept the licence if there is one: {page}",
        "modelscope": f"export MODELSCOPE_API_TOKEN=ms-…, and apply for access if that is asked for: {page}",
        "oci": f"docker login {name.partition('/')[0]}",
    }
    return ways.get(scheme, "fetch it yourself, and name it as file:///path in model.source")


def _revision(host: Host, profile: Profile) -> Finding:
    """The profile says exactly which model is meant.

    Why: a branch moves, and the model that was good yesterday is another one today.
    Pass: the revision is a commit of 40 digits or an artifact's digest, or every file is pinned by its SHA-256.
    Warn: it is a branch, a tag, or missing.
    Fail: never.
    Skip: the source has no revisions.
    Fix: put the commit into model.revision.
    """
    model = profile.model
    if (kind := profile.model.served) not in _SERVERS:
        return skipped("this source has no revisions")
    wanted = "a digest" if kind == "oci" else "a commit of 40 digits"
    if re.fullmatch(r"[0-9a-f]{40}|sha256:[0-9a-f]{64}", model.revision or ""):
        return passed(wanted, str(model.revision))
    if model.files and all(f.sha256 for f in model.files):
        return passed(wanted, "every file is pinned by its SHA-256")
    if kind == "hf":
        told = f"https://huggingface.co/{model.source.removeprefix('hf://')}/commits/main lists them"
    else:
        told = f"deployer fit {model.source} --profile - prints the newest"
        if model.revision:
            mark = ":" if kind == "oci" else "@"
            told = f"deployer fit {model.source}{mark}{model.revision} --profile - prints it"
    return warned(wanted, model.revision or "none: whatever is newest", f"put one into {profile.path}: {told}")


def _memory(host: Host, profile: Profile) -> Finding:
    """The model fits into the GPUs that the profile asks for, served as the profile says.

    Why: the engine ends while it loads, after gigabytes were fetched, or at the first long prompt. What it takes is
        computed from the model's headers or its shapes, as `deployer fit` does; where neither is known, weights and
        program alone count. Of a card that is cut into MIG slices, a program gets one slice and not the card.
    Pass: its share fits into what is free now on each of the largest GPUs, as many as the profile asks for.
    Warn: it fits into those GPUs, and not into what is free on them now.
    Fail: its share is larger than the memory of one of those GPUs.
    Skip: the profile wants no GPU or does not say how large the model is, there is no GPU, or it could not be
        asked.
    Fix: lower serving.context or serving.concurrency, choose a smaller profile, end what holds the memory, or make
        larger slices.
    """
    need = profile.requirements.gpu
    if need is None:
        return skipped(NOT_ASKED)
    sized = need_of(host, profile)
    if sized is None:
        return skipped("the profile does not say how large the model is")
    wanted = f"{sized}{' on each' if need.count > 1 else ''}"
    gpus = usable(host, profile)
    if isinstance(gpus, Unknown):
        return unknown(wanted, gpus.reason)
    if len(gpus) < need.count:
        return skipped(_TOO_FEW)
    sizes = sorted((g.vram for g in gpus if not isinstance(g.vram, Unknown)), reverse=True)
    frees = sorted((g.free_vram for g in gpus if not isinstance(g.free_vram, Unknown)), reverse=True)
    size, free = (one[need.count - 1] if len(one) >= need.count else 0 for one in (sizes, frees))
    found = f"{format_size(size)}{' on each' if need.count > 1 else ''}, {format_size(free)} of it free"
    if free >= sized.total:
        return passed(wanted, found)
    for fact in (fact for gpu in gpus for fact in (gpu.vram, gpu.free_vram)):
        if isinstance(fact, Unknown):
            return unknown(wanted, fact.reason)
    if size >= sized.total:
        return warned(wanted, found, "end what holds their memory: gpu.free_vram")
    smaller = "choose a smaller profile: deployer profiles list"
    sliced = not isinstance(host.gpus, Unknown) and gpus != host.gpus
    return failed(wanted, found, f"make larger slices, or {smaller}" if sliced else smaller)


def _format(host: Host, profile: Profile) -> Finding:
    """The GPUs can compute with the numbers that the model is made of, as far as its name tells.

    Why: FP8 weights on a card from before 2022 end in a loop of crashes or in four times the memory. What the
        name does not tell is known after the pull, from the model's own header.
    Pass: the name says FP8 or NVFP4 and enough cards can compute with that; or the cards have no bfloat16, and
        the engine is started with float16 instead.
    Warn: the name says FP8 or NVFP4 and the cards are older than that.
    Fail: never.
    Skip: the profile wants no GPU, the weights are GGUF (any card), the name tells nothing, or it could not be
        asked.
    Fix: take the model's bfloat16 or AWQ version, or a newer card.
    """
    need = profile.requirements.gpu
    if not wants_gpu(profile) or need is None:
        return skipped(NOT_ASKED)
    if profile.engine == "llamacpp":
        return skipped("GGUF weights need no card of a certain age")
    name = profile.model.source.rsplit("/", 1)[-1].lower()
    said = next(((kind, least) for word, kind, least in _FORMATS if re.search(word, name)), None)
    wanted = "numbers that the GPU can compute with"
    gpus = usable(host, profile)
    if isinstance(gpus, Unknown):
        return unknown(wanted, gpus.reason)
    if len(gpus) < need.count:
        return skipped(_TOO_FEW)
    told = [capability(gpu) for gpu in gpus]
    known = [found for found in told if not isinstance(found, Unknown)]
    found = ", ".join(known)
    kind, least = said or ("bfloat16", "8.0")
    if sum(at_least(one, least) for one in known) >= need.count:
        if said:
            return passed(wanted, f"{kind} on {found}")
        return skipped("nothing in the model's name; known after the pull, from its header", wanted)
    if unsure := [one for one in told if isinstance(one, Unknown)]:
        return unknown(wanted, unsure[0].reason)
    if not said:
        return passed(wanted, f"no bfloat16 before {least} ({found}): the engine is started with float16")
    hint = "take the model's bfloat16 or AWQ version"
    return warned(wanted, f"the name says {kind}, which needs {least}; this is {found}", hint)


CHECKS = (
    Check("model.source", _source, pains=(30,)),
    Check("model.access", _access, pains=(31,)),
    Check("model.revision", _revision, pains=(20,), advice=True),
    Check("model.memory", _memory, pains=(10, 22)),
    Check("model.format", _format, pains=(19,), advice=True),
)
