"""The whole look: what one answer costs the others, and how long it takes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from deployer import host
from deployer.host import Answer, ContainerRuntime, Disk, Host, Libraries, Nodes, Questions, Unknown, base
from tests.host.conftest import put
from tests.host.served import INFO, engine, served


@contextmanager
def silent(ask: Questions) -> Iterator[None]:
    """An engine that takes connections and never says a word."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(ask.docker.removeprefix("unix://"))
        server.listen()
        yield


def test_an_engine_that_never_answers_is_unknown_and_the_rest_is_there(ask: Questions) -> None:
    with silent(ask), served(("127.0.0.1", 0), {"/v2/": {}}) as registry:
        url = f"http://127.0.0.1:{registry.port}/v2/"
        begin = time.monotonic()
        found = host.probe(replace(ask, images={"a": "a:1", "b": "b:1"}, base=url))
        took = time.monotonic() - begin
    assert 1 < took < 5
    for fact in (found.runtime, found.images_disk, found.base, *found.images.values()):
        assert isinstance(fact, Unknown)
        assert "does not answer" in fact.reason or "no answer in" in fact.reason
    assert list(found.images) == ["a", "b"]
    assert registry.seen == []
    for name in ("system", "cpu", "memory", "models_disk", "engines_disk", "temporary_disk", "driver", "cdi"):
        assert not isinstance(getattr(found, name), Unknown), name


def test_the_disk_of_images_is_where_the_engine_says(ask: Questions, machine: Path) -> None:
    (machine / "srv/images").mkdir(parents=True)
    with engine(ask, info={**INFO, "DockerRootDir": "/srv/images"}):
        found = host.probe(ask)
    assert isinstance(found.runtime, ContainerRuntime)
    assert isinstance(found.images_disk, Disk)
    assert found.images_disk.path == str(machine / "srv/images")


@pytest.mark.parametrize("root", ["", None])
def test_an_engine_that_does_not_say_where_images_are(root: str | None, ask: Questions) -> None:
    with engine(ask, info={**INFO, "DockerRootDir": root}):
        assert isinstance(host.probe(ask).images_disk, Unknown)


def test_without_a_runtime_there_are_no_images_and_no_disk_of_them(ask: Questions) -> None:
    found = host.probe(replace(ask, images={"a": "a:1"}))
    assert found.runtime is None
    assert found.images_disk == Unknown("there is no container runtime")
    assert found.images == {"a": False}
    assert found.base is None


@pytest.mark.parametrize(
    ("images", "asked"),
    [
        pytest.param({"a:1": (404, {}), "b:1": (404, {})}, True, id="none is here"),
        pytest.param({"a:1": (404, {}), "b:1": {}}, True, id="one is here"),
        pytest.param({"a:1": {}, "b:1": {}}, False, id="all are here"),
        pytest.param({"a:1": (500, {})}, True, id="nobody knows"),
        pytest.param({}, False, id="none is wanted"),
    ],
)
def test_the_place_of_the_base_is_asked_only_when_an_image_is_not_here(
    images: dict[str, Any], asked: bool, ask: Questions
) -> None:
    with engine(ask, **images), served(("127.0.0.1", 0), {"/v2/": (401, {})}) as registry:
        url = f"http://127.0.0.1:{registry.port}/v2/"
        found = host.probe(replace(ask, images={tag.upper(): tag for tag in images}, base=url))
    assert bool(registry.seen) is asked
    assert list(found.images) == [tag.upper() for tag in images]
    if asked:
        assert isinstance(found.base, Answer)
        assert (found.base.url, found.base.status) == (url, 401)
    else:
        assert found.base is None


def test_a_mirror_is_asked_without_any_engine(ask: Questions) -> None:
    with served(("127.0.0.1", 0), {"/debian": {}}) as mirror:
        found = host.probe(replace(ask, images={"a": "a:1"}, base=f"http://127.0.0.1:{mirror.port}/debian"))
    assert isinstance(found.base, Answer)
    assert (found.base.status, [seen[:2] for seen in mirror.seen]) == (200, [("HEAD", "/debian")])


