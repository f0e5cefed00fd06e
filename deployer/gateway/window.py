"""The context window: what is longer is refused, or loses its oldest turns where the profile wants that."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from .config import Model
from .errors import Refusal

# engine: (path that counts a chat's tokens, where in its answer), as in llama.cpp 0c1e570's server.cpp and vLLM 0.32
COUNTING = {"llamacpp": ("/v1/chat/completions/input_tokens", "input_tokens"), "vllm": ("/tokenize", "count")}
DROP = "drop-oldest"
TOO_LONG = "context_length_exceeded"
_ANSWER = 8  # without max_tokens, an eighth of the context is kept for the answer
_EACH = 64  # tokens that a template may add to each message, more than any known one

# llama.cpp 0c1e570 (server-context.cpp) answers 500 to a text that is longer than the batch which has to hold it
_LARGE = re.compile(r"input \((\d+) tokens\) is too large to process.*batch size: (\d+)")

Count = Callable[[list[Any]], Awaitable["int | None"]]


async def fitted(model: Model, value: dict[str, Any], count: Count) -> tuple[dict[str, Any], int]:
    """The chat `value` so that prompt and answer fit, and how many messages were left out.

    `count` gives the tokens of messages, or None where the engine cannot tell; the engine then judges itself. Raises
    Refusal where the prompt is too long and nothing may be left out, or the last turn alone is.
    """
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages or (model.context is None and model.prompt is None):
        return value, 0
    most = _most(model, value)
    if _surely_short(value, most):
        return value, 0
    whole = await count(messages)
    if whole is None or whole <= most:
        return value, 0
    if model.overflow != DROP:
        raise Refusal(
            400, f"the prompt has {whole} tokens; there is room for {most} beside the answer",
            code=TOO_LONG, param="messages",
        )  # fmt: skip
    return await _without_oldest(value, messages, most, count)


async def _without_oldest(
    value: dict[str, Any], messages: list[Any], most: int, count: Count
) -> tuple[dict[str, Any], int]:
    """What the fewest left out turns make fit. A turn begins where the user speaks; the system's words stay."""
    first = next((i for i, one in enumerate(messages) if _role(one) not in ("system", "developer")), len(messages))
    starts = [i for i in range(first, len(messages)) if _role(messages[i]) == "user"] or [first]
    few, many, fits = 1, len(starts) - 1, None
    while few <= many:
        middle = (few + many) // 2
        kept = [*messages[:first], *messages[starts[middle] :]]
        tokens = await count(kept)
        if tokens is not None and tokens <= most:
            fits, many = kept, middle - 1
        else:
            few = middle + 1
    if fits is None:
        raise Refusal(
            400, f"the last turn alone has more than the {most} tokens that there is room for beside the answer",
            code=TOO_LONG, param="messages",
        )  # fmt: skip
    return {**value, "messages": fits}, len(messages) - len(fits)


def outgrown(error: bytes) -> Refusal | None:
    """The refusal that an engine meant which takes a text that is too long for a failure of its own."""
    found = _LARGE.search(error.decode(errors="replace"))
    if found is None:
        return None
    return Refusal(400, f"the input has {found[1]} tokens; the model reads {found[2]}", code=TOO_LONG, param="input")


def _most(model: Model, value: dict[str, Any]) -> int:
    """Tokens that a prompt may have."""
    rooms = [] if model.prompt is None else [model.prompt]
    if model.context is not None:
        asked = value.get("max_completion_tokens") or value.get("max_tokens")
        answer = asked if isinstance(asked, int) and asked > 0 else model.context // _ANSWER
        rooms.append(model.context - min(answer, model.context - 1))
    return min(rooms)


def _surely_short(value: dict[str, Any], most: int) -> bool:
    """A token is at least one byte, so that most prompts need no counting. Pictures are not counted in bytes."""
    messages = value["messages"]
    plain = all(isinstance(one, dict) and isinstance(one.get("content"), (str, type(None))) for one in messages)
    size = len(json.dumps([messages, value.get("tools")], ensure_ascii=False).encode(errors="replace"))
    return plain and size + _EACH * len(messages) <= most


def _role(message: Any) -> str:
    return str(message.get("role")) if isinstance(message, dict) else ""
