"""The proof that a deployment answers: a streamed completion, measured, and judged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer.errors import AcceptanceFailed
from deployer.frozen import dataclass
from deployer.plan.steps import REPLICA, Accept
from deployer.quantity import format_duration
from deployer.runtimes.base import alias

if TYPE_CHECKING:
    import ssl

    import httpx

TOKENS = 24
RETRIES_S = (0.0, 2.0)  # pauses before a miss in speed is measured again
_CHAT = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
_PROMPT = "The capital of France is"


@dataclass(frozen=True)
class Measured:
    """One answer. `first_token` in seconds from sending; `rate` in tokens per second after the first."""

    text: str
    tokens: int
    first_token: float
    rate: float


def accept(step: Accept, floor: float | None, *, size: int = 0) -> Measured:
    """Raises AcceptanceFailed when the answer is empty, broken, open to everybody, or far too slow.

    `floor` is the least rate that this host should give, `size` that of the weights in bytes. A miss in speed is
    measured again before it counts: the machine may have been busy for a moment.
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
            return min((_accept(client, step, floor, size, key, name) for name in names), key=lambda one: one.rate)
    except httpx.HTTPError as error:
        raise AcceptanceFailed(f"the engine broke off the answer: {type(error).__name__} {error}") from error


def _accept(
    client: httpx.Client, step: Accept, floor: float | None, size: int, key: str | None, name: str | None
) -> Measured:
    """The acceptance of one engine."""
    measured = ask(client, step.model, step.kind, key, name)
    _judge_text(measured.text)
    pauses = iter(RETRIES_S)
    while problem := _too_slow(measured, step, floor) or _slower(client, measured, step, size, key):
        if (pause := next(pauses, None)) is None:
            raise AcceptanceFailed(problem, hint="is the machine busy, or did the engine fall back from GPU to CPU?")
        time.sleep(pause)
        measured = ask(client, step.model, step.kind, key, name)
    return measured


def _slower(client: httpx.Client, measured: Measured, step: Accept, size: int, key: str | None) -> str | None:
    """Why it is too slow beside the generation before it, which is asked the same now, if it still runs.

    Larger weights may take longer: a rate is inverse to the bytes that are read for each token.
    """
    if (against := step.against) is None:
        return None
    rate = against.rate
    if against.replica:
        rate = ask(client, against.model, against.kind, key, against.replica).rate
    scale = min(1.0, against.size / size) if size else 1.0
    least = against.share * scale * rate
    if measured.rate >= least:
        return None
    scaled = f" × {scale:.2f} for larger weights" if scale < 1 else ""
    return (
        f"{measured.rate:.1f} tokens/s, where generation {against.generation} gives {rate:.1f}: less than "
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
    """One short streamed completion at temperature 0, of `replica` if one is named."""
    path, prompt = ("/v1/chat/completions", {"messages": _CHAT}) if kind == "chat" else (
        "/v1/completions", {"prompt": _PROMPT})  # fmt: skip
    body = {
        "model": model,
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **prompt,
    }
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= {REPLICA: replica} if replica else {}
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
    path = "/v1/chat/completions" if step.kind == "chat" else "/v1/completions"
    body = {"model": step.model, "messages": _CHAT, "prompt": _PROMPT, "max_tokens": 1}
    answer = client.post(path, json=body)
    if answer.status_code != 401:
        raise AcceptanceFailed(
            f"a request without the key is answered with HTTP {answer.status_code}, not 401",
            hint="this must not be used; please report it",
        )


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
    if measured.first_token > step.first_token:
        return (
            f"the first token took {format_duration(measured.first_token)}, "
            f"the profile allows {format_duration(step.first_token)}"
        )
    if measured.rate and 1 / measured.rate > step.per_token:
        return (
            f"each token takes {format_duration(1 / measured.rate)}, "
            f"the profile allows {format_duration(step.per_token)}"
        )
    if floor and measured.rate and measured.rate < floor:
        return f"{measured.rate:.1f} tokens/s; this host should give at least {floor:.1f}"
    return None
