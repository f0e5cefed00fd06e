"""The keys of a profile: one tree that loading, the JSON Schema and the documentation all read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deployer.frozen import dataclass
from deployer.quantity import parse_duration, parse_size, parse_version

ENGINES = ("llamacpp", "transformers", "vllm")
RUNTIMES = ("docker", "process")
ALLOWABLE = ("remote-code", "pickle")  # what `pull` refuses unless it is allowed


@dataclass(frozen=True)
class Kind:
    """One sort of value: `parse` gets the YAML scalar's text and raises ValueError("what is right")."""

    name: str
    parse: Callable[[str], Any]
    schema: dict[str, Any]


@dataclass(frozen=True)
class Key:
    """A key with a plain value; `many` makes it a list of such."""

    kind: Kind
    doc: str
    required: bool = False
    many: bool = False


@dataclass(frozen=True)
class Section:
    """A key with keys below it; `many` makes it a list of such."""

    keys: dict[str, Key | Section]
    doc: str
    required: bool = False
    many: bool = False


def _whole(low: int, high: int) -> Kind:
    right = f"a whole number from {low} to {high}"

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(right)
        return int(text)

    return Kind("integer", parse, {"type": "integer", "minimum": low, "maximum": high})


def _choice(*names: str) -> Kind:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError("one of " + ", ".join(names))
        return text

    return Kind("choice", parse, {"enum": list(names)})


def _pattern(name: str, pattern: str, right: str) -> Kind:
    import re

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(right)
        return text

    return Kind(name, parse, {"type": "string", "pattern": f"^{pattern}$"})


def _version(text: str) -> str:
    parse_version(text)
    return text


def _regex(text: str) -> str:
    import re

    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return text


_UNITS = r"\s*[0-9]{1,15}(\.[0-9]{1,15})?\s*"
TEXT = _pattern("text", r"[\s\S]*\S[\s\S]*", "some text")
SIZE = Kind(
    "size",
    parse_size,
    {"type": "string", "pattern": rf"^{_UNITS}([kKmMgGtT]([iI])?)?[bB]$", "examples": ["8 GB", "512 MiB"]},
)
DURATION = Kind(
    "time", parse_duration, {"type": "string", "pattern": rf"^{_UNITS}(ms|s|min|h)$", "examples": ["500 ms"]}
)
VERSION = Kind("version", _version, {"type": ["string", "number"], "pattern": r"^\d+(\.\d+)*$"})
SHA256 = _pattern("SHA-256", "[0-9a-f]{64}", "64 hexadecimal digits in lower case")
SOURCE = _pattern(
    "source",
    r"((hf|modelscope)://[\w.-]+/[\w.-]+|oci://[\w.-]+(:[0-9]+)?/[a-z0-9._/-]+(:\w[\w.-]*)?"
    r"(@sha256:[0-9a-f]{64})?|https?://[^\s#]+(#sha256=[0-9a-f]{64})?|pypi://[\w.-]+==[\w.]+|file:///.+)",
    "hf://owner/name, modelscope://owner/name, oci://registry/name@sha256:…, https://host/file, "
    "pypi://package==version or file:///a/folder/or/file",
)

ADDRESS = _pattern("address", r"[0-9]{1,3}(\.[0-9]{1,3}){3}", "an IPv4 address")
URL = _pattern("URL", r"https?://[^\s]+", "http://… or https://…")
REGEX = Kind("regular expression", _regex, {"type": "string", "format": "regex"})
ORIGIN = _pattern("origin", r"https?://[\w.-]+(:[0-9]+)?", "https://host or http://host:port, without a path")

