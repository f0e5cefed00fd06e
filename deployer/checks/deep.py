"""What `check --deep` has tried: ways into a container, disks, GPUs against their class."""

from __future__ import annotations

from deployer import compat
from deployer.checks.base import NOT_ASKED, Check, multi, route, uses_containers, wants_gpu
from deployer.host import Deep, Fact, Gpu, GpuRate, Host, Unknown
from deployer.profile import Profile
from deployer.quantity import format_duration, format_size
from deployer.report import Finding, failed, passed, skipped, unknown, warned

NOT_TRIED = "not tried: deployer check --deep"
# What a healthy card reaches of its data sheet in these measures. Memory: gpt-fast's README measures 1700 of
# 2039 GB/s on an A100 (0.83). Matrices: cuBLAS reaches 0.88 and more on an L20 (DefTruth/CUDA-Learn-Notes, hgemm);
# 0.7 is a careful guess for larger cards, which their power limit slows down. PCI Express: about 0.8 of the lanes'
# rate is left by packets and their heads.
_REACH = {"memory": 0.83, "matrix": 0.7, "pcie": 0.8}
_LEAST = 0.8  # of its class
_LANE = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}  # bytes/s a lane: PCI-SIG
_LOAD_S = 120.0


def _tried(host: Host, profile: Profile, wanted: str) -> Deep | Finding:
    if not wants_gpu(profile):
        return skipped(NOT_ASKED)
    return skipped(NOT_TRIED, wanted) if host.deep is None else host.deep


def _ways(host: Host, profile: Profile) -> Finding:
    """A container that gets the GPUs the way deployer gives them sees them: cuInit succeeds in it.

    Why: metadata says yes where containers fail, and no where they work; only a container knows.
    Pass: CUDA in the container counts as many GPUs as the profile needs, by the way that deployer takes.
    Warn: that way works, and another configured one does not.
    Fail: CUDA sees too few GPUs by the way that deployer takes.
    Skip: not tried, the profile wants no GPU or no containers, no container could be started, or not that way.
    Fix: the engine's or the library's own words say what is broken; the other runtime findings name the command.
    """
    wanted = "a container that sees the GPUs"
    deep = _tried(host, profile, wanted)
    if isinstance(deep, Finding):
        return deep
    if not uses_containers(host, profile):
        return skipped("this profile will not run in containers here", wanted)
    if isinstance(deep.ways, Unknown):
        return unknown(wanted, deep.ways.reason)
    if not deep.ways:
        return skipped("no way is configured: runtime.gpu", wanted)
    need = profile.requirements.gpu.count if profile.requirements.gpu else 1
    good, bad = [], []
    for way in deep.ways:
        if isinstance(way.cuda, Unknown):
            inside = f"NVML sees {way.nvml}, " if isinstance(way.nvml, int) else ""
            bad.append((way.name, f"{way.name}: {inside}CUDA: {way.cuda.reason}"))
        elif way.cuda < need:
            bad.append((way.name, f"{way.name}: CUDA sees {way.cuda or 'no'} GPU"))
        else:
            version = "" if isinstance(way.cuda_version, Unknown) else f", CUDA {way.cuda_version}"
            good.append((way.name, f"{way.name}: {way.cuda} GPU{'s' if way.cuda > 1 else ''}{version}"))
    text = "; ".join(said for _, said in (*bad, *good))
    if isinstance(host.runtime, Unknown):
        return unknown(wanted, host.runtime.reason)
    taken = "cdi" if route(host) == "cdi" else "hook"
    if any(name == taken for name, _ in bad):
        return failed(wanted, text, "runtime.gpu, runtime.cdi_files and driver.uvm name the usual reasons")
    if not any(name == taken for name, _ in good):
        return unknown(wanted, f"{text}; `{taken}`, which deployer takes, was not tried")
    return warned(wanted, text) if bad else passed(wanted, text)


def _disk(host: Host, profile: Profile) -> Finding:
    """The disk of the models reads them in reasonable time.

    Why: the load time of a model is its size over this rate; limits that do not know it end loads that would succeed.
    Pass: the profile's model is read in two minutes or less.
    Warn: it takes longer.
    Fail: never.
    Skip: not tried, or the disk could not be measured.
    Fix: keep models on a faster disk with --home DIR.
    """
    wanted = "a disk that reads the model in 2 min"
    if host.deep is None:
        return skipped(NOT_TRIED, wanted)
    rate = host.deep.disks.get("models", Unknown("not measured"))
    if isinstance(rate, Unknown):
        return unknown(wanted, rate.reason)
    if isinstance(rate.read, Unknown):
        return unknown(wanted, rate.read.reason)
    size = sum(f.size or 0 for f in profile.model.files) or profile.model.download or 0
    took = size / rate.read if rate.read else float("inf")
    text = f"reads {format_size(rate.read)}/s"
    if not isinstance(rate.write, Unknown):
        text += f", writes {format_size(rate.write)}/s"
    if size and took < float("inf"):
        text += f"; {format_size(size)} in {format_duration(took)}"
    if took > _LOAD_S:
        return warned(wanted, text, "keep models on a faster disk with --home DIR")
    return passed(wanted, text)


