"""The published JSON Schema of what `deployer check --json` prints, made from the types of the facts."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Union

from deployer.host import Host, Unknown
from deployer.report import SCHEMA_VERSION
from deployer.report.formats import json_schema as report_schema

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", Path: "string"}
_UNKNOWN = "unknown"


def check_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of one judged profile, of `--all`, and of an error.

    Objects are open: a version may gain fields, so a reader must pass over those that it does not know.
    """
    definitions: dict[str, Any] = {
        "report": {"description": "All findings of one profile, in reading order.", **report_schema()},
        _UNKNOWN: {
            "description": "This could not be asked, which is not the same as null: `there is none`.",
            "type": "object",
            "required": ["unknown"],
            "properties": {"unknown": {"type": "string", "description": "why"}},
            "additionalProperties": False,
        },
    }
    host = _of(Host, definitions)
    version = {"schema": {"const": SCHEMA_VERSION}}
    report = {"$ref": "#/$defs/report"}
    error = {
        "message": {"type": "string"},
        "hint": {"type": ["string", "null"]},
        "evidence": {"type": "array", "items": {"type": "string"}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "deployer check --json",
        "description": f"Version {SCHEMA_VERSION}. A version may gain fields; what changes or goes makes the next. "
        'null says "there is none", or "it does not apply".',
        "oneOf": [
            {"title": "one profile", **_object({**version, "report": report, "host": host})},
            {
                "title": "--all: the best first",
                **_object({**version, "reports": {"type": "array", "items": report}, "host": host}),
            },
            {"title": "an error", **_object({"error": _object(error)})},
        ],
        "$defs": definitions,
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of what `host.to_json` makes of a value of type `kind`; dataclasses land in `definitions`.

    Raises TypeError for a sort of type that facts have not had so far.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Unknown:
        return {"$ref": f"#/$defs/{_UNKNOWN}"}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(part, definitions) for part in inner]}
    if kind is type(None):
        return {"type": "null"}
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin is tuple and inner[1:] == (...,):
        return {"type": "array", "items": _of(inner[0], definitions)}
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(inner[1], definitions)}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if isinstance(kind, type) and is_dataclass(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # it is being made: a type may hold itself
            hints = typing.get_type_hints(kind)
            about = " ".join((kind.__doc__ or "").split())
            definitions[kind.__name__] = {
                **({} if about.startswith(f"{kind.__name__}(") else {"description": about}),
                **_object({f.name: _of(hints[f.name], definitions) for f in fields(kind)}),
            }
        return {"$ref": f"#/$defs/{kind.__name__}"}
    raise TypeError(f"{kind} has no JSON Schema yet")


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}
