"""The proof that a deployment answers: a streamed completion, or embeddings, measured, and judged."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer.errors import AcceptanceFailed
from deployer.frozen import dataclass
from deployer.plan.steps import REPLICA, Accept, Against
from deployer.quantity import format_duration
from deployer.runtimes.base import alias

if TYPE_CHECKING:
    import ssl

    import httpx

TOKENS = 24
RETRIES_S = (0.0, 2.0)  # pauses before a miss in speed is measured again
_CHAT = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
_PROMPT = "The capital of France is"
_SAME = ("The doctor told the boy to stay in bed.", "A physician ordered the child to rest at home.")
_OTHER = "Interest rates rose by half a percent."
_ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": _CHAT}),
    "completion": ("/v1/completions", {"prompt": _PROMPT}),
    "embedding": ("/v1/embeddings", {"input": [*_SAME, _OTHER]}),
}


@dataclass(frozen=True)
class Measured:
    """One answer. `first_token` in seconds from sending; `rate` in tokens per second after the first.

    Of embeddings `first_token` is the whole answer's time, `rate` the tokens that were read in it, per second, and
    `text` what the vectors are.
    """

    text: str
    tokens: int
    first_token: float
    rate: float


def accept(
    step: Accept, floor: float | None, *, size: int = 0, say: Callable[[str], None] = lambda _: None
) -> Measured:
    """Raises AcceptanceFailed when the answer is empty, broken, open to everybody, or far too slow.

    `floor` is the least rate that this host should give, `size` that of the weights in bytes. What is worth knowing of
    embeddings goes to `say`. A miss in speed is measured again before it counts: the machine may have been busy for a
    moment.
    """
    import httpx

    key = step.key_file.read_text().strip() if step.key_file else None
    names: list[str | None] = [alias(unit) for unit in step.engines] or [None]
    try:
        # llama-server ends its connections without notice: every request takes a new one
        alone = httpx.Limits(max_keepalive_connections=0)
        timeout = httpx.Timeout(300.0, connect=5.0)
        trusted = trust(step.certificate)
        with httpx.Client(
            base_url=step.url, timeout=timeout, limits=alone, trust_env=False, verify=trusted
        ) as client:
            if key:
                _refuses_strangers(client, step)
            found = [_accept(client, step, floor, size, key, name) for name in names]
            if step.kind == "embedding":
                say(found[0].text)
            return min(found, key=lambda one: one.rate)
    except httpx.HTTPError as error:
        raise AcceptanceFailed(f"the engine broke off the answer: {type(error).__name__} {error}") from error


def _accept(
    client: httpx.Client, step: Accept, floor: float | None, size: int, key: str | None, name: str | None
) -> Measured:
    """The acceptance of one engine."""
    measured = ask(client, step.model, step.kind, key, name)
    if step.kind != "embedding":
        _judge_text(measured.text)
    pauses, best, before = iter(RETRIES_S), 0.0, math.inf
    while True:
        best = max(best, measured.rate)
        problem = _too_slow(measured, step, floor)
        if step.against and not problem:
            before = min(before, _rate_before(client, step.against, key))
            problem = _slower(best, before, step.against, size)
        if not problem:
            return measured
        if (pause := next(pauses, None)) is None:
            raise AcceptanceFailed(problem, hint="is the machine busy, or did the engine fall back from GPU to CPU?")
        time.sleep(pause)
        measured = ask(client, step.model, step.kind, key, name)


def _rate_before(client: httpx.Client, against: Against, key: str | None) -> float:
    """The rate of the generation before, which is asked the same now if it still runs."""
    if against.replica is None:
        return against.rate
    return ask(client, against.model, against.kind, key, against.replica).rate


def _slower(best: float, rate: float, against: Against, size: int) -> str | None:
    """Why the `best` of its rates is too little beside the least `rate` of the generation before.

    Both share the machine with requests of others. Larger weights may take longer: a rate is inverse to the bytes that
    are read for each token.
    """
    scale = min(1.0, against.size / size) if size else 1.0
    least = against.share * scale * rate
    if best >= least:
        return None
    scaled = f" × {scale:.2f} for larger weights" if scale < 1 else ""
    return (
        f"{best:.1f} tokens/s, where generation {against.generation} gives {rate:.1f}: less than "
        f"{against.share:.0%}{scaled} of that (`deployer upgrade --share` allows less)"
    )


def healthy(url: str, certificate: str | None = None) -> bool:
    """Whether the deployment at `url` says that it is ready, with its own certificate where it has one."""
    import http.client
    from urllib.parse import urlparse

    parsed = urlparse(url)
    host_, port = parsed.hostname or "", parsed.port
    connection = (
        http.client.HTTPSConnection(host_, port, timeout=5, context=trust(Path(certificate)))
        if certificate
        else http.client.HTTPConnection(host_, port, timeout=5)
    )
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def trust(certificate: Path | None) -> ssl.SSLContext:
    """Believes this very certificate, whatever name it is for; without one, nothing is believed that is not needed."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if certificate is not None:
        context.check_hostname = False  # it is for the name that people use, we ask by address
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(certificate)
    return context


