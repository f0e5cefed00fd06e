"""What the kernel's log says of the driver."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deployer import host
from deployer.host import KernelLog, Questions, Unknown, Xid
from deployer.host.driver import kernel_log
from tests.host.conftest import as_nobody, put

KMSG = """\
5,0,0,-;Linux version 6.8.0-60-generic (buildd@lcy02) (gcc) #63-Ubuntu SMP
6,1019,5019000,-;NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build
 SUBSYSTEM=pci
 DEVICE=+pci:0000:01:00.0
4,1020,862123456,-;NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
4,1021,900000000,-;NVRM: Xid (PCI:0000:C1:00.1): 31, pid=77, name=python3, Ch 00000008
4,1022,900000001,-;NVRM: Xid (0001:81:00): 48
6,1023,900000002,-;usb 1-1: a device says Xid (PCI:0000:02:00): 13
"""
XIDS = (
    Xid("0000:01:00.0", 79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", 862.123456),
    Xid("0000:c1:00.1", 31, "pid=77, name=python3, Ch 00000008", 900.0),
    Xid("0001:81:00.0", 48, "", 900.000001),
)


def test_errors_of_the_driver_in_the_records_of_the_kernel(ask: Questions) -> None:
    put(ask.dev / "kmsg", KMSG)
    assert kernel_log(ask) == KernelLog(XIDS, None)


def test_a_kernel_that_said_nothing_of_the_driver(ask: Questions) -> None:
    put(ask.dev / "kmsg", "6,1,5019000,-;usb 1-1: new high-speed USB device\n")
    assert kernel_log(ask) == KernelLog((), None)


def test_a_long_error_is_cut(ask: Questions) -> None:
    put(ask.dev / "kmsg", f"4,1,1,-;NVRM: Xid (PCI:0000:01:00): 13, {'x' * 1000}\n")
    assert [len(xid.text) for xid in kernel_log(ask).xids] == [200]


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        pytest.param(
            "Loading of unsigned module is rejected", "Loading of unsigned module is rejected", id="unsigned"
        ),
        pytest.param(
            "systemd-modules-load[301]: Failed to insert module 'nvidia': Key was rejected by service",
            "Key was rejected by service",
            id="key rejected",
        ),
        pytest.param(
            "Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7",
            "Lockdown: modprobe: unsigned module loading is restricted",
            id="lockdown",
        ),
        pytest.param(
            "NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c31)\\x0aNVRM: installed in this system requires "
            "use of the NVIDIA open kernel modules.",
            "requires use of the NVIDIA open kernel modules",
            id="open needed",
        ),
        pytest.param(
            "NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:1bb1)\\x0aNVRM: installed in this system is not "
            "supported by open\\x0aNVRM: nvidia.ko because it does not include the required GPU\\x0a",
            "installed in this system is not supported",
            id="too old for the open one",
        ),
        pytest.param(
            "NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:139b)\\x0aNVRM: installed in this system is not "
            "supported by the 370.28\\x0aNVRM: NVIDIA Linux driver release.  Please see 'Appendix\\x0a",
            "installed in this system is not supported",
            id="too old",
        ),
        pytest.param("module vboxdrv: Key was rejected by service", None, id="another module"),
        pytest.param("NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.14", None, id="loaded"),
    ],
)
def test_why_the_kernel_refused_the_module(text: str, refused: str | None, ask: Questions) -> None:
    put(ask.dev / "kmsg", f"4,1,1000000,-;{text}\n6,2,2000000,-;usb 1-1: new device\n")
    assert kernel_log(ask).refused == refused


def test_without_records_the_file_of_the_log_counts(ask: Questions) -> None:
    put(
        ask.root / "var/log/kern.log",
        "2026-01-01T00:00:09+00:00 box kernel: [  862.12] NVRM: Xid (PCI:0000:01:00): 79, pid=7, gone\n"
        "2026-01-01T00:00:10+00:00 box kernel: [  863.12] NVRM: installed in this system is not supported by\n",
    )
    found = kernel_log(ask)
    assert found.xids == (Xid("0000:01:00.0", 79, "pid=7, gone", None),)
    assert found.refused == "installed in this system is not supported"


def test_errors_before_the_last_boot_do_not_count(ask: Questions) -> None:
    line = "Jan  1 00:00:0{} box kernel: [   {}.000000] {}\n"
    put(
        ask.root / "var/log/kern.log",
        line.format(1, 0, "Linux version 6.8.0-59-generic (buildd@lcy02)")
        + line.format(2, 9, "NVRM: Xid (PCI:0000:01:00): 79, old")
        + line.format(3, 0, "Linux version 6.8.0-60-generic (buildd@lcy02)")
        + line.format(4, 9, "NVRM: Xid (PCI:0000:01:00): 63, new"),
    )
    assert [xid.code for xid in kernel_log(ask).xids] == [63]


def test_of_a_long_file_the_end_counts(ask: Questions) -> None:
    noise = "Jan  1 00:00:00 box kernel: [    1.000000] usb 1-1: new high-speed USB device\n" * 20_000
    put(
        ask.root / "var/log/kern.log",
        f"NVRM: Xid (PCI:0000:01:00): 79, old\n{noise}NVRM: Xid (PCI:0000:01:00): 63, new\n",
    )
    assert [xid.code for xid in kernel_log(ask).xids] == [63]


def test_a_machine_without_a_log_is_unknown(ask: Questions) -> None:
    found = host.probe(ask).kernel_log
    assert isinstance(found, Unknown)
    assert found.reason.startswith("this user may not read the kernel's log")


def test_a_log_that_nobody_may_read_is_unknown(ask: Questions) -> None:
    put(ask.dev / "kmsg", KMSG, 0)
    put(ask.root / "var/log/kern.log", KMSG, 0)
    code = "print(probe(Questions(Path('/'), Path('/'), root=Path(sys.argv[1]))).kernel_log.reason)"
    said = as_nobody(code, ask.root)
    assert said == "this user may not read the kernel's log (Permission denied)"


def test_the_log_of_this_machine_is_read_without_waiting(ask: Questions) -> None:
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        pytest.skip(f"/dev/kmsg: {error.strerror}")
    begin = time.monotonic()
    found = kernel_log(replace(ask, root=Path("/")))
    assert time.monotonic() - begin < 2
    assert isinstance(found, KernelLog)
    assert all(xid.at is not None and xid.code > 0 for xid in found.xids)
