"""The verdict on a deployment: table and properties; nothing runs here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies

from deployer.host import Gpu, Unknown
from deployer.host.gpu import Mig, Slice
from deployer.host.kernel import Event, Reload
from deployer.plan import watch
from deployer.plan.watch import (
    BROKEN,
    BUSY,
    DOWN,
    FAILED,
    FULL,
    HEALTHY,
    HOLD,
    LOADING,
    OK,
    REFUSED,
    RESTART,
    SILENT,
    UNASKED,
    UNKNOWN,
    Answer,
    Around,
    Past,
    Seen,
    Verdict,
    judge,
    pause,
    restarted,
)

T = 1_800_000_000.0
NVML = "Failed to initialize NVML: Unknown Error"
LOST = "GPU is lost"


def card(index: int = 0, **more: Any) -> Gpu:
    known = {"uuid": f"GPU-{index}", "pci": f"0000:0{index}:00.0", "name": "NVIDIA H100", **more}
    return Gpu(index, vram=80 << 30, free_vram=1 << 30, compute_capability="9.0", **known)


def off_the_bus(index: int = 0) -> Gpu:
    gone = Unknown(f"NVML: {LOST}")
    return Gpu(index, gone, gone, gone, gone, gone)


def seen(answer: str = OK, state: str = "running", **more: Any) -> Seen:
    return Seen("engine", state, Answer(answer, said="HTTP 500: CUDA error" if answer == FAILED else ""), **more)


def around(at: float = 0.0, *gpus: Gpu, events: tuple[Event, ...] = (), reloads: tuple[Reload, ...] = ()) -> Around:
    return Around(T + at, gpus, events, reloads)


def after(*story: tuple[float, Seen], gpus: tuple[Gpu, ...] = (), **more: Any) -> tuple[Verdict, Past]:
    """The last verdict of what was seen at these seconds."""
    past = Past()
    for at, one in story:
        verdict, past = judge(one, around(at, *gpus, **more), past)
    return verdict, past


def test_who_gives_a_token_is_healthy() -> None:
    assert after((0, seen())) == (Verdict(HEALTHY), after((0, seen()))[1])
    slow = replace(seen(), answer=Answer(OK, 12.0))
    assert after((0, slow))[0] == Verdict(HEALTHY, "the completion took 12.0 s")


@pytest.mark.parametrize("state", ["dead", "stopped"])
def test_what_ended_is_started_again(state: str) -> None:
    found = after((0, seen(REFUSED, state, ended="it was killed: is there enough memory?")))[0]
    assert found == Verdict(RESTART, "it ended (it was killed: is there enough memory?)")
    assert after((0, seen(UNASKED, state)))[0] == Verdict(RESTART, "it ended")


def test_what_somebody_took_down_stays_down() -> None:
    assert after((0, seen(REFUSED, "gone")))[0].state == DOWN
    tried = restarted(Past(), T, "no file")
    assert judge(seen(REFUSED, "gone"), around(100), tried)[0] == Verdict(RESTART, "no file")  # our own start failed
    assert judge(seen(REFUSED, "gone"), around(100), restarted(Past(), T))[0].state == DOWN


def test_a_load_may_take_for_ever_while_it_moves() -> None:
    story = [(float(at), seen(REFUSED, pulse=at)) for at in range(0, 100_000, 100)]
    assert after(*story)[0].state == LOADING


def test_a_load_that_stands_still_is_ended() -> None:
    story = [(float(at), seen(REFUSED, pulse=7)) for at in range(0, 121, 10)]
    assert after(*story[:-1])[0].state == LOADING
    assert after(*story)[0] == Verdict(
        RESTART, "not ready, and its log, memory and reading stand still for 2 min"
    )


def test_a_frozen_engine_is_told_from_a_busy_one() -> None:
    frozen = [(float(at), seen(SILENT, worked=5.0, others=2)) for at in range(0, 31, 10)]
    assert after(*frozen[:-1])[0] == Verdict(BUSY, "2 requests are at work")
    assert after(*frozen)[0].cause == "frozen: no answer, and nothing of it moves for 30.0 s"
    busy = [(float(at), seen(SILENT, tokens=at, worked=5.0, others=1)) for at in range(0, 10_000, 10)]
    assert after(*busy)[0] == Verdict(BUSY, "1 request is at work")


@pytest.mark.parametrize(("others", "limit"), [(0, watch.STALL_S), (3, watch.STUCK_S)])
@pytest.mark.parametrize("answer", [SILENT, FULL])
def test_an_engine_that_spins_and_gives_nothing_is_stuck_in_the_end(answer: str, others: int, limit: float) -> None:
    story = [(float(at), seen(answer, worked=at, others=others)) for at in range(0, int(limit) + 1, 10)]
    assert after(*story[:-1])[0].state == BUSY
    assert after(*story)[0].cause.startswith("stuck: it works and gives no token for")


@pytest.mark.parametrize("step", [300.0, 86400.0, -86400.0])
def test_what_passed_unseen_is_held_against_nobody(step: float) -> None:
    """The watcher was busy with another part, the machine slept, or somebody set the clock."""
    story = [(0.0, seen(OK, worked=5.0)), (step, seen(SILENT, worked=5.0, others=1))]
    assert after(*story)[0].state == BUSY
    story += [(step + at, seen(SILENT, worked=5.0, others=1)) for at in (10, 20, 30)]
    assert after(*story)[0].state == RESTART


def test_a_clock_that_is_set_back_does_not_lengthen_the_pause() -> None:
    _, past = judge(seen(REFUSED, "dead"), around(0), restarted(restarted(Past(), T - 9), T))
    for at in (-3600, -3599, -3598):
        verdict, past = judge(seen(REFUSED, "dead"), around(at), past)
    assert verdict.state == RESTART


def test_errors_count_when_they_come_in_a_row() -> None:
    wrong, right = seen(FAILED), seen()
    assert after((0, wrong), (10, wrong))[0].state == UNKNOWN
    assert after((0, wrong), (10, wrong), (20, right), (30, wrong))[0].state == UNKNOWN
    found = after((0, wrong), (10, wrong), (20, wrong))[0]
    assert found == Verdict(RESTART, "3 completions in a row failed: HTTP 500: CUDA error")


def test_a_request_that_the_gateway_refuses_says_nothing_of_the_engine() -> None:
    story = [(float(at), seen(UNASKED)) for at in range(0, 10_000, 10)]
    assert after(*story)[0].state == UNKNOWN


def test_a_gpu_lost_to_a_daemon_reload_is_named_so() -> None:
    at = T - 60
    reload = Reload(at, "Reloading requested from client PID 7 ('systemctl')...")
    lost = seen(FAILED, gpus=("GPU-0",), log=(NVML,), started=T - 3600)
    found = after((0, lost), gpus=(card(),), reloads=(reload,))[0]
    assert found.state == RESTART
    assert found.cause.startswith("its GPU was lost by a daemon-reload of systemd at ")
    assert NVML in found.cause
    before = replace(reload, at=T - 7200)  # of an earlier life of the engine
    assert after((0, lost), gpus=(card(),), reloads=(before,))[0] == Verdict(RESTART, f"its GPU was lost: {NVML}")


def test_what_the_log_of_an_earlier_life_says_does_not_end_a_load() -> None:
    loads = [(float(at), seen(REFUSED, pulse=at, log=(NVML,))) for at in range(0, 200, 10)]
    assert after(*loads)[0].state == LOADING


def test_a_gpu_off_the_bus_is_reported_and_nothing_is_started() -> None:
    event = Event(T + 5, "0000:00:00.0", 79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")
    _, past = after((0, seen(gpus=("GPU-0", "GPU-1"))), gpus=(card(0), card(1)))
    now = around(10, off_the_bus(0), card(1), events=(event,))
    for answer, state in ((FAILED, "running"), (SILENT, "running"), (REFUSED, "dead")):
        found, _ = judge(seen(answer, state, gpus=("GPU-0", "GPU-1")), now, past)
        assert found.state == BROKEN
        assert found.cause.startswith("GPU-0 at 0000:00:00.0 is not there any more: 0000:00:00.0: Xid 79 at ")
        assert "GPU has fallen off the bus): switch the machine off and on" in found.cause


def test_a_gpu_that_is_gone_without_an_xid() -> None:
    found = after((0, seen(FAILED, gpus=("GPU-1",))), gpus=(card(0),))[0]
    assert found == Verdict(BROKEN, "GPU-1 is not there any more: the kernel's log has no Xid of it")
    found = after((0, seen(FAILED, gpus=("GPU-1",))), gpus=(card(0), off_the_bus(1)))[0]
    assert found == Verdict(BROKEN, f"GPU-1 is not there any more: NVML: {LOST}")


def test_a_driver_that_does_not_answer_is_no_missing_gpu() -> None:
    blind = Around(T, Unknown("no answer"), Unknown("not allowed"), Unknown("no journalctl"))
    assert judge(seen(FAILED, gpus=("GPU-0",)), blind, Past())[0].state == UNKNOWN
    assert judge(seen(REFUSED, "dead", gpus=("GPU-0",)), blind, Past())[0].state == RESTART


def test_a_slice_is_found_on_its_card() -> None:
    part = Slice("MIG-1", "1g.10gb", 10 << 30, 10 << 30)
    cut = card(0, mig=Mig(True, True, (part,)))
    assert after((0, seen(REFUSED, "dead", gpus=("MIG-1",))), gpus=(cut,))[0].state == RESTART
    assert after((0, seen(REFUSED, "dead", gpus=("MIG-2",))), gpus=(cut,))[0].state == BROKEN


@pytest.mark.parametrize(
    ("code", "state"),
    [(13, RESTART), (31, RESTART), (43, RESTART), (48, RESTART), (119, RESTART), (64, BROKEN), (79, BROKEN)],
)
def test_errors_of_the_driver_that_only_a_reboot_or_a_new_card_ends(code: int, state: str) -> None:
    event = Event(T - 5, "0000:00:00.0", code, "")
    dead = seen(REFUSED, "dead", gpus=("GPU-0",), started=T - 60)
    assert after((0, dead), gpus=(card(),), events=(event,))[0].state == state
    for other in (replace(event, at=T - 3600), replace(event, gpu="0000:09:00.0")):  # before its start; another card
        assert after((0, dead), gpus=(card(),), events=(other,))[0].state == RESTART
    well = replace(dead, state="running", answer=Answer(OK))
    assert after((0, well), gpus=(card(),), events=(event,))[0].state == HEALTHY


def test_restarts_back_off_and_end() -> None:
    now, past, pauses = 0.0, Past(), []
    for _ in range(watch.RESTARTS):
        verdict, past = judge(seen(REFUSED, "dead"), around(now), past)
        if verdict.state == HOLD:
            assert verdict.until is not None
            pauses.append(round(verdict.until - T - now))
            now = verdict.until - T
            verdict, past = judge(seen(REFUSED, "dead"), around(now), past)
        assert verdict.state == RESTART
        past = restarted(past, T + now)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    found, _ = judge(seen(REFUSED, "dead"), around(now + 1e6), past)
    assert found == Verdict(BROKEN, "10 restarts did not help: it ended")


def test_ten_minutes_of_health_forgive() -> None:
    past = restarted(restarted(Past(), T), T)
    for at in range(0, 600, 10):
        _, past = judge(seen(), around(at), past)
        assert past.restarts == 2
    _, past = judge(seen(SILENT, worked=at, tokens=1), around(599), past)  # busy is no gap in health
    _, past = judge(seen(), around(600), past)
    assert past.restarts == 0
    past = restarted(Past(), T)
    for at, answer in ((0, OK), (500, FAILED), (510, OK), (1000, OK)):
        _, past = judge(seen(answer), around(at), past)
    assert past.restarts == 1


ANSWERS = strategies.sampled_from([OK, FULL, FAILED, REFUSED, SILENT, UNASKED])
LOOKS = strategies.builds(
    seen,
    answer=ANSWERS,
    state=strategies.sampled_from(["running", "dead", "stopped", "gone"]),
    pulse=strategies.integers(0, 2),
    worked=strategies.floats(0, 3),
    tokens=strategies.integers(0, 2),
    others=strategies.integers(0, 2),
    gpus=strategies.sampled_from([(), ("GPU-0",), ("GPU-0", "GPU-1")]),
    log=strategies.sampled_from([(), (NVML,)]),
)
STORY = strategies.lists(strategies.tuples(strategies.floats(0.1, 400), LOOKS, strategies.booleans()), max_size=60)


@given(STORY, strategies.booleans())
def test_whatever_is_seen(story: list[tuple[float, Seen, bool]], bus: bool) -> None:
    """No two restarts come closer than the pause, a lost GPU starts nothing, a token is health, pauses are bounded."""
    now, past, last = T, Past(), None
    gpus = (card(0), off_the_bus(1) if bus else card(1))
    for step, look, up in story:
        now += step
        before = past
        verdict, past = judge(look, Around(now, gpus), past)
        assert verdict.state in watch.STATES
        assert (verdict.state == HEALTHY) == (look.answer.kind == OK)
        assert past.restarts in (before.restarts, 0)
        assert 0 <= pause(past.restarts) <= watch.MOST_S
        if bus and "GPU-1" in look.gpus:
            assert verdict.state != RESTART
        if verdict.state == HOLD:
            assert verdict.until is not None and now < verdict.until <= now + watch.MOST_S
        if verdict.state == RESTART:
            assert past.restarts < watch.RESTARTS
            assert last is None or now - last >= pause(past.restarts)
            past, last = restarted(past, now, "" if up else "no file"), now


@given(STORY)
def test_a_verdict_does_not_depend_on_the_clocks_zero(story: list[tuple[float, Seen, bool]]) -> None:
    def told(zero: float) -> list[str]:
        now, past, found = zero, Past(), []
        for step, look, _ in story:
            now += round(step)
            verdict, past = judge(look, Around(now, (card(0), card(1))), past)
            found.append(verdict.state)
        return found

    assert told(T) == told(T + 1e6)


def test_the_worst_part_is_the_whole() -> None:
    assert watch.worst([Verdict(HEALTHY), Verdict(BROKEN, "x"), Verdict(BUSY)]) == Verdict(BROKEN, "x")
