from __future__ import annotations

import pytest

from deployer import compat
from deployer.quantity import at_least, parse_version
from deployer.resources import PACKAGE

DATA = PACKAGE / "compat" / "data"


def rows(name: str) -> list[list[str]]:
    lines = (DATA / name).read_text().splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def test_cuda_and_drivers_both_grow_from_row_to_row() -> None:
    found = [tuple(map(parse_version, row)) for row in rows("cuda.tsv")]
    assert all(len(row) == 2 for row in found)
    assert [cuda for cuda, _ in found] == sorted({cuda for cuda, _ in found})
    assert [driver for _, driver in found] == sorted({driver for _, driver in found})


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("570.26", "12.8"),
        ("580.65.06", "13.0"),
        ("550.54.14", "12.4"),
        ("550.54.13", "12.3"),
        ("470.256.02", "11.4"),
        ("450.51.05", "11.0"),
        ("450.51.04", None),
        ("390.157", None),
        ("9999", rows("cuda.tsv")[-1][0]),
    ],
)
def test_the_newest_cuda_of_a_driver(driver: str, cuda: str | None) -> None:
    assert compat.newest_cuda(driver) == cuda


@pytest.mark.parametrize(
    ("cuda", "driver"), [("13.0", "580.65.06"), ("13", "580.65.06"), ("12.8", "525.60.13"), ("9.2", None)]
)
def test_the_least_driver_of_a_cuda_family(cuda: str, driver: str | None) -> None:
    assert compat.family_driver(cuda) == driver


def test_a_family_needs_no_newer_driver_than_its_own_releases() -> None:
    for cuda, driver in rows("cuda.tsv"):
        least = compat.family_driver(cuda)
        assert least
        # 11.0 itself came with an earlier driver than the family was supported from
        assert at_least(driver, least) or cuda == "11.0"


def test_every_card_is_found_by_its_name_and_makes_sense() -> None:
    found = rows("gpus.tsv")
    assert len({row[0].lower().removeprefix("nvidia ") for row in found}) == len(found)
    for name, capability, vram, rate in found:
        card = compat.card(name)
        assert card == compat.Card(name, capability, int(vram) * 2**20, float(rate) * 1e9)
        assert at_least(capability, "6.0")
        assert 4 * 10**9 <= card.vram <= 400 * 10**9
        assert 1e11 <= card.bandwidth <= 1e13


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("nvidia geforce rtx 4090", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("Tesla T4", "Tesla T4"),
    ],
)
def test_a_card_is_found_with_and_without_the_vendor(asked: str, name: str) -> None:
    card = compat.card(asked)
    assert card
    assert card.name == name


@pytest.mark.parametrize("name", ["", "NVIDIA", "GeForce RTX 40", "Radeon RX 7900 XTX"])
def test_an_unknown_card_is_none(name: str) -> None:
    assert compat.card(name) is None
