"""The file systems on which things land."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.host import Disk, Questions
from deployer.host.disk import disk
from tests.host.conftest import as_nobody, put


def test_a_disk_that_will_hold_a_folder_is_that_of_its_nearest_parent(ask: Questions, machine: Path) -> None:
    stat, about = os.statvfs(machine), machine.stat()
    found = disk(ask.models, ask)
    assert 0 <= found.free <= found.size
    assert found == Disk(
        path=str(machine),
        filesystem="overlay",
        size=stat.f_blocks * stat.f_frsize,
        free=found.free,
        rotating=None,
        writable=True,
        inodes=stat.f_files or None,
        free_inodes=found.free_inodes,
        volume=f"{os.major(about.st_dev)}:{os.minor(about.st_dev)}",
        owner=os.geteuid(),
        read_only=False,
    )
    if found.inodes:
        assert isinstance(found.free_inodes, int)
        assert 0 < found.free_inodes <= found.inodes  # type: ignore[operator]


def test_folders_of_one_file_system_have_one_volume(ask: Questions, machine: Path) -> None:
    assert disk(machine / "a/b", ask).volume == disk(machine / "proc", ask).volume
    assert disk(Path("/proc"), ask).volume != disk(machine, ask).volume


def test_a_file_system_that_does_not_count_files(ask: Questions) -> None:
    found = disk(Path("/proc/self"), replace(ask, root=Path("/")))
    assert found.filesystem == "proc"
    assert (found.inodes, found.free_inodes, found.size) == (None, None, 0)


def test_a_read_only_file_system_is_seen(ask: Questions) -> None:
    mounts = [line.split(" ") for line in Path("/proc/self/mounts").read_text().splitlines()]
    places = [Path(m[1]) for m in mounts if "ro" in m[3].split(",") and Path(m[1]).is_dir()]
    if not places:
        pytest.skip("everything may be written here")
    assert disk(places[-1], ask).read_only is True


OWNED = """
from deployer.host.disk import disk
found = disk(Path(sys.argv[1]) / "models", Questions(Path("/"), Path("/")))
print(found.owner, found.writable)
"""


def test_a_folder_of_another_user_is_not_writable(open_folder: Path) -> None:
    (open_folder / "srv").mkdir(mode=0o555)
    assert as_nobody(OWNED, open_folder / "srv") == f"{os.geteuid()} False"


@pytest.mark.parametrize(
    ("mounts", "filesystem"),
    [
        pytest.param("/dev/a / ext4 rw 0 0\n", "ext4", id="root"),
        pytest.param("/dev/a / ext4 rw 0 0\n/dev/b {here} xfs rw 0 0\n", "xfs", id="deepest"),
        pytest.param("/dev/b {here} xfs rw 0 0\n/dev/a / ext4 rw 0 0\n", "xfs", id="deepest first"),
        pytest.param("/dev/b {here} xfs rw 0 0\n/dev/c {here} btrfs rw 0 0\n", "btrfs", id="hidden"),
        pytest.param("/dev/a / ext4 rw 0 0\n/dev/b {here}x xfs rw 0 0\n", "ext4", id="a longer name"),
        pytest.param(
            "/dev/a / ext4 rw 0 0\n/dev/b {here}/my\\040models xfs rw 0 0\n", "xfs", id="with a space"
        ),
        pytest.param("", "unknown", id="nothing"),
    ],
)
def test_the_file_system_is_that_of_the_mount(
    mounts: str, filesystem: str, ask: Questions, machine: Path
) -> None:
    folder = machine / "my models"
    folder.mkdir()
    put(ask.proc / "self/mounts", mounts.replace("{here}", str(machine)))
    assert disk(folder, ask).filesystem == filesystem


@pytest.mark.parametrize(("text", "rotating"), [("1\n", True), ("0\n", False)], ids=["rotating", "ssd"])
@pytest.mark.parametrize("partition", [False, True], ids=["whole disk", "partition"])
def test_rotating(text: str, rotating: bool, partition: bool, ask: Questions, machine: Path) -> None:
    device = machine.stat().st_dev
    whole = machine / "sys/devices/disk"
    place = whole / "disk1" if partition else whole
    place.mkdir(parents=True)
    put(whole / "queue/rotational", text)
    link = machine / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(place)
    assert disk(machine, ask).rotating is rotating


def test_a_virtual_disk_says_nothing_of_what_is_under_it(ask: Questions, machine: Path) -> None:
    device = machine.stat().st_dev
    whole = machine / "sys/devices/pci0000:00/0000:00:04.0/virtio2/block/vda"
    put(whole / "queue/rotational", "1\n")
    link = machine / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(whole)
    assert disk(machine, ask).rotating is None
