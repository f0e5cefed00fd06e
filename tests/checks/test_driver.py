"""The NVIDIA driver."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployer.checks import audit
from deployer.checks.driver import number
from deployer.host import Driver, Host, KernelLog, Libraries, Modules, PciGpu, Unknown
from deployer.profile import Profile
from deployer.report import Outcome
from tests import hosts
from tests.checks.machines import NOBODY, WSL, card, cards
from tests.checks.rows import CPU, GPU, LOST, NO_GPU, ROOT, RTX, check, system

NO_DRIVER, OLD = hosts.NO_DRIVER, hosts.OLD_DRIVER
BUILT = replace(NO_DRIVER, modules=Modules(("nvme",), built=True))
HELD = replace(NO_DRIVER, modules=Modules(("nouveau",), built=False),
               pci_gpus=(PciGpu("0000:01:00.0", "2882", "nouveau"),))  # fmt: skip
HELD_BUILT = replace(HELD, modules=Modules(("nouveau",), built=True))
OPEN = "sudo apt-get install nvidia-driver-580-open, then reboot"
BY_HAND = "install NVIDIA driver 580 or later and reboot"
WINDOWS = "under WSL the driver is Windows's own"
NOT_LOADED = "driver.loaded says why"


def refused(words: str, host: Host = BUILT) -> Host:
    return replace(host, kernel_log=KernelLog((), words))


def loaded(version: str, *, host: Host = RTX, libraries: str | None = None) -> Host:
    """`host` with this driver, and libraries of the same version unless told otherwise."""
    disk = libraries or version
    return replace(host, driver=Driver(version, True), libraries=Libraries(disk, disk))


def with_tools(host: Host, *tools: str) -> Host:
    return system(host, tools=tools)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "580.65.06 (open)", None),
        (OLD, GPU, "pass", "550.54.14 (proprietary)", None),
        (NO_DRIVER, GPU, "fail", "not installed for kernel 6.8.0", OPEN),
        (replace(NO_DRIVER, system=ROOT), GPU, "fail", "not installed", OPEN.removeprefix("sudo ")),
        (with_tools(NO_DRIVER), GPU, "fail", "not installed", BY_HAND),
        (system(NO_DRIVER, distribution_like="debian"), GPU, "fail", "not installed", BY_HAND),
        (
            with_tools(NO_DRIVER, "apt-get"), GPU, "fail", "not installed",
            "as root: apt-get install nvidia-driver-580-open, then reboot",
        ),
        (HELD, GPU, "fail", "not installed", OPEN),
        (with_tools(BUILT, "sudo", "modprobe"), GPU, "fail", "not loaded",
         f"sudo modprobe nvidia; if that fails: {BY_HAND}"),
        (BUILT, GPU, "fail", "not loaded", OPEN),
        (replace(NO_DRIVER, modules=LOST), GPU, "fail", "not loaded", OPEN),
        (system(BUILT, secure_boot=True), GPU, "fail", "Secure Boot is on",
         "system.secure_boot says how to sign it"),
        (
            refused("requires use of the NVIDIA open kernel modules"), GPU, "fail",
            "requires use of the NVIDIA open kernel modules", OPEN,
        ),
        (
            refused("is not supported by the NVIDIA"), GPU, "fail", "is not supported by",
            "another driver branch or another card; all it says: sudo dmesg | grep NVRM",
        ),
        (refused("Key was rejected by service"), GPU, "skip", "system.secure_boot says why", None),
        (HELD_BUILT, GPU, "skip", "driver.nouveau says how", None),
        (WSL, GPU, "skip", WINDOWS, None),
        (NO_GPU, GPU, "skip", "no GPU that would need it", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
        (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
        (replace(NO_GPU, pci_gpus=LOST), GPU, "unknown", "PCI bus cannot be read", None),
    ],
)  # fmt: skip
def test_loaded(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.loaded", host, wanted, outcome, found, hint)


WRITE = "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' > /etc/modprobe.d/blacklist-nouveau.conf"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "not loaded", None),
        (NO_DRIVER, GPU, "pass", "not loaded", None),
        (
            replace(RTX, modules=Modules(("nouveau", "nvidia"), None)), GPU, "warn",
            "beside NVIDIA's module", f'sudo sh -c "{WRITE}", then reboot',
        ),
        (HELD, GPU, "warn", "packages of NVIDIA's driver take it away",
         f'sudo sh -c "{WRITE}", then reboot'),
        (
            with_tools(HELD_BUILT, "sudo", "update-initramfs"), GPU, "fail", "nouveau has the card",
            f'sudo sh -c "{WRITE}" && sudo update-initramfs -u, then reboot',
        ),
        (
            system(HELD_BUILT, user=0, tools=("dracut",)), GPU, "fail", "nouveau has the card",
            f"{WRITE} && dracut --force, then reboot",
        ),
        (replace(RTX, modules=LOST), GPU, "unknown", "lost", None),
        (replace(HELD, driver=LOST), GPU, "unknown", "lost", None),
        (NO_GPU, GPU, "skip", "no GPU", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_nouveau(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.nouveau", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "580.65.06", None),
        (loaded("580.65.6"), GPU, "pass", "580.65.6", None),
        (loaded("1000.1"), GPU, "pass", "1000.1", None),
        (loaded("580.65.05"), GPU, "fail", "580.65.05", OPEN),
        (OLD, GPU, "fail", "550.54.14", "sudo apt-get install nvidia-driver-580, then reboot"),
        (with_tools(OLD), GPU, "fail", "550.54.14", BY_HAND),
        (loaded("570.133.20", libraries="580.95.05"), GPU, "skip", "driver.libraries", None),
        (loaded("570.133.20", libraries="575.57.08"), GPU, "fail", "570.133.20", OPEN),
        *((loaded(odd), GPU, "unknown", f"`{odd}` is not a number", None)
          for odd in ("", "abc", "580..1", "580.", "9" * 30)),
        (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
        (WSL, GPU, "unknown", "not asked", None),
        (replace(WSL, nvml_driver=LOST), GPU, "unknown", "lost", None),
        (replace(WSL, nvml_driver="581.57"), GPU, "pass", "581.57", None),
        (replace(WSL, nvml_driver="537.13"), GPU, "fail", "537.13, Windows's own",
         "install NVIDIA driver 580 or later in Windows"),
        (NO_DRIVER, GPU, "skip", NOT_LOADED, None),
        (NO_GPU, GPU, "skip", "gpu.count", None),
        (RTX, CPU, "skip", "does not ask for a driver", None),
    ],
)  # fmt: skip
def test_version(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.version", host, wanted, outcome, found, hint)


SILENT = replace(RTX, cuda=hosts.NO_LIBRARY)
OLD_LIBRARY = replace(RTX, cuda="12.8")
ONLY_CUDA = replace(GPU, requirements=replace(GPU.requirements, driver=None))


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "13.0", None),
        (replace(RTX, cuda="13.4"), GPU, "pass", "13.4", None),
        (SILENT, GPU, "pass", "13.0", None),
        (WSL, GPU, "pass", "13.0", None),
        (OLD_LIBRARY, GPU, "fail", "12.8", OPEN),
        (loaded("570.133.20", host=SILENT), ONLY_CUDA, "fail", "12.8", OPEN),
        (replace(WSL, cuda="12.8"), GPU, "fail", "12.8", "CUDA 13.0 needs driver 580.65.06 or later"),
        (
            loaded("390.157", host=SILENT), ONLY_CUDA, "fail", "none: the driver is older than CUDA 11.0",
            OPEN,
        ),
        (loaded("580.65.06", libraries="570.133.20", host=SILENT), GPU, "fail", "12.8",
         OPEN),
        (OLD, GPU, "skip", "driver.version", None),
        (replace(RTX, cuda="abc"), GPU, "unknown", "`abc` is not a number", None),
        (loaded("abc", host=SILENT), GPU, "unknown", "`abc` is not a number", None),
        (replace(SILENT, driver=LOST), GPU, "unknown", "lost", None),
        (replace(WSL, cuda=LOST), GPU, "unknown", WINDOWS, None),
        (NO_DRIVER, GPU, "skip", NOT_LOADED, None),
        (NO_GPU, GPU, "skip", "gpu.count", None),
        (RTX, CPU, "skip", "does not ask for CUDA", None),
    ],
)  # fmt: skip
def test_cuda(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.cuda", host, wanted, outcome, found, hint)


REBOOT = "sudo reboot loads the module of the libraries"
MISMATCH = Unknown("NVML: RM has detected an NVML/RM version mismatch.")


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "580.65.06", None),
        (replace(RTX, libraries=Libraries("580.65.06", None)), GPU, "pass", "580.65.06", None),
        (
            replace(RTX, libraries=Libraries(None, "580.65.06")), GPU, "warn",
            "libcuda.so.1 is in no usual folder", "sudo apt-get install libnvidia-compute-580",
        ),
        (
            replace(NOBODY, libraries=Libraries(None, None)), GPU, "warn", "in no usual folder",
            "install the CUDA libraries of driver 580.65.06",
        ),
        (loaded("570.133.20", libraries="570.153.02"), GPU, "fail",
         "module 570.133.20, libraries 570.153.02", REBOOT),
        (replace(RTX, gpus=MISMATCH), GPU, "fail", "libraries of another version", REBOOT),
        (replace(RTX, gpus=MISMATCH, libraries=LOST), GPU, "fail", "version mismatch", "sudo reboot"),
        (replace(RTX, libraries=Libraries("1.1", None)), GPU, "pass", "580.65.06", None),
        (replace(RTX, libraries=LOST), GPU, "unknown", "lost", None),
        (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
        (WSL, GPU, "skip", WINDOWS, None),
        (NO_DRIVER, GPU, "skip", NOT_LOADED, None),
        (NO_GPU, GPU, "skip", "there is no GPU", None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_libraries(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.libraries", host, wanted, outcome, found, hint)


PROPRIETARY = replace(RTX, driver=Driver("580.65.06", False))
WANTS_OPEN = "requires use of the NVIDIA open kernel modules"


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "open", None),
        (PROPRIETARY, GPU, "pass", "proprietary", None),
        (card(compute_capability="12.0"), GPU, "pass", "open", None),
        (card(compute_capability="99.0"), GPU, "pass", "open", None),
        (card(PROPRIETARY, compute_capability="12.0"), GPU, "warn", "12.0 needs the open one", OPEN),
        (card(compute_capability="6.1"), GPU, "warn", "6.1 needs the proprietary one",
         OPEN.replace("-open", "")),
        (refused(WANTS_OPEN, PROPRIETARY), GPU, "warn", WANTS_OPEN, OPEN),
        (refused(WANTS_OPEN, replace(PROPRIETARY, gpus=())), GPU, "fail", WANTS_OPEN, OPEN),
        (card(compute_capability=LOST), GPU, "unknown", "lost", None),
        (card(compute_capability="abc"), GPU, "unknown", "`abc`", None),
        (replace(RTX, gpus=LOST), GPU, "unknown", "lost", None),
        (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
        (replace(RTX, gpus=()), GPU, "skip", "no GPU is shown", None),
        (NO_DRIVER, GPU, "skip", NOT_LOADED, None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_kind(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.kind", host, wanted, outcome, found, hint)


@pytest.mark.parametrize(
    ("host", "wanted", "outcome", "found", "hint"),
    [
        (RTX, GPU, "pass", "branch 580, until 2028-06", None),
        (loaded("471.11"), GPU, "pass", "no end of life is published", None),
        (replace(loaded("535.54.03"), taken="2026-06-30T00:00:00Z"), GPU, "pass", "until 2026-06", None),
        (
            replace(loaded("535.54.03"), taken="2026-07-01T00:00:00Z"), GPU, "warn",
            "branch 535 ended in 2026-06", OPEN,
        ),
        (loaded("abc"), GPU, "unknown", "`abc`", None),
        (replace(RTX, driver=LOST), GPU, "unknown", "lost", None),
        (NO_DRIVER, GPU, "skip", NOT_LOADED, None),
        (RTX, CPU, "skip", "does not ask for a GPU", None),
    ],
)  # fmt: skip
def test_supported(host: Host, wanted: Profile, outcome: str, found: str, hint: str | None) -> None:
    check("driver.supported", host, wanted, outcome, found, hint)


def failures(host: Host) -> set[str]:
    return {f.id for f in audit(host, GPU).findings if f.outcome is Outcome.FAIL}


def test_pain_15_libraries_that_are_newer_than_the_module_are_one_failure_with_one_cure() -> None:
    host = replace(loaded("570.133.20", libraries="580.95.05"), gpus=MISMATCH, cuda=MISMATCH, cdi=())
    assert failures(host) == {"driver.libraries"}


def test_pain_15_a_missing_module_is_told_with_its_reason_and_only_once() -> None:
    assert failures(NO_DRIVER) == {"gpu.count", "driver.loaded"}
    assert failures(HELD) == {"gpu.count", "driver.loaded"}
    assert failures(HELD_BUILT) == {"gpu.count", "driver.nouveau"}
    assert failures(refused("Key was rejected by service")) == {"gpu.count", "system.secure_boot"}


def test_pain_12_a_driver_that_is_too_old_is_one_failure() -> None:
    assert failures(OLD) == {"driver.version"}
    assert failures(replace(cards(), driver=None)) == {"gpu.count"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("28.3.0", "28.3.0"), ("28.3.0-rc.1+azure", "28.3.0"), ("5:28.3.0-1~ubuntu.24.04~noble", "28.3.0"),
        ("1.18.0~rc.1-1", "1.18.0"), ("20.10.24+dfsg1", "20.10.24"), ("", None), ("v28", None),
        ("580..1", None), ("1.2.", None), ("٣.٤", None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_the_number_in_a_version(text: str, found: str | None) -> None:
    assert number(text) == found or (found is None and isinstance(number(text), Unknown))
