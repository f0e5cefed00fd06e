"""Whether the model can be had, is the one that was meant, and fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer import models
from deployer.engines import engine
from deployer.host import Answer, Gpu, Host, Mig, Slice, Unknown, from_json, to_json
from deployer.profile import ModelChoice, ModelFile, Profile
from deployer.sizing import catalogue
from tests import hosts
from tests.checks.rows import CHAT, CPU, GPU, LOST, NO_GPU, PROFILES, RTX, TWO, check

URL = "https://hub.example"
GB, MIB = hosts.GB, hosts.MIB


def hub(answer: int | Unknown) -> Host:
    return replace(RTX, sources={URL: Answer(URL, answer, 0.1) if isinstance(answer, int) else answer})


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (hub(200), GPU, "pass", "https://hub.example answers", None),
        (hub(403), GPU, "pass", "answers", None),
        (hub(503), GPU, "fail", "answers HTTP 503", "try again later, or name a mirror in HF_ENDPOINT"),
        (
            hub(Unknown("no route")), GPU, "fail", "https://hub.example does not answer (no route)",
            "check network and proxy, or name a mirror: HF_ENDPOINT=https://…",
        ),
        (RTX, GPU, "skip", "not asked", None),
        (hub(503), CPU, "skip", "needs no hub", None),
    ],
)  # fmt: skip
def test_source(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("model.source", host, wanted, outcome, found, hint)


def of(source: str, revision: str | None = None) -> Profile:
    """A profile whose model comes from elsewhere."""
    return replace(GPU, model=replace(GPU.model, source=source, revision=revision))


SCOPE, ARTIFACT = of("modelscope://a/b"), of("oci://r.example/a", "v1")
LINK = of(f"https://r.example/a.gguf#sha256={'0' * 64}")


@pytest.mark.parametrize(
    ("check_", "host", "wanted", "outcome", "found", "hint"),
    [
        ("source", hub(200), SCOPE, "pass", "answers", None),
        ("source", hub(503), SCOPE, "fail", "answers HTTP 503",
         "try again later, or name another site in MODELSCOPE_ENDPOINT"),
        ("source", hub(401), ARTIFACT, "pass", "answers", None),
        ("source", hub(Unknown("no route")), ARTIFACT, "fail", "does not answer (no route)",
         "check network and proxy, or name another registry in model.source"),
        ("source", hub(Unknown("no route")), LINK, "fail", "does not answer (no route)",
         "check network and proxy, or name another address in model.source"),
        ("access", hub(403), SCOPE, "warn", "answers HTTP 403",
         "export MODELSCOPE_API_TOKEN=ms-…, and apply for access if that is asked for: https://hub.example/models/a/b"),
        ("access", hub(401), ARTIFACT, "pass", "who may have this model shows at the pull", None),
        ("access", hub(403), ARTIFACT, "warn", "answers HTTP 403", "docker login r.example"),
        ("access", hub(401), LINK, "warn", "answers HTTP 401",
         "fetch it yourself, and name it as file:///path in model.source"),
        ("access", hub(429), LINK, "warn", "answers HTTP 429", "too many questions from here: wait an hour"),
        ("revision", RTX, SCOPE, "warn", "none: whatever is newest",
         f"put one into {GPU.path}: deployer fit modelscope://a/b --profile - prints the newest"),
        ("revision", RTX, of("modelscope://a/b", "v1"), "warn", "v1",
         f"put one into {GPU.path}: deployer fit modelscope://a/b@v1 --profile - prints it"),
        ("revision", RTX, of("modelscope://a/b", "a" * 40), "pass", "a" * 40, None),
        ("revision", RTX, ARTIFACT, "warn", "v1",
         f"put one into {GPU.path}: deployer fit oci://r.example/a:v1 --profile - prints it"),
        ("revision", RTX, of("oci://r.example/a", f"sha256:{'a' * 64}"), "pass", "sha256:", None),
        ("revision", RTX, LINK, "skip", "no revisions", None),
    ],
)  # fmt: skip
def test_places_that_are_not_the_hub(
    check_: str, host: Host, wanted: Profile, outcome: str, found: str, hint: str | None
) -> None:
    check(f"model.{check_}", host, wanted, outcome, found, hint)


TOKEN = "export HF_TOKEN=hf_…, and accept the licence if there is one: https://hub.example/Qwen/Qwen3-1.7B"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (hub(200), GPU, "pass", "answers HTTP 200; whether this model is gated shows at the pull", None),
        (hub(401), GPU, "warn", "answers HTTP 401", TOKEN),
        (hub(403), GPU, "warn", "answers HTTP 403", TOKEN),
        (
            hub(407), GPU, "warn", "answers HTTP 407",
            "the proxy wants a password: export HTTPS_PROXY=http://USER:PASSWORD@…",
        ),
        (
            hub(429), GPU, "warn", "answers HTTP 429",
            "too many questions from here: export HF_TOKEN=hf_…, or wait an hour",
        ),
        (hub(LOST), GPU, "skip", "another finding", None),
        (RTX, GPU, "skip", "not asked", None),
        (hub(401), CPU, "skip", "needs no hub", None),
    ],
)  # fmt: skip
def test_access(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("model.access", host, wanted, outcome, found, hint)


def revision(text: str | None, *files: ModelFile) -> Profile:
    return replace(GPU, model=replace(GPU.model, revision=text, files=files))


PIN = f"put one into {GPU.path}: https://huggingface.co/Qwen/Qwen3-1.7B/commits/main lists them"


@pytest.mark.parametrize(
    ("wanted", "outcome", "found", "hint"),
    [
        (GPU, "pass", "70d244cc86ccca08cf5af4e1e306ecf908b1ad5e", None),
        (revision("main"), "warn", "main", PIN),
        (revision("70d244cc"), "warn", "70d244cc", PIN),
        (revision("7" * 41), "warn", "7" * 41, PIN),
        (revision(None), "warn", "none: whatever is newest", PIN),
        (revision("main", ModelFile("a", "0" * 64)), "pass", "every file is pinned", None),
        (revision("main", ModelFile("a", "0" * 64), ModelFile("b")), "warn", "main", PIN),
        (CPU, "skip", "no revisions", None),
        (CHAT, "pass", "91cad51170dc346986eccefdc2dd33a9da36ead9", None),
    ],
)
def test_revision(wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("model.revision", NO_GPU, wanted, outcome, found, hint)


SMALLER = "choose a smaller profile: deployer profiles list"


def card(vram: int, free: int | Unknown | None = None, index: int = 0, *, capability: str = "8.9") -> Gpu:
    made = hosts.gpu(index, name="some card", vram=vram, capability=capability)
    return made if free is None else replace(made, free_vram=free)


def cards(*gpus: Gpu) -> Host:
    return replace(RTX, gpus=gpus)


def sliced(*sizes: int | Unknown) -> Gpu:
    parts = tuple(Slice(f"MIG-{n}", "some slice", size, size) for n, size in enumerate(sizes))
    return replace(card(81559, capability="9.0"), mig=Mig(True, True, parts))


NEED = 5_595_699_712  # bytes, of the profile GPU
FREE = "end what holds their memory: gpu.free_vram"
H100, UNKNOWN = PROFILES["h100-80gb"], replace(GPU, model=ModelChoice("hf://somebody/something"))
SIZED = replace(GPU, model=replace(UNKNOWN.model, download=4_100_000_000))  # and nothing else is known of it


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        # 4.1 GB of weights and 1.05 GB for the program
        (RTX, SIZED, "pass", "8.59 GB, 8.27 GB of it free", None),
        (cards(card(6144, 5_148_576_000)), SIZED, "pass", "5.15 GB of it free", None),
        (cards(card(6144, 5_148_575_999)), SIZED, "warn", "6.44 GB, 5.15 GB of it free", FREE),
        (cards(card(4096)), SIZED, "fail", "4.29 GB", SMALLER),
        # Qwen3-1.7B with 8192 tokens, by its shapes
        (RTX, GPU, "pass", "8.59 GB, 8.27 GB of it free", None),
        (cards(card(6144, NEED)), GPU, "pass", "5.6 GB of it free", None),
        (cards(card(6144, NEED - 1)), GPU, "warn", "6.44 GB, 5.6 GB of it free", FREE),
        (cards(card(5120)), GPU, "fail", "5.37 GB", SMALLER),
        # the largest ones, as many as are asked for
        (cards(card(4096), card(8192, index=1)), GPU, "pass", "8.59 GB", None),
        (cards(card(24564), card(24564, index=1)), TWO, "pass", "25.8 GB on each", None),
        (cards(card(8192), card(24564, index=1), card(24564, index=2)), TWO, "pass", "25.8 GB on each", None),
        (cards(card(8192), card(8192, index=1), card(24564, index=2)), TWO, "fail", "8.59 GB on each", SMALLER),
        # of a card in slices, one slice
        (cards(sliced(40 * GB, 20 * GB)), GPU, "pass", "40 GB", None),
        (cards(sliced(40 * GB, 40 * GB)), H100, "fail", "40 GB", f"make larger slices, or {SMALLER}"),
        (cards(sliced(40 * GB, 40 * GB)), TWO, "skip", "too few", None),
        (cards(sliced(LOST, 4 * GB)), GPU, "unknown", "lost", None),
        (cards(replace(hosts.RTX_4060, vram=LOST, free_vram=LOST)), GPU, "unknown", "lost", None),
        (cards(card(8192, LOST)), GPU, "unknown", "lost", None),
        (cards(card(8192, LOST), replace(hosts.RTX_4060, index=1)), GPU, "pass", "8.59 GB", None),
        (replace(RTX, gpus=LOST), GPU, "unknown", "lost", None),
        (NO_GPU, GPU, "skip", "there is no GPU", None),
        (RTX, UNKNOWN, "skip", "does not say how large", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)
def test_memory(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("model.memory", host, wanted, outcome, found, hint)


def test_headers_count_where_they_were_read() -> None:
    """Those of a model that is twice as large as the catalogue's, under the same name in the store."""
    entry = catalogue.find("Qwen3-4B")
    assert entry
    id_ = models.model_id(GPU.model, engine(GPU.engine).files)
    known = replace(RTX, headers={id_: entry.compact("BF16")})
    check("model.memory", known, GPU, "fail", "8.59 GB", SMALLER)
    check("model.memory", replace(RTX, headers={id_: LOST}), GPU, "pass", "8.59 GB")
    again: Host = from_json(Host, to_json(known))
    assert again.headers == known.headers


