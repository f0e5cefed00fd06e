"""What engines understand of the OpenAI API beyond the paths: what is left out, and what is refused, and why."""

from __future__ import annotations

from typing import Any

from .errors import Refusal

EMBEDDINGS = "/v1/embeddings"

# transformers 5.23 (cli/serving/chat_completion.py, completion.py, response.py) answers 422 to names that are not in
# OpenAI's schema, and goes on without those that it does not do. Leaving these out changes nothing that a client sees:
_HARMLESS = {
    "metadata", "parallel_tool_calls", "prediction", "safety_identifier", "service_tier", "store", "stream_options",
    "user", "prompt_cache_key",
}  # fmt: skip
# These would give another answer than was asked for; the value beside each is the one that says nothing.
_MATTERS: dict[str, Any] = {
    "audio": None, "best_of": 1, "function_call": "none", "functions": [], "logprobs": False, "modalities": ["text"],
    "n": 1, "presence_penalty": 0, "reasoning_effort": None, "response_format": {"type": "text"},
    "tool_choice": "auto", "top_logprobs": 0, "verbosity": None, "web_search_options": None, "echo": False,
    "suffix": None,
}  # fmt: skip
_KNOWN = {
    "messages", "prompt", "model", "stream", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop",
    "seed", "frequency_penalty", "logit_bias", "tools", "generation_config", "chat_template_kwargs",
}  # fmt: skip


def spoken(engine: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """`body` as the engine understands it. Raises Refusal where it would misunderstand it."""
    if path == EMBEDDINGS:
        return _embeddings(engine, body)
    if engine == "transformers" and path != "/v1/responses":
        return _transformers(path, body)
    return body


def _embeddings(engine: str, body: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp (0c1e570) fails on null, has `content` as a second name of `input`, and passes over `dimensions`."""
    said = {name: value for name, value in body.items() if value is not None and name != "content"}
    if engine == "llamacpp" and "dimensions" in said:
        raise Refusal(
            400, "the engine of this model does not shorten vectors: leave `dimensions` out", param="dimensions",
            code="unsupported_parameter",
        )  # fmt: skip
    return said


def _transformers(path: str, body: dict[str, Any]) -> dict[str, Any]:
    said = {}
    for name, value in body.items():
        if name in _KNOWN:
            said[name] = value
        elif name in _MATTERS:
            if value is not None and value != _MATTERS[name]:
                raise Refusal(
                    400, f"the engine of this model does not do `{name}`: leave it out", param=name,
                    code="unsupported_parameter",
                )  # fmt: skip
        elif name not in _HARMLESS and value is not None:
            raise Refusal(
                400, f"the engine of this model does not know `{name}`: leave it out", param=name,
                code="unknown_parameter",
            )  # fmt: skip
    if path == "/v1/completions" and "max_completion_tokens" in said:
        said["max_tokens"] = said.pop("max_completion_tokens")
    return said
