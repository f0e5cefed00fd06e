"""Checks of what is asked and what is answered: patterns, a moderation endpoint, or a model that judges.

Answers that stream are held back by a window of characters, so that what is judged has not been read yet; a match that
is longer than the window is not found. What is blocked ends with the finish reason `content_filter`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from .config import Safety
from .errors import UNAVAILABLE, Refusal
from .metrics import Request

PATHS = ("/v1/chat/completions", "/v1/completions")  # whose answers can be read here
_JUDGE_S = 20.0
_END = "content_filter"


class Judge:
    """Says whether a text may pass."""

    def __init__(self, rules: Safety, client: aiohttp.ClientSession) -> None:
        self.rules = rules
        self._client = client
        self._patterns = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in rules.patterns]

    async def verdict(self, text: str) -> str | None:
        """What `text` may not pass for; None when it may. Raises Refusal where the judge does not answer."""
        for name, pattern in self._patterns:
            if pattern.search(text):
                return name
        if self.rules.url is None or not text.strip():
            return None
        try:
            return await self._asked(self.rules.url, text)
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError, LookupError, TypeError, OSError) as error:
            if self.rules.otherwise == "pass":
                return None
            raise Refusal(
                503, f"the safety check does not answer: {type(error).__name__}", UNAVAILABLE,
                code="safety_unavailable", after=5,
            ) from error  # fmt: skip

    async def _asked(self, url: str, text: str) -> str | None:
        rules = self.rules
        body: dict[str, Any] = {} if rules.model is None else {"model": rules.model}
        if rules.kind == "moderation":
            body |= {"input": text}
        else:  # Llama Guard and its like answer `safe`, or `unsafe` and a line of categories
            body |= {"messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0}
        headers = {"Authorization": f"Bearer {rules.key}"} if rules.key else {}
        timeout = aiohttp.ClientTimeout(total=_JUDGE_S)
        async with self._client.post(url, json=body, headers=headers, timeout=timeout) as answer:
            answer.raise_for_status()
            told = await answer.json(content_type=None)
        if rules.kind == "moderation":
            found = told["results"][0]
            names = [name for name, hit in (found.get("categories") or {}).items() if hit]
            return ", ".join(names) or "flagged" if found["flagged"] else None
        first, _, rest = str(told["choices"][0]["message"]["content"]).strip().partition("\n")
        return (rest.strip() or "unsafe") if first.strip().lower().startswith("unsafe") else None


async def asked(judge: Judge, value: dict[str, Any], request: Request) -> None:
    """Raises Refusal when the request may not pass, or cannot be read."""
    if not all(_plain(value.get(name)) for name in ("prompt", "input")):
        raise Refusal(400, "what is not text cannot be checked here: send text", code=_END)
    if (why := await judge.verdict(_of_request(value))) is not None:
        request.cause = _END
        raise Refusal(400, f"the request was blocked by this deployment's safety check: {why}", code=_END)


async def whole(judge: Judge, body: bytes, request: Request) -> bytes:
    """The answer `body`, without what may not pass."""
    value = json_object(body)
    changed = False
    for choice in value.get("choices") or ():
        if await judge.verdict(_of_choice(choice)):
            changed = True
            choice["finish_reason"] = _END
            if isinstance(choice.get("message"), dict):
                choice["message"] = {"role": "assistant", "content": ""}
            if "text" in choice:
                choice["text"] = ""
            choice.pop("logprobs", None)
    if changed:
        request.cause = _END
    return json.dumps(value).encode() if changed else body


async def streamed(judge: Judge, pieces: AsyncIterator[bytes], request: Request) -> AsyncIterator[bytes]:
    """The events of a stream, each once its text has been judged together with what came after it.

    Ends early, with an event that says so, when a text may not pass.
    """
    window = judge.rules.window
    step = window if judge.rules.url else 0  # patterns cost nothing, so they look at each event
    texts: dict[int, str] = {}
    judged: dict[int, int] = {}
    held: list[tuple[bytes, int, int]] = []  # event, choice, where its text ends
    async for event in _events(pieces):
        value = json_object(event.removeprefix(b"data:"))
        last = event.startswith(b"data:") and event[5:].strip() == b"[DONE]"
        choice: Any = next(iter(value.get("choices") or ()), {})
        number = choice.get("index", 0) if isinstance(choice, dict) else 0
        texts[number] = texts.get(number, "") + _of_choice(choice)
        held.append((event, number, len(texts[number])))
        for which, text in texts.items():
            if len(text) - judged.get(which, 0) >= (1 if last else max(1, step)):
                if await judge.verdict(text[max(0, judged.get(which, 0) - window) :]):
                    request.cause = _END
                    yield _blocked(value, which)
                    return
                judged[which] = len(text)
        while held and (last or held[0][2] <= judged.get(held[0][1], 0) - window):
            yield held.pop(0)[0]
    if not held:
        return
    for which, text in texts.items():  # a stream without [DONE]
        if await judge.verdict(text[max(0, judged.get(which, 0) - window) :]):
            request.cause = _END
            yield _blocked({}, which)
            return
    for event, _, _ in held:
        yield event


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events of a stream, each with the empty line that ends it."""
    rest = b""
    async for piece in pieces:
        *found, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in found:
            yield event + b"\n\n"
    if rest:
        yield rest


def _blocked(like: dict[str, Any], number: int) -> bytes:
    names: tuple[str, ...] = ("id", "object", "created", "model")
    kept = {name: like[name] for name in names if name in like}
    part: dict[str, Any] = {"text": ""} if like.get("object") == "text_completion" else {"delta": {}}
    choice: dict[str, Any] = {"index": number, **part, "finish_reason": _END}
    value: dict[str, Any] = {**kept, "choices": [choice]}
    return f"data: {json.dumps(value)}\n\ndata: [DONE]\n\n".encode()


def _of_request(value: dict[str, Any]) -> str:
    """Everything in a request that people wrote: the messages' texts, the prompt, or what is to be embedded."""
    found = [_text(one.get("content")) for one in value.get("messages") or () if isinstance(one, dict)]
    return "\n".join([*found, _text(value.get("prompt")), _text(value.get("input"))])


def _plain(content: Any) -> bool:
    """Whether it is text or a list of texts, and not tokens by their numbers or what an engine alone understands."""
    parts = content if isinstance(content, list) else [content]
    return all(isinstance(one, (str, type(None))) for one in parts)


def _of_choice(choice: Any) -> str:
    if not isinstance(choice, dict):
        return ""
    said = choice.get("delta") or choice.get("message") or choice
    if not isinstance(said, dict):
        return ""
    calls = [call.get("function", {}).get("arguments") for call in said.get("tool_calls") or ()]
    names = ("reasoning_content", "reasoning", "content", "text")
    return "".join(_text(one) for one in (*(said.get(name) for name in names), *calls))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "\n".join(one if isinstance(one, str) else str(one.get("text") or "") for one in parts
                     if isinstance(one, (str, dict)))  # fmt: skip


def json_object(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`; an empty one where there is something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
