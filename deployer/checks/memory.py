"""System memory: how much there is, who bounds it, and the kernel's settings for it."""

from __future__ import annotations

from deployer.checks.base import (
    NOMINAL,
    NOT_ASKED,
    Check,
    has,
    headers_of,
    multi,
    need_of,
    sudo,
    uses_containers,
    wants_gpu,
)
from deployer.host import ContainerRuntime, Fact, Host, Unknown
from deployer.profile import Profile
from deployer.quantity import format_size
from deployer.report import Finding, failed, passed, skipped, unknown, warned
from deployer.sizing import wanted as wanted_of
from deployer.sizing.memory import shared_memory

_LOCKED = 64 << 20
_MAPS = 65530  # the kernel's own default
_SMALLER = "choose a smaller profile: deployer profiles list"
_ONE_GPU = "the profile does not ask for several GPUs"
_NO_SIZE = "the profile does not say how large the model is"


def _total(host: Host, profile: Profile) -> Finding:
    """The machine has as much memory as the profile asks for.

    Why: what does not fit is killed by the kernel, or swapped until nothing answers.
    Pass: it has at least nine tenths of it: the firmware keeps some back.
    Warn: never.
    Fail: it has less, or a control group bounds this process to less.
    Skip: the profile does not ask for a size, or it could not be asked.
    Fix: choose a smaller profile, or raise the limit that memory.limit names.
    """
    need = profile.requirements.memory
    if need is None:
        return skipped("the profile does not ask for a size")
    wanted = format_size(need)
    if isinstance(host.memory, Unknown):
        return unknown(wanted, host.memory.reason)
    found = format_size(host.memory.total)
    if host.memory.total >= NOMINAL * need:
        return passed(wanted, found)
    return failed(wanted, found, _SMALLER)


def _available(host: Host, profile: Profile) -> Finding:
    """The model fits into the memory that is available now, served as the profile says.

    Why: an engine that finds no memory is killed while it loads, or at the first long prompt. What it takes is
        computed from the model's headers or its shapes, as `deployer fit` does; where neither is known, weights and
        program alone count.
    Pass: it fits.
    Warn: it would fit if other programs ended.
    Fail: it is larger than all the memory there is.
    Skip: all of it goes to GPUs, the profile does not say how large the model is, or it could not be asked.
    Fix: end other programs, lower serving.context or serving.concurrency, or choose a smaller profile.
    """
    sized = need_of(host, profile)
    if sized is None:
        return skipped("the model goes to the GPU" if wants_gpu(profile) else _NO_SIZE)
    need = sized.host_total if wants_gpu(profile) else sized.total
    if not need:
        return skipped("the model goes to the GPU")
    wanted = f"{format_size(need)} beside the GPU" if wants_gpu(profile) else str(sized)
    if isinstance(host.memory, Unknown):
        return unknown(wanted, host.memory.reason)
    found = f"{format_size(host.memory.available)} available"
    if host.memory.available >= need:
        return passed(wanted, found)
    if host.memory.total >= need:
        return warned(wanted, found, _end_others(host))
    return failed(wanted, found, _SMALLER)


def _limit(host: Host, profile: Profile) -> Finding:
    """No control group gives this process less than the machine's memory.

    Why: the machine shows its whole memory, and the engine is killed at the limit. Containers of a
        system-wide engine are not bound by the limit of this process.
    Pass: no limit, or none below the machine's memory.
    Warn: there is a lower one.
    Fail: the model does not fit under it, served as the profile says, and the engine would run under it.
    Skip: it could not be asked.
    Fix: raise MemoryMax of the service, the container's --memory, or what the job scheduler was asked for.
    """
    wanted = "the whole of the machine's memory"
    if isinstance(host.memory, Unknown):
        return unknown(wanted, host.memory.reason)
    limit, machine = host.memory.limit, host.memory.machine
    if isinstance(limit, Unknown):
        return unknown(wanted, limit.reason)
    if limit is None:
        return passed(wanted, "no limit")
    of = "" if isinstance(machine, Unknown) else f" of {format_size(machine)}"
    found = f"this process may use {format_size(limit)}{of}"
    hint = (
        "raise MemoryMax of the service, --memory of the container, or what the job scheduler was asked for"
    )
    if not _bound(host, profile):
        return warned(wanted, f"{found}; the engine's containers are not bound by that", hint)
    sized = need_of(host, profile)
    if sized and not wants_gpu(profile) and sized.total > limit:
        return failed(wanted, f"{found}; the model needs {sized}", hint)
    return warned(wanted, found, hint)


