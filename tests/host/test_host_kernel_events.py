"""What the kernel and systemd said, with the hour, from wherever it may be read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from deployer.host import Questions, Unknown
from deployer.host.kernel import Event, Reload, events, reloads, run
from tests.host.conftest import put

XID_79 = "NVRM: Xid (PCI:0000:ca:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
XID_31 = "NVRM: Xid (PCI:0000:01:00): 31, pid=77, name=python3, Ch 00000008, intr 10000000. MMU Fault"
LOST = "pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
RELOADS = (
    "Reloading.",  # systemd 249
    "Reloading requested from client PID 3862727 ('systemctl') (unit opencode.service)...",  # 255
    "Reload requested from client PID 1287 ('systemctl') (unit snapperd.service)...",  # 257
)


class Programs:
    """Programs that are told what they say; those of which nothing is told are not there."""

    def __init__(self, **said: str) -> None:
        self.said, self.asked = said, list[list[str]]()

    def __call__(self, words: list[str]) -> str:
        self.asked.append(words)
        if words[0] not in self.said:
            raise FileNotFoundError(f"no {words[0]}")
        return self.said[words[0]]


def journal(*entries: tuple[float, object]) -> str:
    lines = (json.dumps({"__REALTIME_TIMESTAMP": str(int(at * 1e6)), "MESSAGE": text}) for at, text in entries)
    return "\n".join(lines) + "\n"


def test_the_kernels_records_come_with_the_hour(ask: Questions) -> None:
    now, uptime = time.time(), time.clock_gettime(time.CLOCK_MONOTONIC)
    ago = int((uptime - 60) * 1e6)
    put(ask.dev / "kmsg", f"4,1,{ago - 10**9},-;{XID_31}\n4,2,{ago},-;{XID_79}\n")
    programs = Programs()
    found = events(ask, now - 100, programs)
    assert isinstance(found, tuple)
    assert [(one.gpu, one.code, one.text) for one in found] == [("0000:ca:00.0", 79, LOST)]
    assert found[0].at == pytest.approx(now - 60, abs=1)
    assert programs.asked == []


def test_who_may_not_read_them_asks_the_journal(ask: Questions) -> None:
    said = journal((1e9, XID_79), (1e9 + 5, "usb 1-1: new device"), (1e9 + 9, list(XID_31.encode())))
    programs = Programs(journalctl=said)
    assert events(ask, 1e9, programs) == (
        Event(1e9, "0000:ca:00.0", 79, LOST),
        Event(1e9 + 9, "0000:01:00.0", 31, "pid=77, name=python3, Ch 00000008, intr 10000000. MMU Fault"),
    )
    assert programs.asked[0][:2] == ["journalctl", "-k"]
    assert "--since=@1000000000" in programs.asked[0]


def test_without_a_journal_dmesg_is_asked(ask: Questions) -> None:
    said = (
        f"2026-11-22T20:58:14,671702+00:00 {XID_79}\n that goes on\n"
        f"2026-11-22T21:58:15,000000+01:00 {XID_31}\n2026-11-22T20:00:00,000000+00:00 {XID_31}\n"
    )
    found = events(ask, 1795381094.0, Programs(dmesg=said, journalctl=""))
    assert isinstance(found, tuple)
    assert [(one.at, one.code) for one in found] == [(1795381094.671702, 79), (1795381095.0, 31)]


def test_a_log_that_nothing_may_read_is_unknown_with_every_reason(ask: Questions) -> None:
    found = events(ask, 0, Programs(journalctl=""))
    assert isinstance(found, Unknown)
    assert found.reason == (
        "this user may not read the kernel's log (No such file or directory); "
        "the journal shows this user nothing; no dmesg"
    )


def test_a_quiet_kernel_is_not_an_unknown_one(ask: Questions) -> None:
    put(ask.dev / "kmsg", "6,1,5019000,-;usb 1-1: new high-speed USB device\n")
    assert events(ask, 0, Programs()) == ()


@pytest.mark.parametrize("text", RELOADS)
def test_a_reload_of_systemd_in_the_words_of_its_versions(text: str) -> None:
    said = journal((1e9, "Started ssh.service."), (1e9 + 1, text), (1e9 + 2, "Reloading finished in 651 ms."))
    assert reloads(0, Programs(journalctl=said)) == (Reload(1e9 + 1, text),)


def test_a_service_that_reloads_is_no_reload_of_systemd() -> None:
    said = journal((1e9, "Reloading nginx.service - A high performance web server..."), (1e9, "Reloaded nginx.service"))
    assert reloads(0, Programs(journalctl=said)) == ()


def test_without_systemd_nobody_knows() -> None:
    assert reloads(0, Programs()) == Unknown("no journalctl")
    assert reloads(0, Programs(journalctl="")) == Unknown("the journal shows this user nothing")
    assert isinstance(reloads(0, Programs(journalctl='{"half')), Unknown)


def test_programs_are_asked_with_a_reason_when_they_fail(tmp_path: Path) -> None:
    assert run(["echo", "yes"]) == "yes\n"
    with pytest.raises(OSError, match="sh: it is broken"):
        run(["sh", "-c", "echo it is broken >&2; exit 3"])
    with pytest.raises(OSError, match="No such file"):
        run([str(tmp_path / "none")])