def test_an_empty_folder_as_root_shows_nothing_of_this_machine(tmp_path: Path) -> None:
    ask = Questions(tmp_path / "a", tmp_path / "b", f"unix://{tmp_path}/none", tmp_path / "c", root=tmp_path)
    found = host.probe(ask)
    for name in ("system", "cpu", "memory", "models_disk", "fabric_manager", "packages", "kernel_log"):
        fact = getattr(found, name)
        if name != "fabric_manager":
            assert isinstance(fact, Unknown), name
    assert "/proc/meminfo" in found.memory.reason  # type: ignore[union-attr]
    assert (found.driver, found.pci_gpus, found.nvswitches, found.cdi) == (None, (), 0, ())
    assert (found.toolkit, found.runtime, found.fabric_manager) == (None, None, None)
    assert found.libraries == Libraries(None, None)
    assert found.nodes == Nodes({}, None, char_links=False)
    assert found.modules == host.Modules((), Unknown("this kernel takes no modules"))


def test_every_field_of_this_machine_is_asked(ask: Questions) -> None:
    found = host.probe(replace(ask, root=Path("/")))
    for field in fields(Host):
        assert getattr(found, field.name) != base.NOT_ASKED, field.name
    assert found.deep is None


def test_what_cannot_be_read_is_unknown_and_costs_nothing_else(ask: Questions) -> None:
    (ask.proc / "meminfo").unlink()
    (ask.etc / "os-release").unlink()
    found = host.probe(ask)
    assert isinstance(found.memory, Unknown)
    assert isinstance(found.system, Unknown)
    assert "os-release" in found.system.reason
    assert isinstance(found.cpu, host.Cpu)
    assert found.driver is None


def test_files_of_another_shape_are_unknown_with_a_reason(ask: Questions) -> None:
    put(ask.proc / "meminfo", "MemTotal:\n")
    put(ask.proc / "self/mounts", "one\n")
    found = host.probe(ask)
    for fact in (found.memory, found.models_disk):
        assert isinstance(fact, Unknown)
        assert fact.reason


def test_a_probe_that_takes_too_long_does_not_hold_up_the_others() -> None:
    never = threading.Event()
    begin = time.monotonic()
    found = base.gather({"slow": lambda: never.wait(30), "fast": lambda: 7}, limit=0.1)
    assert time.monotonic() - begin < 5
    never.set()
    assert found == {"slow": Unknown("no answer in 0.1 s"), "fast": 7}


def test_a_probe_may_have_a_limit_of_its_own() -> None:
    never = threading.Event()
    probes = {
        "slow": lambda: never.wait(30),
        "patient": lambda: never.wait(0.4),
        "hasty": lambda: never.wait(30),
    }
    begin = time.monotonic()
    found = base.gather(probes, limit=0.2, limits={"patient": 10, "hasty": 0.05, "unasked": 30})
    assert 0.4 <= time.monotonic() - begin < 5
    never.set()
    assert found == {
        "slow": Unknown("no answer in 0.2 s"),
        "patient": False,
        "hasty": Unknown("no answer in 0.05 s"),
    }
    assert list(found) == list(probes)


@pytest.mark.parametrize("error", [OSError, ValueError, KeyError, IndexError, TypeError, AttributeError])
def test_a_probe_that_fails_is_unknown_with_its_reason(error: type[Exception]) -> None:
    def fail() -> None:
        raise error("why")

    found = base.gather({"one": fail, "two": lambda: None})
    assert isinstance(found["one"], Unknown)
    assert "why" in found["one"].reason
    assert found["two"] is None


def test_an_error_without_words_is_named() -> None:
    def fail() -> None:
        raise OSError

    assert base.gather({"one": fail}) == {"one": Unknown("OSError")}
