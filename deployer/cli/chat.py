"""`deployer chat`: a conversation in the terminal, through the deployment's own API."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deployer.cli import show
from deployer.cli.place import place
from deployer.cli.which import which
from deployer.errors import LaunchError, QuestionError
from deployer.plan import Record, events, example, piece_of, trust

if TYPE_CHECKING:
    import httpx


@click.command("chat")
@click.argument("words", nargs=-1, metavar="[MESSAGE]...")
@click.option("--name", help="Deployment to talk to.  [default: the only one]")
@click.option("--system", help="System message.")
@click.option("--max-tokens", type=click.IntRange(1), default=512, show_default=True, help="Longest answer.")
@click.option(
    "--temperature", type=click.FloatRange(0, 2), help="Sampling temperature.  [default: the engine's]"
)
@click.option(
    "--json", "as_json", is_flag=True, help="With MESSAGE: the answer and its measures, for programs."
)
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    name: str | None,
    system: str | None,
    max_tokens: int,
    temperature: float | None,
    as_json: bool,
) -> None:
    """Send MESSAGE and print the answer; without one, talk until Ctrl-D. Text on standard input is a message too."""
    import httpx

    record = which(place(ctx), name)
    if record.kind == "embedding":
        raise QuestionError(f"{record.model} gives embeddings, it does not chat", hint=_curl(record))
    key = Path(record.key_file).read_text().strip() if record.key_file else None
    options: dict[str, Any] = {"model": record.model, "max_tokens": max_tokens, "stream": True,
                               "stream_options": {"include_usage": True}}  # fmt: skip
    if temperature is not None:
        options["temperature"] = temperature
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(None, connect=5.0)
    history = [{"role": "system", "content": system}] if system else []
    once = " ".join(words) or (None if sys.stdin.isatty() else sys.stdin.read().strip())
    alone = httpx.Limits(max_keepalive_connections=0)  # engines end idle connections without notice
    trusted = trust(Path(record.certificate) if record.certificate else None)
    with httpx.Client(
        base_url=record.url, headers=headers, timeout=timeout, limits=alone, trust_env=False, verify=trusted
    ) as client:
        if once:
            answer = _say(client, record, history, once, options, echo=not as_json)
            if as_json:
                show.show_json(answer)
            return
        click.echo(f"{record.model}, {record.url}; Ctrl-D ends", err=True)
        while True:
            try:
                said = click.prompt(">", prompt_suffix=" ", err=True).strip()
            except click.exceptions.Abort:  # Ctrl-C and Ctrl-D alike
                click.echo(err=True)
                return
            _say(client, record, history, said, options, echo=True)


def _curl(record: Record) -> str:
    key, certificate = (Path(one) if one else None for one in (record.key_file, record.certificate))
    return example(record.url.removesuffix("/v1"), record.model, record.kind, key, certificate)


def _say(
    client: httpx.Client,
    record: Record,
    history: list[dict[str, str]],
    said: str,
    options: dict[str, Any],
    *,
    echo: bool,
) -> dict[str, Any]:
    """Sends one message, prints the answer as it comes, and adds both to the history."""
    import httpx

    history.append({"role": "user", "content": said})
    chat = record.kind == "chat"
    body = {**options, **({"messages": history} if chat else {"prompt": said})}
    text, tokens, first = "", 0, None
    start = time.perf_counter()
    try:
        with client.stream("POST", "/chat/completions" if chat else "/completions", json=body) as answer:
            if answer.status_code != 200:
                answer.read()
                raise LaunchError(f"HTTP {answer.status_code}: {answer.text[:300]}", hint="deployer status")
            for event in events(answer):
                piece = piece_of(event)
                first = first or (time.perf_counter() if piece else None)
                tokens = (event.get("usage") or {}).get("completion_tokens") or tokens
                text += piece
                if echo and piece:
                    click.echo(piece, nl=False)
    except KeyboardInterrupt:
        click.echo(" [stopped]", err=True)
    except httpx.HTTPError as error:
        raise LaunchError(
            f"{record.name} does not answer at {record.url}: {type(error).__name__}", hint="deployer status"
        ) from error
    if echo:
        click.echo()
    history.append({"role": "assistant", "content": text})
    end = time.perf_counter()
    return {
        "answer": text,
        "tokens": tokens,
        "first_token_s": round((first or end) - start, 4),
        "tokens_per_s": round((tokens - 1) / (end - first), 2) if first and tokens > 1 else None,
    }