PROFILE = Section(
    doc="What is wanted.",
    keys={
        "description": Key(TEXT, "one line that says whom this profile is for", required=True),
        "rank": Key(_whole(0, 1000), "which profile to prefer when several fit: the highest", required=True),
        "requirements": Section(
            doc="the least that the host must have; what is not named is not asked for",
            required=True,
            keys={
                "gpu": Section(
                    doc="NVIDIA GPUs",
                    keys={
                        "count": Key(_whole(1, 64), "how many"),
                        "vram": Key(SIZE, "nominal memory of each (a 24 GB card passes `24 GB`)"),
                        "free_vram": Key(SIZE, "memory that must be free on each, now"),
                        "compute_capability": Key(VERSION, "least compute capability, as in `8.0`"),
                    },
                ),
                "driver": Key(VERSION, "least NVIDIA driver version"),
                "cuda": Key(VERSION, "least CUDA version that the driver supports"),
                "memory": Key(SIZE, "nominal system memory"),
                "disk": Section(
                    doc="file systems",
                    keys={
                        "size": Key(SIZE, "size of the file system that holds the models"),
                        "images": Key(SIZE, "free space where images or engines land"),
                        "models": Key(SIZE, "free space where models land"),
                        "kind": Key(_choice("any", "ssd"), "`ssd` refuses rotating disks"),
                    },
                ),
                "os": Key(_choice("linux"), "operating system"),
                "python": Key(VERSION, "least Python of the `deployer` command"),
            },
        ),
        "model": Section(
            doc="the model",
            required=True,
            keys={
                "source": Key(SOURCE, "where it comes from", required=True),
                "revision": Key(TEXT, "commit of a hub's source, 40 digits pin it; tag or sha256:… of an oci:// one"),
                "files": Section(
                    doc="files of it; without this, what the engine needs",
                    many=True,
                    keys={
                        "path": Key(TEXT, "name inside the source", required=True),
                        "sha256": Key(SHA256, "what its bytes must hash to"),
                        "size": Key(SIZE, "its size"),
                    },
                ),
                "kind": Key(
                    _choice("chat", "completion", "embedding"), "what it was trained for; `embedding` gives vectors"
                ),
                "download": Key(SIZE, "how much will be fetched"),
                "allow": Key(
                    _choice(*ALLOWABLE), "what may be taken though it can do anything when it is loaded", many=True
                ),
            },
        ),
        "engine": Key(_choice(*ENGINES), "the program that serves it", required=True),
        "image": Key(TEXT, "folder under images/; by default the engine's name"),
        "variant": Key(TEXT, "variant of the image", required=True),
        "runtime": Key(_choice(*RUNTIMES), "insist on one; without this, docker if it answers, else process"),
        "serving": Section(
            doc="how it is served",
            keys={
                "context": Key(
                    _whole(128, 10_000_000),
                    "tokens that one request may use, prompt and answer; without this, what the memory holds",
                ),
                "concurrency": Key(
                    _whole(1, 1024), "requests that one engine serves at once; without this, what the memory holds"
                ),
                "replicas": Key(
                    _whole(1, 64), "engines behind the gateway, each with its share of the GPUs or of the cores (1)"
                ),
                "cache": Key(_choice("16-bit", "8-bit"), "numbers of the cache; 8 bits hold twice the tokens"),
                "address": Key(ADDRESS, "where it can be reached; `0.0.0.0` is every network of this host (127.0.0.1)"),
                "port": Key(_whole(1, 65535), "port there"),
                "api_key": Key(_choice("required", "none"), "`none` lets every local program use the model"),
            },
        ),
        "gateway": Section(
            doc="what the gateway in front of the engine lets in",
            keys={
                "queue": Key(_whole(0, 100_000), "requests that may wait for a place; more are refused with 429 (64)"),
                "wait": Key(DURATION, "longest time that one may wait (2 min)"),
                "body": Key(SIZE, "largest request (8 MiB)"),
                "prompt": Key(_whole(1, 10_000_000), "most tokens of a prompt; without this, what the context leaves"),
                "overflow": Key(
                    _choice("refuse", "drop-oldest"),
                    "a conversation that outgrows the context is refused, or loses its oldest turns",
                ),
                "cors": Key(ORIGIN, "origins whose pages may use it, as `https://chat.example`", many=True),
                "log": Key(_choice("requests", "prompts"), "`prompts` writes what people ask into the log"),
                "certificate": Key(TEXT, "file with the certificate and its chain, for TLS; from the profile's folder"),
                "certificate_key": Key(TEXT, "file with its private key"),
                "offline": Key(_choice("true", "false"), "`true` refuses everything that leaves this host (false)"),
                "remote": Section(
                    doc="a service elsewhere that is asked by these rules alone; without this, there is none",
                    keys={
                        "url": Key(URL, "its OpenAI-compatible address, as `https://api.example/v1`", required=True),
                        "model": Key(TEXT, "which model is asked there", required=True),
                        "when": Key(
                            _choice("full", "too-long", "named"),
                            "no place is free here; the prompt outgrows the context; `name` is asked for",
                            required=True,
                            many=True,
                        ),
                        "name": Key(TEXT, "what clients call it, for `named`"),
                        "key_file": Key(TEXT, "file with its API key; from the profile's folder"),
                    },
                ),
                "safety": Section(
                    doc="a check of requests and answers; without this, there is none",
                    keys={
                        "patterns": Section(
                            doc="what neither may match",
                            many=True,
                            keys={
                                "name": Key(TEXT, "what clients are told that it was blocked for", required=True),
                                "pattern": Key(
                                    REGEX, "a regular expression of Python; case does not count", required=True
                                ),
                            },
                        ),
                        "url": Key(URL, "what judges texts: a moderation endpoint or a chat model's"),
                        "kind": Key(
                            _choice("moderation", "model"),
                            "`moderation` answers as OpenAI's, `model` says `safe` or `unsafe`",
                        ),
                        "model": Key(TEXT, "which model is asked there"),
                        "check": Key(_choice("both", "requests", "answers"), "what is checked (both)"),
                        "window": Key(
                            _whole(16, 10_000), "characters by which a streamed answer is held back (160)"
                        ),
                        "otherwise": Key(
                            _choice("refuse", "pass"), "what happens while nothing answers at `url` (refuse)"
                        ),
                    },
                ),
            },
        ),
        "limits": Section(
            doc="what `up` holds the deployment to before it calls it good",
            keys={
                "first_token": Key(DURATION, "longest time to the first token of a short prompt"),
                "per_token": Key(DURATION, "longest mean time for each further token"),
            },
        ),
    },
)


def json_schema() -> dict[str, Any]:
    """The schema of a profile file as JSON Schema 2020-12, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "deployer profile",
        **_object(PROFILE),
    }


def _value(key: Key) -> dict[str, Any]:
    one = {"description": key.doc, **key.kind.schema}
    return {"type": "array", "description": key.doc, "items": one, "minItems": 1} if key.many else one


def _object(section: Section) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "object",
        "description": section.doc,
        "additionalProperties": False,
        "properties": {
            name: _object(key) if isinstance(key, Section) else _value(key) for name, key in section.keys.items()
        },
    }
    needed = [name for name, key in section.keys.items() if key.required]
    if needed:
        found["required"] = needed
    if section.many:
        return {"type": "array", "description": section.doc, "items": found}
    return found