def _swap(host: Host, profile: Profile) -> Finding:
    """Swap is not used up.

    Why: a machine with full swap has run out of memory before; the next large program gets others killed.
    Pass: a tenth of it or more is free, or there is none.
    Warn: less is free.
    Fail: never.
    Skip: it could not be asked.
    Fix: end other programs, or add memory.
    """
    wanted = "a tenth of the swap free"
    if isinstance(host.memory, Unknown):
        return unknown(wanted, host.memory.reason)
    size, free = host.memory.swap, host.memory.free_swap
    if isinstance(size, Unknown):
        return unknown(wanted, size.reason)
    if size == 0:
        return passed(wanted, "there is no swap")
    if isinstance(free, Unknown):
        return unknown(wanted, free.reason)
    found = f"{format_size(free)} of {format_size(size)} free"
    return passed(wanted, found) if 10 * free >= size else warned(wanted, found, _end_others(host))


def _shared(host: Host, profile: Profile) -> Finding:
    """Programs that use several GPUs find shared memory: 512 MiB for each GPU.

    Why: where GPUs cannot write to each other, NCCL passes the data through /dev/shm, and its error names
        neither that folder nor a size.
    Pass: /dev/shm has 512 MiB or more for each GPU.
    Warn: it is smaller, or missing.
    Fail: never.
    Skip: one GPU is enough, containers are used (deployer gives them as much, whatever the machine has), or it
        could not be asked.
    Fix: mount -o remount,size=1024M /dev/shm.
    """
    if not multi(profile):
        return skipped(_ONE_GPU)
    if uses_containers(host, profile):
        return skipped("deployer gives the engine's container its own")
    assert profile.requirements.gpu is not None, "several are wanted"
    enough = shared_memory(profile.requirements.gpu.count)
    wanted, mount = f"{enough / 2**30:g} GiB in /dev/shm", f"size={enough >> 20}M"
    if isinstance(host.memory, Unknown):
        return unknown(wanted, host.memory.reason)
    size = host.memory.shared
    if isinstance(size, Unknown):
        return unknown(wanted, size.reason)
    if size is None:
        return warned(wanted, "there is no /dev/shm", sudo(host, f"mount -t tmpfs -o {mount} shm /dev/shm"))
    if size >= enough:
        return passed(wanted, format_size(size))
    return warned(wanted, format_size(size), sudo(host, f"mount -o remount,{mount} /dev/shm"))


def _locked(host: Host, profile: Profile) -> Finding:
    """Programs that use several GPUs may lock memory.

    Why: buffers that network and storage cards read directly are locked, and NCCL fails where it may not.
    Pass: there is no limit, or one of 64 MiB or more.
    Warn: it is lower.
    Fail: never.
    Skip: one GPU is enough, containers are used (deployer lifts the limit for them), or it could not be asked.
    Fix: ulimit -l unlimited, or LimitMEMLOCK=infinity in the service that starts `deployer`.
    """
    if not multi(profile):
        return skipped(_ONE_GPU)
    if uses_containers(host, profile):
        return skipped("deployer lifts the limit for the engine's container")
    wanted = f"{format_size(_LOCKED)} that may be locked"
    if isinstance(host.system, Unknown):
        return unknown(wanted, host.system.reason)
    if "locked_memory" not in host.system.limits:
        return unknown(wanted, "the limits of this process were not read")
    limit = host.system.limits["locked_memory"]
    if limit is None or limit >= _LOCKED:
        return passed(wanted, "no limit" if limit is None else format_size(limit))
    return warned(
        wanted,
        f"at most {format_size(limit)}",
        "LimitMEMLOCK=infinity in the service that starts deployer, or in its shell: ulimit -l unlimited",
    )