def _images_disk(host: Host, profile: Profile) -> Finding:
    """The disk of the images takes them in reasonable time.

    Why: a build or a pull writes every layer once and unpacks it.
    Pass: it writes at least 50 MB/s.
    Warn: it writes less.
    Fail: never.
    Skip: not tried, containers are not used, or this user may not write there.
    Fix: move the engine's data to a faster disk.
    """
    wanted = "a disk for images that writes 50 MB/s"
    if host.deep is None:
        return skipped(NOT_TRIED, wanted)
    if not uses_containers(host, profile):
        return skipped("this profile will not run in containers here", wanted)
    rate = host.deep.disks.get("images", Unknown("not measured"))
    if isinstance(rate, Unknown):
        return unknown(wanted, rate.reason)
    if isinstance(rate.write, Unknown):
        return unknown(wanted, rate.write.reason)
    text = f"{format_size(rate.write)}/s in {rate.path}"
    if rate.write < 50e6:
        return warned(wanted, text, '"data-root" in /etc/docker/daemon.json names another folder')
    return passed(wanted, text)


def _rates(host: Host, profile: Profile, wanted: str) -> tuple[tuple[Gpu, str, GpuRate], ...] | Finding:
    """Each measured GPU that NVML knows, with its name."""
    deep = _tried(host, profile, wanted)
    if isinstance(deep, Finding):
        return deep
    if isinstance(deep.gpus, Unknown):
        return unknown(wanted, deep.gpus.reason)
    if isinstance(host.gpus, Unknown):
        return unknown(wanted, host.gpus.reason)
    rates = {rate.uuid: rate for rate in deep.gpus}
    found: list[tuple[Gpu, str, GpuRate]] = []
    for gpu in host.gpus:
        if isinstance(gpu.uuid, Unknown) or gpu.uuid not in rates:
            continue
        if isinstance(gpu.name, Unknown):
            return unknown(wanted, f"GPU {gpu.index}: {gpu.name.reason}")
        found.append((gpu, gpu.name, rates[gpu.uuid]))
    return tuple(found)


def _against(wanted: str, measured: list[tuple[str, Fact[float | None], float | None]], unit: str) -> Finding:
    """`measured` has for each GPU its name, its rate and what its class reaches, None where no table knows."""
    slow, fine, unasked = [], [], []
    for name, rate, normal in measured:
        if rate is None:
            continue
        if isinstance(rate, Unknown):
            unasked.append(f"{name}: {rate.reason}")
        elif normal is None:
            fine.append(f"{name}: {_rate(rate, unit)}, in no table")
        elif rate < _LEAST * normal:
            slow.append(f"{name}: {_rate(rate, unit)}, {100 * rate / normal:.0f} % of its class")
        else:
            fine.append(f"{name}: {_rate(rate, unit)}")
    if slow:
        return warned(
            wanted,
            "; ".join(slow),
            "gpu.throttled, gpu.power, gpu.pcie and gpu.holders name the usual reasons",
        )
    if unasked:
        return unknown(wanted, "; ".join(unasked))
    return passed(wanted, "; ".join(fine)) if fine else skipped("nothing was measured", wanted)


def _rate(value: float, unit: str) -> str:
    return f"{value / 1e12:.0f} TFLOPS" if unit == "flops" else f"{format_size(value)}/s"


def _memory(host: Host, profile: Profile) -> Finding:
    """The memory of each GPU is as fast as that of its class.

    Why: every token reads all weights once, so this rate is the speed of the deployment.
    Pass: at least 80 % of what a healthy card of the name reaches.
    Warn: a card gives less, and is named.
    Fail: never.
    Skip: not tried, the profile wants no GPU, or it could not be measured.
    Fix: what gpu.throttled, gpu.power and gpu.holders say.
    """
    wanted = "memory as fast as its class"
    rates = _rates(host, profile, wanted)
    if isinstance(rates, Finding):
        return rates
    measured: list[tuple[str, Fact[float | None], float | None]] = []
    for _, name, rate in rates:
        card = compat.card(name)
        measured.append((name, rate.memory, _REACH["memory"] * card.bandwidth if card else None))
    return _against(wanted, measured, "bytes")