def named(source: str, engine: str = "transformers") -> Profile:
    return replace(GPU, engine=engine, model=replace(GPU.model, source=source))


FP8, NVFP4 = named("hf://Qwen/Qwen3-1.7B-FP8"), named("hf://nvidia/Llama-3.1-8B-Instruct-NVFP4")
OTHER = "take the model's bfloat16 or AWQ version"
TURING, AMPERE, ADA = (card(8192, capability=c) for c in ("7.5", "8.0", "8.9"))
DARK = replace(ADA, compute_capability=LOST)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (cards(ADA), FP8, "pass", "FP8 on 8.9", None),
        (cards(AMPERE), FP8, "warn", "the name says FP8, which needs 8.9; this is 8.0", OTHER),
        (cards(ADA), NVFP4, "warn", "the name says NVFP4, which needs 10.0; this is 8.9", OTHER),
        (cards(AMPERE, ADA), FP8, "pass", "FP8 on 8.0, 8.9", None),
        (cards(AMPERE), GPU, "skip", "known after the pull", None),
        (
            cards(TURING), GPU, "pass", "no bfloat16 before 8.0 (7.5): the engine is started with float16", None,
        ),
        (cards(DARK), FP8, "unknown", "lost", None),
        (cards(AMPERE, DARK), FP8, "unknown", "lost", None),
        (cards(DARK), GPU, "unknown", "lost", None),
        (replace(RTX, gpus=LOST), GPU, "unknown", "lost", None),
        (NO_GPU, FP8, "skip", "there is no GPU", None),
        (cards(AMPERE), named("hf://someone/Model-FP8-GGUF", "llamacpp"), "skip", "GGUF", None),
        (cards(AMPERE), CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_format(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("model.format", host, wanted, outcome, found, hint)
