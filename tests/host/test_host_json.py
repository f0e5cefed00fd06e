"""Hosts become JSON and come back."""

from __future__ import annotations

import functools
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deployer.host
from deployer.errors import QuestionError
from deployer.host import (
    ContainerRuntime,
    Cpu,
    Disk,
    Host,
    Memory,
    Questions,
    System,
    Unknown,
    from_json,
    load,
    probe,
    to_json,
)
from tests import hosts


@pytest.mark.parametrize("host", [pytest.param(host, id=name) for name, host in hosts.NAMED.items()])
def test_hosts_come_back_as_they_were(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_text(json.dumps(to_json(host)))
    assert load(path) == host
    path.write_text(json.dumps({"schema": 1, "report": {}, "host": to_json(host)}))
    assert load(path) == host


def test_this_machine_comes_back_as_it_was(ask: Questions) -> None:
    found = probe(replace(ask, ports=(1,)))
    assert from_json(Host, json.loads(json.dumps(to_json(found)))) == found


WORDS = st.text(max_size=3)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: WORDS,
    int: st.integers(),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    type(None): st.none(),
}


@functools.cache
def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type made of facts, every field of a dataclass included, those with defaults too."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{field.name: anything(hints[field.name]) for field in fields(kind)})
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(anything, inner))
    if origin is tuple:
        return st.lists(anything(inner[0]), max_size=2).map(tuple)
    assert origin is Mapping, kind
    return st.dictionaries(anything(inner[0]), anything(inner[1]), max_size=2)


PARTS = [
    kind
    for kind in vars(deployer.host).values()
    if is_dataclass(kind) and kind not in (Host, Questions, Unknown)
]


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_any_part_of_a_host_comes_back_as_it_was(kind: Any, data: st.DataObject) -> None:
    value = data.draw(anything(kind))
    assert from_json(kind, json.loads(json.dumps(to_json(value)))) == value


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(anything(Host))
def test_any_host_comes_back_as_it_was(host: Host) -> None:
    assert from_json(Host, json.loads(json.dumps(to_json(host)))) == host


def test_a_host_of_an_older_version_knows_less(tmp_path: Path) -> None:
    raw = to_json(hosts.RTX)
    del raw["cuda"]
    path = tmp_path / "host.json"
    path.write_text(json.dumps(raw))
    assert load(path) == replace(hosts.RTX, cuda=Unknown("not in the saved host"))


PARTS_BY_FIELD = {
    "system": System,
    "cpu": Cpu,
    "memory": Memory,
    "models_disk": Disk,
    "runtime": ContainerRuntime,
}


def test_a_host_of_the_first_version_lacks_everything_that_is_new(tmp_path: Path) -> None:
    """Fields with a default came later: what was saved without them can still be judged."""
    raw = to_json(hosts.RTX)
    for part, kind in ((raw, Host), *((raw[name], PARTS_BY_FIELD[name]) for name in PARTS_BY_FIELD)):
        for field in fields(kind):
            if field.default is not MISSING or field.default_factory is not MISSING:
                del part[field.name]
    path = tmp_path / "host.json"
    path.write_text(json.dumps(raw))
    found = load(path)
    lost = Unknown("not in the saved host")
    assert found.memory == Memory(hosts.RTX.memory.total, hosts.RTX.memory.available, *[lost] * 7)
    assert (found.kernel_log, found.images, found.deep) == (lost, {}, None)


def test_a_host_of_schema_version_2_is_judged_without_what_has_another_name(tmp_path: Path) -> None:
    """It has `registry`, and images by their tags."""
    raw = {**to_json(hosts.RTX), "registry": None, "images": {"deployer/llamacpp:cpu-0123456789ab": True}}
    del raw["base"]
    path = tmp_path / "host.json"
    path.write_text(json.dumps({"schema": 2, "report": {}, "host": raw}))
    assert load(path) == replace(
        hosts.RTX,
        base=Unknown("not in the saved host"),
        images={"deployer/llamacpp:cpu-0123456789ab": True},
    )


def damaged(change: dict[str, Any]) -> str:
    return json.dumps({**to_json(hosts.RTX), **change})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(damaged({})[:200], id="half"),
        pytest.param("[]", id="list"),
        pytest.param("7", id="number"),
        pytest.param('"host"', id="text"),
        pytest.param("null", id="null"),
        pytest.param("{}", id="nothing in it"),
        pytest.param('{"host": []}', id="host is a list"),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param(damaged({"taken": 5}), id="a number for text"),
        pytest.param(damaged({"ports": []}), id="a list for a mapping"),
        pytest.param(damaged({"ports": {"8000": {"number": "8000"}}}), id="half a port"),
        pytest.param(damaged({"memory": {"total": 1}}), id="half a memory"),
        pytest.param(damaged({"memory": 16}), id="a number for memory"),
        pytest.param(damaged({"memory": None}), id="null for memory"),
        pytest.param(damaged({"gpus": {"0": {}}}), id="a mapping for a list"),
        pytest.param(damaged({"gpus": [7]}), id="a number for a GPU"),
        pytest.param(damaged({"runtime": {"kind": "docker"}}), id="half a runtime"),
    ],
)
def test_a_damaged_file_is_a_wrong_question(text: str, tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_text(text)
    with pytest.raises(QuestionError, match="is not a saved host") as caught:
        load(path)
    assert "deployer check --json" in str(caught.value.hint)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "not text"])
def test_a_file_that_cannot_be_read_is_a_wrong_question(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(QuestionError, match="is not a saved host"):
        load(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.just("unknown"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(sorted(to_json(hosts.RTX))), JSON)
def test_any_value_in_any_place_is_a_host_or_a_wrong_question(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-host.json"
    path.write_text(damaged({field: value}))
    try:
        found = load(path)
    except QuestionError:
        return
    said = to_json(found)
    assert from_json(Host, said) == found
    assert said[field] == value or isinstance(value, dict)  # what a part lacks is told to be unknown


@pytest.mark.parametrize(
    "change", [{"ports": []}, {"gpus": {}}, {"memory": 1}, {"taken": None}], ids=lambda c: next(iter(c))
)
def test_another_shape_is_a_value_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="was expected, not"):
        from_json(Host, json.loads(damaged(change)))
