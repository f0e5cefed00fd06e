"""`deployer watch` where its hands fail: it goes on, and holds back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deployer import plan
from deployer.cli import watch as command
from deployer.cli.place import Place
from deployer.errors import LaunchError, RuntimeUnavailable
from deployer.home import Home, read_json
from deployer.plan import Record
from deployer.plan.health import Hands, Sight
from deployer.plan.record import save_record
from deployer.runtimes import Launch, Part
from tests.servers import unused_port

DEAD = (Sight("engine", "dead", ended="exit code 1"), Sight("gateway", "running"))


Look, Again = Callable[[], tuple[Sight, ...]], Callable[[str], list[str]]


def watcher(folder: Path, monkeypatch: pytest.MonkeyPatch, look: Look, again: Again) -> command.Watcher:
    """One of a deployment that nobody answers for, with these hands."""
    home = Home(folder)
    gateway = Launch("small", 1, unused_port(), (Part("gateway", ("true",)),))
    engine = Launch("small/g1/1", 1, None, (Part("engine", ("true",)),))
    url = f"http://127.0.0.1:{gateway.port}/v1"
    record = Record(
        "small", "p.yaml", "process", url, "m", "chat", "m", None, "now", 0.1, 50.0, 1, (engine,), gateway,
        {"models": []}, 4096, 2, "llamacpp", 1,
    )  # fmt: skip
    save_record(home, record)
    monkeypatch.setattr(command, "hands", lambda here, record: Hands(look, again))
    return command.Watcher(Place(home, "unix:///none"), record, 1.0, as_json=True)


@pytest.mark.parametrize("error", [RuntimeUnavailable("the engine does not answer"), KeyError("no such container")])
def test_a_runtime_that_cannot_be_asked_ends_no_watch(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[object] = [error, error, DEAD]

    def look() -> tuple[Sight, ...]:
        found = answers.pop(0) if answers else DEAD
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, tuple)
        return found

    one = watcher(tmp_path, monkeypatch, look, lambda name: [])
    assert [one.look(act=True).state for _ in range(2)] == ["unknown", "unknown"]
    assert capsys.readouterr().out.count("\n") == 1  # it is said once
    assert one.look(act=True).state == "restart"
    assert '"event": "restarted"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "said"), [(LaunchError("no memory"), "no memory"), (ValueError("odd"), "ValueError: odd")]
)
def test_a_start_that_fails_is_held_back_whatever_it_raises(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def again(name: str) -> list[str]:
        tried.append(time.monotonic())
        raise error

    one = watcher(tmp_path, monkeypatch, lambda: DEAD, again)
    states = [one.look(act=True).state for _ in range(3)]
    assert states == ["restart", "hold", "hold"]
    kept = read_json(tmp_path / "deployments/small/watch.json")
    assert (kept["state"], kept["cause"], kept["restarts"]) == ("hold", said, 1)
    # who watches after it holds back too, until somebody brings the deployment up again
    here, same = Place(Home(tmp_path), "unix:///none"), plan.load_record(Home(tmp_path), "small")
    assert same is not None
    assert command.Watcher(here, same, 1.0, as_json=True).look(act=True).state == "hold"
    assert len(tried) == 1
    other = replace(same, accepted="later")
    save_record(Home(tmp_path), other)
    assert command.Watcher(here, other, 1.0, as_json=True).look(act=True).state == "restart"
    assert len(tried) == 2