def _matrix(host: Host, profile: Profile) -> Finding:
    """Each GPU multiplies bfloat16 matrices as fast as its class.

    Why: the time to the first token of a long prompt is this rate.
    Pass: at least 80 % of what a healthy card of the name reaches.
    Warn: a card gives less, and is named.
    Fail: never.
    Skip: not tried, the profile wants no GPU, the image with torch is not here, or it could not be measured.
    Fix: what gpu.throttled and gpu.power say.
    """
    wanted = "matrix products as fast as its class"
    rates = _rates(host, profile, wanted)
    if isinstance(rates, Finding):
        return rates
    if rates and all(rate.matrix == Unknown("not asked") for _, _, rate in rates):
        return skipped("needs the image with torch: deployer build transformers:cu130", wanted)
    measured: list[tuple[str, Fact[float | None], float | None]] = []
    for _, name, rate in rates:
        card = compat.card(name)
        normal = _REACH["matrix"] * card.tensor if card and card.tensor else None
        measured.append((name, rate.matrix, normal))
    return _against(wanted, measured, "flops")


def _transfer(host: Host, profile: Profile) -> Finding:
    """Copies to and from each GPU are as fast as its PCI Express link.

    Why: a link that says x16 may run at another speed; models load through it, and several GPUs talk through it.
    Pass: at least 80 % of what the link's generation and width at most give.
    Warn: a card gives less, and is named.
    Fail: never.
    Skip: not tried, the profile wants no GPU, the link is unknown or none, or it could not be measured.
    Fix: seat the card again; look at risers and the firmware's slot settings.
    """
    wanted = "copies as fast as the PCI Express link"
    rates = _rates(host, profile, wanted)
    if isinstance(rates, Finding):
        return rates
    measured: list[tuple[str, Fact[float | None], float | None]] = []
    for gpu, name, rate in rates:
        most = _link_rate(gpu)
        if most is None or isinstance(most, Unknown):
            measured.append((name, most, None))
            continue
        slower: Fact[float | None] = rate.to_gpu
        if not isinstance(rate.to_gpu, Unknown):
            slower = rate.from_gpu if isinstance(rate.from_gpu, Unknown) else min(rate.to_gpu, rate.from_gpu)
        measured.append((name, slower, most or None))
    return _against(wanted, measured, "bytes")


def _link_rate(gpu: Gpu) -> Fact[float | None]:
    """Bytes per second that the link gives at most; 0 of a generation in no table; None where there is no link."""
    if isinstance(gpu.link, Unknown):
        return gpu.link
    generation, width = gpu.link.most_generation, gpu.link.most_width
    for value in (generation, width):
        if value is None or isinstance(value, Unknown):
            return value
    assert isinstance(generation, int) and isinstance(width, int)
    return _REACH["pcie"] * _LANE.get(generation, 0.0) * width


def _peers(host: Host, profile: Profile) -> Finding:
    """Copies from GPU to GPU end.

    Why: where the driver allows peer access and the board does not do it, several GPUs hang at 100 % without a word.
    Pass: every pair that the driver allows copies.
    Warn: a copy ends with an error of CUDA's; or the driver allows none, so copies go through the host's memory.
    Fail: a copy does not end.
    Skip: not tried, the profile needs one GPU, or nothing was measured.
    Fix: NCCL_P2P_DISABLE=1 in the engine's environment; IOMMU and ACS off in the firmware.
    """
    wanted = "copies from GPU to GPU that end"
    if not multi(profile):
        return skipped("the profile does not need several GPUs")
    deep = _tried(host, profile, wanted)
    if isinstance(deep, Finding):
        return deep
    if isinstance(deep.peers, Unknown):
        return unknown(wanted, deep.peers.reason)
    if not deep.peers:
        return skipped("there is one GPU", wanted)
    hint = "NCCL_P2P_DISABLE=1 works around it; IOMMU and ACS in the firmware cause it"
    bad = [
        (p.rate.reason, f"{p.one} to {p.other}: {p.rate.reason}")
        for p in deep.peers
        if isinstance(p.rate, Unknown)
    ]
    for reason, said in bad:
        if "does not end" in reason:
            return failed(wanted, said, hint)
    for reason, said in bad:
        if reason.startswith("cu") and "memory" not in reason:
            return warned(wanted, said, hint)
    if bad:
        return unknown(wanted, bad[0][1])
    known = [p.rate for p in deep.peers if isinstance(p.rate, float)]
    if not known:
        return warned(wanted, "the driver allows none; copies go through the host's memory")
    return passed(wanted, f"{len(known)} of {len(deep.peers)}, the slowest {format_size(min(known))}/s")


CHECKS = (
    Check("runtime.proof", _ways, pains=(4, 6, 13), advice=True),
    Check("disk.model_rate", _disk, pains=(34,), advice=True),
    Check("disk.image_rate", _images_disk, advice=True),
    Check("gpu.memory_rate", _memory, advice=True),
    Check("gpu.matrix_rate", _matrix, advice=True),
    Check("gpu.transfer_rate", _transfer, advice=True),
    Check("gpu.peers", _peers, pains=(24,), advice=True),
)
