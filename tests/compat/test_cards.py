"""GPU models, and what is meant by a name."""

from __future__ import annotations

import pytest

from deployer import compat
from deployer.compat import Device
from deployer.compat.tables import architecture, rows
from deployer.quantity import at_least

GROUPS = {"datacenter", "geforce", "titan", "quadro", "rtx-pro", "jetson"}
# The words that libnvidia-container compares with (src/driver.c, nvmlBrandType_t).
BRANDS = {"unknown", "quadro", "tesla", "nvs", "grid", "geforce", "titan", "vapps", "vpc", "vcs", "vws"}
BRANDS |= {"cloudgaming", "quadrortx", "nvidiartx", "nvidia", "geforcertx", "titanrtx"}


def test_every_card_is_found_by_its_name_and_makes_sense() -> None:
    found = rows("gpus.tsv")
    assert len({row[0].lower().removeprefix("nvidia ") for row in found}) == len(found)
    for row in found:
        card = compat.card(row[0])
        assert card
        assert card.name == row[0]
        assert architecture(card.compute_capability), card.name
        assert card.group in GROUPS and set(card.brands) <= BRANDS
        assert card.vram is None or 4 * 10**9 <= card.vram <= 400 * 10**9
        assert 1e11 <= card.bandwidth <= 1e13
        assert card.tensor is None or 1e13 <= card.tensor <= 3e15
        assert len(card.marks.split("/")) == 3
        if card.fp8 is not None:
            assert "fp8" in card.formats and card.tensor and card.fp8 == pytest.approx(2 * card.tensor)
        if card.fp4 is not None:
            assert "fp4" in card.formats and card.tensor and card.fp4 >= 4 * card.tensor


def test_formats_follow_the_compute_capability() -> None:
    for card in compat.models():
        assert ("bf16" in card.formats) == at_least(card.compute_capability, "8.0")
        assert ("fp8" in card.formats) == at_least(card.compute_capability, "8.9")
        assert ("fp4" in card.formats) == at_least(card.compute_capability, "10.0")


def test_known_numbers() -> None:
    card = compat.card("NVIDIA GeForce RTX 4090")
    assert card
    assert (card.tensor, card.bandwidth, card.vram) == (165.2e12, 1008e9, 24564 << 20)
    h100 = compat.card("NVIDIA H100 80GB HBM3")
    assert h100
    assert (h100.tensor, h100.fp8, h100.fp4) == (989e12, 1978e12, None)


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


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("rtx4090", "NVIDIA GeForce RTX 4090"),
        ("4090", "NVIDIA GeForce RTX 4090"),
        ("RTX 4070 Ti", "NVIDIA GeForce RTX 4070 Ti"),
        ("T4", "Tesla T4"),
        ("L40S", "NVIDIA L40S"),
        ("a100 80gb pcie", "NVIDIA A100 80GB PCIe"),
        ("TITAN RTX", "NVIDIA TITAN RTX"),
        ("rtx a6000", "NVIDIA RTX A6000"),
    ],
)
def test_a_person_may_shorten_a_name(said: str, name: str) -> None:
    found = compat.find(said)
    assert found
    assert found.name == name


def test_several_models_that_are_alike_are_one_answer_and_others_are_none() -> None:
    h100 = compat.find("H100")
    assert h100
    assert h100.compute_capability == "9.0"
    assert compat.find("RTX 5000") is None, "Turing, Ada and Blackwell have one"
    assert len(compat.near("RTX 5000")) == 3
    assert "NVIDIA GeForce RTX 4090" in compat.near("RTX 4091")
    assert compat.find("") is None and compat.find("Radeon RX 7900 XTX") is None


@pytest.mark.parametrize(
    ("name", "group", "forward"),
    [
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "geforce", False),
        ("NVIDIA TITAN V", "titan", False),
        ("Quadro P4000", "quadro", True),
        ("NVIDIA RTX A1000", "rtx-pro", True),
        ("Tesla M40", "datacenter", True),
        ("NVIDIA Something New", None, None),
        (None, None, None),
    ],
)
def test_a_model_that_is_not_in_the_table_is_classed_by_its_name_alone(
    name: str | None, group: str | None, forward: bool | None
) -> None:
    device = Device.of(name)
    assert (device.group, device.forward, device.compute_capability) == (group, forward, None)


def test_guesses_agree_with_the_table() -> None:
    from deployer.compat.cards import _guess

    for card in compat.models():
        group, brands = _guess(card.name)
        assert group in (None, card.group) and brands in ((), card.brands), card.name


def test_what_the_driver_says_of_compute_capability_wins() -> None:
    assert Device.of("NVIDIA GeForce RTX 4090", "9.9").compute_capability == "9.9"