def _overcommit(host: Host, profile: Profile) -> Finding:
    """The kernel lets programs reserve more memory than there is.

    Why: CUDA reserves address space for all memory of the machine and its GPUs; under strict accounting that
        fails with "out of memory" on an idle machine.
    Pass: vm.overcommit_memory is 0 or 1.
    Warn: it is 2.
    Fail: never.
    Skip: the profile wants no GPU, the kernel does not say, or it could not be asked.
    Fix: set vm.overcommit_memory to 0.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    wanted = "vm.overcommit_memory 0 or 1"
    mode = _of(host, "overcommit")
    if isinstance(mode, Unknown):
        return unknown(wanted, mode.reason)
    if mode is None:
        return skipped("this kernel does not say")
    if mode != 2:
        return passed(wanted, str(mode))
    return warned(wanted, "2: strict accounting", _set(host, "overcommit_memory", 0))


def _loading(host: Host, profile: Profile) -> Finding:
    """The weights fit into the system's memory on their way to the GPU.

    Why: they are read through the page cache; where they do not fit, loading goes at the speed of the disk
        every time, and conversions on the way may be killed.
    Pass: they fit.
    Warn: they are larger than the memory.
    Fail: never.
    Skip: the profile wants no GPU or does not say how large the model is, or it could not be asked.
    Fix: add memory, or choose a smaller profile.
    """
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    headers = wanted_of.described(profile, headers_of(host, profile))
    weights = profile.model.size or (headers.weights if headers else 0)
    if not weights:
        return skipped(_NO_SIZE)
    wanted = f"{format_size(weights)} of memory for the weights to pass through"
    if isinstance(host.memory, Unknown):
        return unknown(wanted, host.memory.reason)
    size = host.memory.total
    if not _bound(host, profile) and not isinstance(host.memory.machine, Unknown):
        size = host.memory.machine
    if size >= weights:
        return passed(wanted, format_size(size))
    return warned(wanted, format_size(size), _SMALLER)


def _maps(host: Host, profile: Profile) -> Finding:
    """One process may map as many regions of memory as the kernel allows by default.

    Why: engines map weights, libraries and buffers one by one, and fail with "cannot allocate memory".
    Pass: vm.max_map_count is 65530 or more.
    Warn: it is lower.
    Fail: never.
    Skip: the kernel does not say, or it could not be asked.
    Fix: set vm.max_map_count to 65530.
    """
    wanted = f"vm.max_map_count of {_MAPS}"
    count = _of(host, "maps")
    if isinstance(count, Unknown):
        return unknown(wanted, count.reason)
    if count is None:
        return skipped("this kernel does not say")
    if count >= _MAPS:
        return passed(wanted, str(count))
    return warned(wanted, str(count), _set(host, "max_map_count", _MAPS))


def _bound(host: Host, profile: Profile) -> bool:
    """Whether this process's control group bounds the engine too; only a system-wide one starts it elsewhere."""
    rootless = isinstance(host.runtime, ContainerRuntime) and host.runtime.rootless
    return rootless or not uses_containers(host, profile)


def _of(host: Host, field: str) -> Fact[int | None]:
    found: Fact[int | None] = host.memory if isinstance(host.memory, Unknown) else getattr(host.memory, field)
    return found


def _set(host: Host, name: str, value: int) -> str:
    """The command that sets a value of the kernel's until the next boot, and how it stays."""
    now = sudo(host, f"sh -c 'echo {value} > /proc/sys/vm/{name}'")
    return f"{now}; to keep it, a line in /etc/sysctl.d/90-deployer.conf: vm.{name} = {value}"


def _end_others(host: Host) -> str:
    return "end other programs" + (": ps aux --sort=-rss | head" if has(host, "ps") else "")


CHECKS = (
    Check("memory.total", _total),
    Check("memory.available", _available),
    Check("memory.limit", _limit, advice=True),
    Check("memory.swap", _swap, advice=True),
    Check("memory.shared", _shared, pains=(23,), advice=True),
    Check("memory.locked", _locked, advice=True),
    Check("memory.overcommit", _overcommit, advice=True),
    Check("memory.loading", _loading, advice=True),
    Check("memory.maps", _maps, advice=True),
)
