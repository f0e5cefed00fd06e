"""Libraries and fat binaries are read as they are, and broken ones end in no error."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.images.proof import elf, fatbin
from tests.images.test_proof_look import CUDNN, SITE, TORCH_RPATH, compiled, fat, made

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


def test_a_library_tells_its_name_its_needs_and_where_it_looks() -> None:
    torch = elf.read(made() / SITE / "torch/lib/libtorch_cuda.so")
    shim = elf.read(made() / CUDNN / "libcudnn.so.9")
    assert torch and shim
    assert torch.soname == "libtorch_cuda.so"
    assert torch.needed[:2] == ["libcudnn.so.9", "libcudart.so.13"]
    assert (torch.rpath, torch.runpath) == (TORCH_RPATH.split(":"), [])
    assert (shim.rpath, shim.runpath, shim.fatbin) == ([], ["$ORIGIN"], None)
    assert elf.read(made() / "etc/os-release") is None
    assert elf.read(made() / "nowhere") is None


@given(st.data())
def test_a_broken_library_is_none_or_something_but_no_error(data: st.DataObject) -> None:
    text = bytearray((made() / CUDNN / "libcudnn.so.9").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        text[data.draw(st.one_of(st.integers(0, 400), st.integers(0, len(text) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    with tempfile.NamedTemporaryFile() as file:
        file.write(text[: data.draw(st.one_of(st.just(len(text)), st.integers(0, len(text))))])
        file.flush()
        found = elf.read(Path(file.name))
        if found and found.fatbin:
            fatbin.architectures(Path(file.name), found.fatbin)


def test_a_fat_binary_tells_its_architectures_from_headers_alone(tmp_path: Path) -> None:
    section = fat(
        [(2, 75, 0x8011, 40), (2, 90, 0x108011, 8), (1, 120, 0x8011, 0)],
        [(2, 75, 0x8011, 0), (2, 120, 0x1008011, 16), (64, 80, 0, 8)],
    )
    (tmp_path / "code").write_bytes(section)
    path = compiled(tmp_path / "libggml-cuda.so", f'FATBIN="{tmp_path / "code"}"')
    facts = elf.read(path)
    assert facts and facts.fatbin
    assert facts.fatbin[1] == len(section)
    assert fatbin.architectures(path, facts.fatbin) == {
        "sass": {"7.5": 2, "9.0a": 1, "12.0": 1},
        "ptx": {"12.0": 1},
    }


@given(st.binary(max_size=200), st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2))
def test_a_broken_fat_binary_ends(noise: bytes, sizes: list[int]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(
            struct.pack("<IHHQ", 0xBA55ED50, 1, 0, sizes[0]) + struct.pack("<HHIQ", 2, 1, 0, sizes[1]) + noise
        )
        file.flush()
        fatbin.architectures(Path(file.name), (0, 1 << 20))