def ask(client: httpx.Client, model: str, kind: str, key: str | None, replica: str | None = None) -> Measured:
    """One short streamed completion at temperature 0, or the embeddings of three sentences; of `replica` if named."""
    path, prompt = _ASKED[kind]
    headers = _bearer(key) | ({REPLICA: replica} if replica else {})
    if kind == "embedding":
        return _embed(client, path, {"model": model, **prompt}, headers)
    body = {
        "model": model,
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **prompt,
    }
    text, chunks, tokens = "", 0, 0
    start = time.perf_counter()
    first = last = None
    with client.stream("POST", path, json=body, headers=headers) as answer:
        if answer.status_code != 200:
            answer.read()
            raise AcceptanceFailed(
                f"the engine answers HTTP {answer.status_code} to {path}", evidence=[answer.text[:300]]
            )
        for event in events(answer):
            usage = event.get("usage")
            if isinstance(usage, dict):
                tokens = usage.get("completion_tokens") or tokens
            piece = piece_of(event)
            if piece:
                last = time.perf_counter()
                first = first or last
                text, chunks = text + piece, chunks + 1
    count = max(tokens, chunks)
    if first is None or last is None:
        return Measured(text, count, time.perf_counter() - start, 0.0)
    span = last - first
    return Measured(text, count, first - start, (count - 1) / span if span > 0 and count > 1 else 0.0)


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON values of a stream of server-sent events; raises AcceptanceFailed on an error event."""
    for line in answer.iter_lines():
        if not line.startswith("data:") or line[5:].strip() == "[DONE]":
            continue
        try:
            event = json.loads(line[5:])
        except ValueError as error:
            raise AcceptanceFailed(
                "the engine streams something that is not JSON", evidence=[line[:200]]
            ) from error
        if isinstance(event, dict) and event.get("error"):
            raise AcceptanceFailed(
                "the engine reports an error in its stream", evidence=[str(event["error"])[:300]]
            )
        if isinstance(event, dict):
            yield event


def piece_of(event: dict[str, Any]) -> str:
    """The text that one event adds, thinking included."""
    for choice in event.get("choices") or ():
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta") or {}
        found = delta.get("content") or delta.get("reasoning_content") or choice.get("text")
        if found:
            return str(found)
    return ""


def _refuses_strangers(client: httpx.Client, step: Accept) -> None:
    path, prompt = _ASKED[step.kind]
    answer = client.post(path, json={"model": step.model, "max_tokens": 1, **prompt})
    if answer.status_code != 401:
        raise AcceptanceFailed(
            f"a request without the key is answered with HTTP {answer.status_code}, not 401",
            hint="this must not be used; please report it",
        )


def _embed(client: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str]) -> Measured:
    start = time.perf_counter()
    answer = client.post(path, json=body, headers=headers)
    took = time.perf_counter() - start
    if answer.status_code != 200:
        raise AcceptanceFailed(
            f"the engine answers HTTP {answer.status_code} to {path}", evidence=[answer.text[:300]]
        )
    try:
        told = answer.json()
        vectors = [one["embedding"] for one in sorted(told["data"], key=lambda one: one["index"])]
    except (ValueError, LookupError, TypeError) as error:
        raise AcceptanceFailed("the engine answers something else", evidence=[answer.text[:300]]) from error
    if len(vectors) != len(body["input"]):
        raise AcceptanceFailed(f"{len(vectors)} vectors for {len(body['input'])} texts")
    if problem := _broken(vectors):
        raise AcceptanceFailed(problem, hint="damaged weights or a wrong conversion", evidence=[str(vectors)[:120]])
    usage = told.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    count = tokens if isinstance(tokens, int) else 0
    return Measured(_likeness(vectors), count, took, count / took)


def _broken(vectors: Sequence[Any]) -> str | None:
    """What is wrong with vectors of different texts; that they are not far from each other is not wrong."""
    if not all(isinstance(vector, list) and len(vector) > 1 for vector in vectors):
        return "the answer holds no vectors"
    if len({len(vector) for vector in vectors}) > 1:
        return "the vectors are not of one length"
    numbers = [number for vector in vectors for number in vector]
    if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
        return "the vectors hold something that is not a number"
    if any(len(set(vector)) == 1 for vector in vectors):
        return "a vector is one number all over"
    if len({tuple(vector) for vector in vectors}) < len(vectors):
        return "different texts have the same vector"
    return None


def _likeness(vectors: Sequence[Sequence[float]]) -> str:
    """What the vectors are, in words, and whether the model takes a paraphrase for one.

    Nothing is refused for that: a model for another language, or for code, serves well and may not see it.
    """
    one, same, other = vectors
    near, far = _cosine(one, same), max(_cosine(one, other), _cosine(same, other))
    told = f"vectors of {len(one)} numbers; cosine {near:.2f} between paraphrases, {far:.2f} to another sentence"
    return told if near > far else f"{told}: unless it does not know English, its weights or its pooling are wrong"


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def _bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _judge_text(text: str) -> None:
    stripped = text.strip()
    if not stripped:
        raise AcceptanceFailed("the answer is empty", hint="wrong chat template or damaged weights")
    broken = sum(c == "\ufffd" or (ord(c) < 32 and c not in "\n\t\r") for c in stripped)
    if broken * 5 > len(stripped) or (len(stripped) > 20 and len(set(stripped)) < 4):
        raise AcceptanceFailed(
            "the answer is broken", hint="damaged weights or a wrong conversion", evidence=[stripped[:120]]
        )


def _too_slow(measured: Measured, step: Accept, floor: float | None) -> str | None:
    vectors = step.kind == "embedding"
    if measured.first_token > step.first_token:
        return (
            f"the {'answer' if vectors else 'first token'} took {format_duration(measured.first_token)}, "
            f"the profile allows {format_duration(step.first_token)}"
        )
    if not vectors and measured.rate and 1 / measured.rate > step.per_token:
        return (
            f"each token takes {format_duration(1 / measured.rate)}, "
            f"the profile allows {format_duration(step.per_token)}"
        )
    if floor and measured.rate and measured.rate < floor:
        return f"{measured.rate:.1f} tokens/s; this host should give at least {floor:.1f}"
    return None
