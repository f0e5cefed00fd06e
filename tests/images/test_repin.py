"""Another cuDNN: each refusal for its own reason and before any download, and a lock in which nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer import compat, images
from deployer.errors import BuildError, QuestionError, SourceUnreachable
from deployer.fetch import Web
from deployer.home import Home
from deployer.images import lock, repin
from deployer.images.lock import Resolver
from deployer.images.repin import Promise
from tests.servers import unused_port
from tests.wheels import Wheel, WheelIndex, uv_wheel

CU130 = Promise("torch:cu130", "13.0", "2.13.0", "9.20.0.48", ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0"))
CU128 = Promise("torch:cu128", "12.8", "2.10.0", "9.10.2.21", ("7.0", "7.5", "8.0", "9.0", "10.0", "12.0"))
CU118 = Promise("torch:cu118", "11.8", "2.6.0", "9.1.0.70", ("5.0", "8.6"))
LINUX = "py3-none-manylinux_2_27_x86_64"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy this machine has, the servers of the tests are reached directly."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def cudnn(
    version: str, family: int = 13, *requires: str, tag: str = LINUX, yanked: bool | str = False
) -> Wheel:
    cublas = "nvidia-cublas" if family > 12 else f"nvidia-cublas-cu{family}"
    return Wheel(f"nvidia-cudnn-cu{family}", version, requires or (cublas,), tag=tag, yanked=yanked)


@pytest.fixture
def index() -> Iterator[WheelIndex]:
    """torch 2.13.0 with cuDNN for CUDA 11, 12 and 13, as they demand each other on PyPI; further versions are newer."""
    pin = "nvidia-cudnn-cu13==9.20.0.48; platform_system == 'Linux'"
    with WheelIndex(
        Wheel("torch", "2.13.0", [pin, "cuda-toolkit[cublas]==13.0.3", "sympy"]),
        Wheel(
            "cuda-toolkit",
            "13.0.3",
            ["nvidia-cublas<=13.1.1.3,>=13.1.0.3; extra == 'cublas'"],
            ["Provides-Extra: cublas"],
        ),
        Wheel("sympy", "1.14.0"),
        Wheel("sympy", "1.15.0"),
        *(
            Wheel("nvidia-cublas", version, tag=LINUX)
            for version in ("13.0.0.1", "13.1.0.3", "13.1.1.3", "13.4.0.1")
        ),
        *(
            cudnn(version)
            for version in ("9.12.0.46", "9.19.1.2", "9.20.0.48", "9.21.0.82", "9.24.0.43", "9.28.0.42")
        ),
        cudnn("9.24.1.1", 13, "nvidia-cublas>=13.1.1.0"),
        cudnn("9.24.2.1", 13, "nvidia-cublas>=13.4"),
        cudnn("9.24.3.1", 13, "nvidia-cublas", "nvidia-cuda-nvrtc"),
        cudnn("9.24.4.1", 13, "nvidia-cublas==13.0.0.1"),
        cudnn("9.24.5.1", 13, tag="py3-none-win_amd64"),
        cudnn("9.25.0.15", yanked="slow"),
        cudnn("9.26.0.33.dev63203437"),
        Wheel("nvidia-cuda-nvrtc", "13.0.88"),
        *(cudnn(version, 12) for version in ("8.9.7.29", "9.10.1.4", "9.10.2.21", "9.11.0.98")),
        *(cudnn(version, 11) for version in ("9.1.0.70", "9.10.2.21")),
    ) as made:
        yield made  # fmt: skip


@pytest.fixture
def resolver(index: WheelIndex, tmp_path: Path) -> Resolver:
    """One whose uv is not there: what is refused is refused without it."""
    return Resolver(tmp_path / "no-uv", Home(tmp_path / "home"), Web(index=index.index))


def text(index: WheelIndex, **versions: str) -> str:
    """A lock of these versions, with hashes from the index."""
    pins = []
    for key, version in versions.items():
        name = key.replace("_", "-")
        hashes = [f"sha256:{w.sha256}" for w in index.wheels if (w.name, w.version) == (name, version)]
        pins.append(lock.Pin(name, version, tuple(sorted(hashes))))
    return lock.render(sorted(pins, key=lambda pin: pin.name))


def cu130(index: WheelIndex, cublas: str = "13.1.1.3") -> str:
    own = {"cuda_toolkit": "13.0.3", "nvidia_cublas": cublas, "nvidia_cudnn_cu13": "9.20.0.48"}
    return text(index, **own, sympy="1.14.0", torch="2.13.0")


# ------------------------------------------------------------------------------------------------- torch's rule


@pytest.mark.parametrize(
    ("promise", "wanted", "said"),
    [
        (CU130, "9.20.0.48", None),
        (CU130, "9.20.0.1", None),  # the patch does not count
        (CU130, "9.24.0.43", None),
        (CU130, "9.100.0.0", None),  # numbers, not text
        (CU130, "9.19.1.2", "refuses an older minor version"),
        (CU130, "9.9.0.52", "refuses an older minor version"),
        (CU130, "8.99.0.1", "refuses another major version"),
        (CU130, "10.0.0.1", "refuses another major version"),
        (CU128, "9.11.0.98", "refuses cuDNN 9.11 and later on compute capability 7.0"),
        (CU128, "9.10.0.56", None),
        (
            Promise("x", "12.6", "2.7.0", "9.5.1.17", ("5.0", "7.0", "8.0")),
            "9.11.0.98",
            None,
        ),  # a rule since 2.10
    ],
)
def test_what_torch_refuses_when_it_loads_cudnn(promise: Promise, wanted: str, said: str | None) -> None:
    found = repin.torch_excludes(promise, wanted)
    assert found is None if said is None else found is not None and said in found


@given(st.integers(7, 12), st.integers(0, 40), st.integers(0, 9), st.sampled_from([CU130, CU118]))
def test_torchs_rule_for_any_version(major: int, minor: int, patch: int, promise: Promise) -> None:
    made = tuple(map(int, promise.cudnn.split(".")[:2]))
    compatible = major == made[0] and minor >= made[1]
    excluded = repin.torch_excludes(promise, f"{major}.{minor}.{patch}.1")
    assert (excluded is None) == compatible


# ------------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize(
    ("promise", "wanted", "said"),
    [
        (CU128, "9.11.0.98", ["no code for compute capability 7.0, which `torch:cu128` promises"]),
        (CU128, "9.10.1.4", []),
        (CU128, "8.9.7.29", ["no code for compute capability 10.0, 12.0"]),
        (CU118, "9.11.0.98", ["not for CUDA 11: 9.11.0 and later are not made for it"]),
        (CU118, "9.10.2.21", []),
        (CU130, "9.28.0.42", []),
        (CU130, "9.24.0.43", []),
    ],
)
def test_what_the_tables_refuse(promise: Promise, wanted: str, said: list[str]) -> None:
    found = [reason for reason in repin.refusals(promise, wanted) if not reason.startswith("torch")]
    assert len(found) == len(said)
    assert all(part in reason for part, reason in zip(said, found, strict=True))


def test_a_capability_that_loses_its_own_code_but_runs_is_a_note() -> None:
    spark = Promise("torch:spark", "13.0", "2.13.0", "9.20.0.48", ("12.0", "12.1"))
    assert repin.refusals(spark, "9.28.0.42") == ()
    assert "no code of its own for 12.1" in " ".join(repin.notes(spark, "9.28.0.42"))
    assert "12.1" not in " ".join(repin.notes(spark, "9.24.0.43"))


def test_every_own_pin_of_torch_is_allowed_for_what_torch_promises() -> None:
    for version, _, _, cuda, pin, capabilities, *_ in compat.rows("torch.tsv"):
        if pin != "?":
            promise = Promise("x", cuda, version, pin, tuple(capabilities.split()))
            assert repin.refusals(promise, pin) == ()
            assert repin.notes(promise, pin) == ()


def test_the_facts_of_the_shipped_variants() -> None:
    seen = []
    for recipe in map(images.load, images.names()):
        for variant in recipe.variants:
            if {"cuda", "cudnn", "torch"} <= {*variant.pins}:
                promise = repin.promise(variant)
                assert repin.refusals(promise, variant.pins["cudnn"]) == ()
                seen.append(variant.name)
            else:
                with pytest.raises(QuestionError, match="has no cuDNN"):
                    repin.promise(variant)
    assert "cu130" in seen


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wanted", "reasons", "near"),
    [
        (
            "9.24.0.44",
            ["the index has no cuDNN 9.24.0.44 for CUDA 13"],
            "9.21.0.82, 9.24.0.43, 9.24.1.1, 9.24.2.1",
        ),
        ("9.24", ["the index has no cuDNN 9.24 for CUDA 13"], "9.20.0.48, 9.21.0.82, 9.24.0.43, 9.24.1.1"),
        ("9.24.5.1", ["the index has no cuDNN 9.24.5.1 for CUDA 13"], "9.24.3.1, 9.24.4.1, 9.28.0.42"),
        ("9.25.0.15", ["withdrawn from the index: slow"], "9.24.3.1, 9.24.4.1, 9.28.0.42"),
        ("9.19.1.2", ["refuses an older minor version"], "9.20.0.48, 9.21.0.82"),
        (
            "9.10.2.21",
            ["refuses an older minor version", "not for CUDA 13: the index has it for CUDA 11 and 12"],
            "9.20.0.48, 9.21.0.82",
        ),
        (
            "8.9.7.29",
            ["refuses another major version", "not for CUDA 13: the index has it for CUDA 12"],
            "9.20.0.48, 9.21.0.82",
        ),
    ],
)
def test_a_cudnn_is_refused_before_anything_is_downloaded(
    resolver: Resolver, index: WheelIndex, wanted: str, reasons: list[str], near: str
) -> None:
    with pytest.raises(QuestionError) as caught:
        repin.repin(cu130(index), CU130, wanted, resolver)
    told = [caught.value.message, *caught.value.evidence]
    assert len(told) == len(reasons)
    assert all(part in reason for part, reason in zip(reasons, told, strict=True))
    assert caught.value.hint == f"for CUDA 13 and torch 2.13.0 there are: {near}"
    assert not [seen for seen in index.seen if not seen.path.startswith("/simple/nvidia-cudnn-cu")]


def test_one_that_drops_an_architecture(resolver: Resolver, index: WheelIndex) -> None:
    old = text(index, nvidia_cudnn_cu12="9.10.2.21")
    with pytest.raises(QuestionError, match=r"torch 2\.10\.0 refuses") as caught:
        repin.repin(old, CU128, "9.11.0.98", resolver)
    assert "has no code for compute capability 7.0" in " ".join(caught.value.evidence)
    assert (caught.value.hint or "").endswith("there are: 9.10.1.4, 9.10.2.21")


def test_one_that_is_not_made_for_this_cuda_any_more(resolver: Resolver, index: WheelIndex) -> None:
    old = text(index, nvidia_cudnn_cu11="9.1.0.70")
    with pytest.raises(QuestionError, match=r"not for CUDA 11: 9\.11\.0 and later") as caught:
        repin.repin(old, CU118, "9.11.0.98", resolver)
    assert caught.value.evidence == ()
    assert (caught.value.hint or "").endswith("9.1.0.70, 9.10.2.21")


@pytest.mark.parametrize(
    "wanted", ["", "nine", "9", "9.26.0.33.dev63203437", ">=9.24", "9.24.0.43; x", "-1.0"]
)
def test_what_is_no_version(resolver: Resolver, index: WheelIndex, wanted: str) -> None:
    with pytest.raises(QuestionError, match="no version of cuDNN"):
        repin.repin(cu130(index), CU130, wanted, resolver)
    assert index.seen == []


def test_a_lock_without_cudnn(resolver: Resolver, index: WheelIndex) -> None:
    with pytest.raises(QuestionError, match="has no nvidia-cudnn-cu13"):
        repin.repin(text(index, sympy="1.14.0"), CU130, "9.24.0.43", resolver)


def test_without_an_index_the_tables_still_refuse(index: WheelIndex, resolver: Resolver) -> None:
    nowhere = Web(index=f"http://127.0.0.1:{unused_port()}/simple")
    cut = Resolver(resolver.uv, resolver.home, nowhere)
    with pytest.raises(QuestionError, match="older minor") as caught:
        repin.repin(cu130(index), CU130, "9.19.1.2", cut)
    assert caught.value.hint is None
    with pytest.raises(SourceUnreachable):
        repin.repin(cu130(index), CU130, "9.24.0.43", cut)


def test_what_is_locked_already_needs_no_index(index: WheelIndex, resolver: Resolver) -> None:
    assert repin.repin(cu130(index), CU130, "9.20.0.48", resolver) == repin.Repinned(cu130(index))
    assert index.seen == []


# ------------------------------------------------------------------------------------------------- with the real uv


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned uv."""
    wheel, sha256 = uv_wheel()
    return lock.uv_binary(wheel, tmp_path_factory.mktemp("uv"), sha256=sha256)


