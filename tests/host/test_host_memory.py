"""Memory, bounded by control groups."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer import host
from deployer.host import Memory, Questions
from deployer.host.memory import memory
from tests.host.conftest import FILES, put

MIB, GIB = 2**20, 2**30
ALL, FREE = 16_384_000_000, 12_288_000_000
V2 = {"limit": "memory.max", "used": "memory.current", "cache": "inactive_file"}
V1 = {"limit": "memory.limit_in_bytes", "used": "memory.usage_in_bytes", "cache": "total_inactive_file"}


def group(folder: Path, kind: dict[str, str], limit: int | str, used: int = 0, cache: int = 0) -> None:
    """A control group as the kernel shows it, with page cache of which `cache` bytes can go."""
    put(folder / kind["limit"], f"{limit}\n")
    put(folder / kind["used"], f"{used}\n")
    put(folder / "memory.stat", f"anon 77\n{kind['cache']} {cache}\nactive_file 5\n")


def test_every_field_of_a_machine_without_limits(ask: Questions) -> None:
    put(ask.proc / "sys/vm/overcommit_memory", "2\n")
    put(ask.proc / "sys/vm/max_map_count", "1048576\n")
    (ask.dev / "shm").mkdir(parents=True)
    shared = os.statvfs(ask.dev / "shm")
    assert memory(ask) == Memory(
        total=ALL,
        available=FREE,
        machine=ALL,
        limit=None,
        swap=2_048_000_000,
        free_swap=1_536_000_000,
        shared=shared.f_blocks * shared.f_frsize,
        overcommit=2,
        maps=1048576,
    )


def test_what_the_kernel_does_not_show_is_none(ask: Questions) -> None:
    put(ask.proc / "meminfo", "MemTotal: 1000 kB\nMemAvailable: 500 kB\n")
    found = memory(ask)
    assert (found.swap, found.free_swap) == (0, 0)
    assert (found.shared, found.overcommit, found.maps) == (None, None, None)


@pytest.mark.parametrize(
    ("path", "limit", "total", "available", "found"),
    [
        pytest.param("memory.max", "max\n", ALL, FREE, None, id="v2 max"),
        pytest.param("memory.max", f"{GIB}\n", GIB, GIB, GIB, id="v2"),
        pytest.param("memory.max", "14000000000\n", 14 * 10**9, FREE, 14 * 10**9, id="v2 above available"),
        pytest.param("memory.max", "17000000000\n", ALL, FREE, None, id="v2 above the machine"),
        pytest.param("memory.max", "nonsense\n", ALL, FREE, None, id="v2 nonsense"),
        pytest.param("memory/memory.limit_in_bytes", f"{GIB}\n", GIB, GIB, GIB, id="v1"),
        pytest.param("memory/memory.limit_in_bytes", "9223372036854771712\n", ALL, FREE, None, id="v1 none"),
    ],
)
def test_a_limit_on_the_outermost_group(
    path: str, limit: str, total: int, available: int, found: int | None, ask: Questions
) -> None:
    put(ask.sys / "fs/cgroup" / path, limit)
    said = memory(ask)
    assert (said.total, said.available, said.limit, said.machine) == (total, available, found, ALL)


@pytest.mark.parametrize(
    ("groups", "folder", "kind"),
    [
        pytest.param("0::/user.slice/app.service\n", "user.slice/app.service", V2, id="v2"),
        pytest.param("4:memory:/docker/abc\n0::/\n", "memory/docker/abc", V1, id="v1"),
        pytest.param("7:cpu,memory:/docker/abc\n", "memory/docker/abc", V1, id="v1 with another controller"),
    ],
)
def test_a_nested_group_counts_without_the_cache_that_can_go(
    groups: str, folder: str, kind: dict[str, str], ask: Questions
) -> None:
    put(ask.proc / "self/cgroup", groups)
    group(ask.sys / "fs/cgroup" / folder, kind, GIB, used=800 * MIB, cache=300 * MIB)
    found = memory(ask)
    assert (found.total, found.limit) == (GIB, GIB)
    assert found.available == GIB - 500 * MIB


@pytest.mark.parametrize("tighter", ["inner", "outer"])
def test_the_tightest_of_nested_groups_counts(tighter: str, ask: Questions) -> None:
    put(ask.proc / "self/cgroup", "0::/outer/inner\n")
    limits = {"outer": 4 * GIB, "inner": 4 * GIB, tighter: GIB}
    group(ask.sys / "fs/cgroup/outer", V2, limits["outer"], used=900 * MIB)
    group(ask.sys / "fs/cgroup/outer/inner", V2, limits["inner"], used=100 * MIB)
    found = memory(ask)
    assert found.limit == GIB
    assert found.available == GIB - (900 * MIB if tighter == "outer" else 100 * MIB)


def test_groups_of_other_processes_and_other_controllers_do_not_count(ask: Questions) -> None:
    put(ask.proc / "self/cgroup", "1:cpu:/other\n2:name=systemd:/third\nnonsense\n")
    for folder in ("memory/other", "memory/third", "memory/nobody", "other"):
        group(ask.sys / "fs/cgroup" / folder, V1 if "memory" in folder else V2, MIB)
    assert memory(ask).limit is None


def test_a_group_over_its_limit_leaves_nothing(ask: Questions) -> None:
    group(ask.sys / "fs/cgroup", V2, GIB, used=GIB + MIB)
    assert memory(ask).available == 0


def test_more_cache_than_use_is_no_use(ask: Questions) -> None:
    group(ask.sys / "fs/cgroup", V2, GIB, used=MIB, cache=2 * MIB)
    assert memory(ask).available == GIB


def test_a_group_without_readable_use_is_taken_as_unused(ask: Questions) -> None:
    group(ask.sys / "fs/cgroup", V2, GIB, used=MIB)
    put(ask.sys / "fs/cgroup/memory.stat", "one two three\n")
    (ask.sys / "fs/cgroup/memory.current").unlink()
    assert memory(ask).available == GIB


SIZES = st.integers(0, 2 * ALL)


@given(SIZES, SIZES, SIZES, SIZES)
def test_no_limit_makes_less_than_nothing_available(
    tmp_path_factory: pytest.TempPathFactory, limit: int, used: int, cache: int, outer: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "limited"
    put(root / "proc/meminfo", FILES["proc/meminfo"])
    put(root / "proc/self/cgroup", "0::/one\n")
    group(root / "sys/fs/cgroup/one", V2, limit, used, cache)
    group(root / "sys/fs/cgroup", V2, outer, used, cache)
    found = memory(Questions(root, root, root=root))
    assert 0 <= found.available <= found.total <= found.machine == ALL  # type: ignore[operator]
    assert found.total == min(ALL, limit, outer)


def test_the_memory_of_the_machine_that_runs_this(ask: Questions) -> None:
    found = memory(replace(ask, root=Path("/")))
    assert 0 < found.available <= found.total
    assert isinstance(found.machine, int)
    assert found.total <= found.machine
    assert found.machine == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_memory_bandwidth_is_measured(threads: int) -> None:
    assert 1e8 < host.bandwidth(threads) < 1e12
