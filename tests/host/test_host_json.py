"""Hosts become JSON and come back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.errors import QuestionError
from deployer.host import Host, Questions, Unknown, from_json, load, probe, to_json
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


@settings(max_examples=60)
@given(st.builds(Host))
def test_any_host_comes_back_as_it_was(host: Host) -> None:
    assert from_json(Host, json.loads(json.dumps(to_json(host)))) == host


def test_a_host_of_an_older_version_knows_less(tmp_path: Path) -> None:
    raw = to_json(hosts.RTX)
    del raw["cuda"]
    path = tmp_path / "host.json"
    path.write_text(json.dumps(raw))
    assert load(path) == replace(hosts.RTX, cuda=Unknown("not in the saved host"))


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
    assert to_json(found) == json.loads(path.read_text())


@pytest.mark.parametrize(
    "change", [{"ports": []}, {"gpus": {}}, {"memory": 1}, {"taken": None}], ids=lambda c: next(iter(c))
)
def test_another_shape_is_a_value_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="was expected, not"):
        from_json(Host, json.loads(damaged(change)))