@pytest.fixture
def real(uv: Path, resolver: Resolver) -> Resolver:
    return Resolver(uv, resolver.home, resolver.web)


@pytest.mark.slow
def test_only_cudnn_changes(real: Resolver, index: WheelIndex) -> None:
    old = cu130(index)
    # what came to the index since: newer versions (sympy 1.15.0 is there) and another file of a locked one
    index.wheels.append(Wheel("sympy", "1.14.0", tag="py2-none-any"))
    found = repin.repin(old, CU130, "9.24.0.43", real)
    before, after = old.splitlines(), found.lock.splitlines()
    (wheel,) = [w for w in index.wheels if (w.name, w.version) == ("nvidia-cudnn-cu13", "9.24.0.43")]
    assert [line for line in after if line not in before] == [
        "nvidia-cudnn-cu13==9.24.0.43 \\",
        f"    --hash=sha256:{wheel.sha256}",
    ]
    assert len(after) == len(before)
    assert found.notes == ("torch 2.13.0 was tested with cuDNN 9.20.0.48, not with 9.24.0.43",)
    again = repin.repin(found.lock, CU130, "9.20.0.48", real)
    assert (again.lock, again.notes) == (old, ())


@pytest.mark.slow
def test_cublas_changes_only_when_cudnn_needs_a_newer_one(real: Resolver, index: WheelIndex) -> None:
    old = cu130(index, cublas="13.1.0.3")
    assert "nvidia-cublas==13.1.0.3" in repin.repin(old, CU130, "9.24.0.43", real).lock
    found = repin.repin(old, CU130, "9.24.1.1", real)
    changed = lock.difference(lock.parse(old), lock.parse(found.lock), lambda _: lock.About())
    assert [(c.package, c.old, c.new) for c in changed] == [
        ("nvidia-cublas", "13.1.0.3", "13.1.1.3"),
        ("nvidia-cudnn-cu13", "9.20.0.48", "9.24.1.1"),
    ]
    assert found.notes[-1] == "cuDNN 9.24.1.1 needs a newer nvidia-cublas: 13.1.0.3 → 13.1.1.3"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("9.24.2.1", "cuDNN 9.24.2.1: .* exclude each other"),  # its cuBLAS is newer than the toolkit allows
        ("9.24.3.1", "needs more than the lock has: nvidia-cuda-nvrtc"),
        ("9.24.4.1", "exclude each other"),  # its cuBLAS is older than the toolkit allows
    ],
)
def test_a_cudnn_that_does_not_go_with_the_rest(
    real: Resolver, index: WheelIndex, wanted: str, said: str
) -> None:
    with pytest.raises(BuildError, match=said):
        repin.repin(cu130(index), CU130, wanted, real)


@pytest.mark.slow
def test_a_cudnn_that_needs_an_older_cublas(real: Resolver, index: WheelIndex) -> None:
    index.wheels = [w for w in index.wheels if w.name != "cuda-toolkit"]
    index.wheels.append(
        Wheel("cuda-toolkit", "13.0.3", ["nvidia-cublas; extra == 'cublas'"], ["Provides-Extra: cublas"])
    )
    with pytest.raises(BuildError, match=r"nvidia-cublas 13\.0\.0\.1, older than 13\.1\.1\.3"):
        repin.repin(cu130(index), CU130, "9.24.4.1", real)
