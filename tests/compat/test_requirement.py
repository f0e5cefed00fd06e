"""NVIDIA_REQUIRE_*: grammar, truth and message, against what libnvidia-container does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.compat.requirement import (
    OPERATORS,
    Clause,
    Facts,
    Requirement,
    Truth,
    demanded,
    evaluate,
    message,
    official,
    parse,
)

# As `docker inspect` shows it for an image of CUDA 12.4.1, shortened to two brands.
OF_12_4 = (
    "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=geforce,driver>=470,driver<471 "
    "brand=tesla,driver>=535,driver<536 brand=geforce,driver>=535,driver<536"
)
RTX_4090 = Facts(cuda="12.4", driver="550.54.14", arch="8.9", brand="geforce")
A100 = Facts(cuda="12.2", driver="535.104.05", arch="8.0", brand="nvidia")


@pytest.mark.parametrize(
    ("text", "facts", "truth"),
    [
        ("cuda>=12.4", RTX_4090, Truth.MET),
        ("cuda>=12.4.0", RTX_4090, Truth.MET),
        ("cuda>=12.5", RTX_4090, Truth.NOT_MET),
        ("CUDA>=12.4", RTX_4090, Truth.MET),  # keys are compared without case
        ("cuda>12.4", RTX_4090, Truth.NOT_MET),
        ("cuda=12.4", RTX_4090, Truth.MET),
        ("cuda!=12.4", RTX_4090, Truth.NOT_MET),
        ("cuda<13", RTX_4090, Truth.MET),
        ("cuda<=12.4", RTX_4090, Truth.MET),
        ("driver>=550,driver<551", RTX_4090, Truth.MET),
        ("driver>=550.54.15", RTX_4090, Truth.NOT_MET),
        ("arch>=9.0", RTX_4090, Truth.NOT_MET),
        ("arch>=8.9", RTX_4090, Truth.MET),
        ("brand=GeForce", RTX_4090, Truth.MET),
        ("brand!=geforce", RTX_4090, Truth.NOT_MET),
        ("", RTX_4090, Truth.MET),
        (" , ", RTX_4090, Truth.MET),
        (OF_12_4, RTX_4090, Truth.MET),
        (OF_12_4, Facts("12.2", "535.54.03", "8.9", "geforce"), Truth.MET),
        (OF_12_4, Facts("12.0", "525.60.13", "8.9", "geforce"), Truth.NOT_MET),
        ("cuda>=13.0 brand=nvidia,driver>=535,driver<536", A100, Truth.MET),
        ("cuda>=13.0 brand=nvidia,driver>=550,driver<551", A100, Truth.NOT_MET),
        ("cuda>=13.0", Facts(None, "535.1", "8.0", "nvidia"), Truth.UNKNOWN),
        ("brand=nvidia", Facts("12.2", "535.1", "8.0", None), Truth.UNKNOWN),
        ("brand=nvidia cuda>=12", Facts("12.2", "535.1", "8.0", None), Truth.MET),
        ("brand=nvidia,cuda>=13", Facts("12.2", "535.1", "8.0", None), Truth.NOT_MET),
        ("cuda>=13.5", Facts("13.4", "640.1", "8.0", "nvidia", cuda_or_later=True), Truth.UNKNOWN),
        ("cuda>=13.0", Facts("13.4", "640.1", "8.0", "nvidia", cuda_or_later=True), Truth.MET),
        ("cuda<13.0", Facts("13.4", "640.1", "8.0", "nvidia", cuda_or_later=True), Truth.NOT_MET),
    ],
)
def test_a_condition_holds_or_not_or_nobody_knows(text: str, facts: Facts, truth: Truth) -> None:
    assert evaluate(parse(text), facts) is truth


@pytest.mark.parametrize(
    "text",
    [
        "cuda",
        "cuda>=",
        ">=12",
        "cuda=>12",
        "cuda==12",
        "cuda!12",
        "cuda>=12,foo=1",
        "cuda>=x",
        "cuda>=12..4",
        "cuda=12=13",
        "brand>=tesla",
        "cuda>=12.4\tbrand=tesla",
    ],
)
def test_what_is_no_condition_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match="is no condition"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "cuda>=12.6 brand=tesla,driver>=470,driver<471",
            "unsatisfied condition: cuda>=12.6, please update your driver to a newer version, or use an earlier "
            "cuda container",
        ),
        ("brand=tesla,driver>=470 cuda>=12", "unsatisfied condition: brand=tesla,driver>=470"),
        ("driver>=580", "unsatisfied condition: driver>=580"),
    ],
)
def test_the_message_names_the_first_alternative_only(text: str, said: str) -> None:
    assert message(parse(text)) == said


@pytest.mark.parametrize(
    ("environment", "conditions"),
    [
        ({"PATH": "/bin"}, ()),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.4", "CUDA_VERSION": "12.4.1"}, ("cuda>=12.4",)),
        ({"CUDA_VERSION": "12.4.1"}, ("cuda>=12.4",)),  # "legacy image"
        ({"NVIDIA_REQUIRE_CUDA": "", "CUDA_VERSION": "11.8"}, ("cuda>=11.8",)),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12", "NVIDIA_REQUIRE_GPU": "arch>=8"}, ("cuda>=12", "arch>=8")),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12", "NVIDIA_DISABLE_REQUIRE": "1"}, ()),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12", "NVIDIA_DISABLE_REQUIRE": "false"}, ("cuda>=12",)),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12", "NVIDIA_DISABLE_REQUIRE": "yes"}, ("cuda>=12",)),
        ({"NVIDIA_REQUIRE_JETPACK": "csv-mounts=base"}, ()),
    ],
)
def test_what_an_environment_demands(environment: dict[str, str], conditions: tuple[str, ...]) -> None:
    assert demanded(environment) == conditions


def test_official_images_list_a_brand_on_a_branch_after_their_own_cuda() -> None:
    text = official("12.9.1")
    assert text
    assert text.startswith(
        "cuda>=12.9 brand=unknown,driver>=535,driver<536 brand=grid,driver>=535,driver<536 "
    )
    assert "geforce" not in text and "brand=geforce,driver>=535,driver<536" in (official("12.4") or "")
    assert len(parse(text).alternatives) == 1 + 5 * 12
    assert official("9.0") is None


KEY = st.sampled_from(["cuda", "driver", "arch"])
VERSION = st.lists(st.integers(0, 999), min_size=1, max_size=3).map(lambda n: ".".join(map(str, n)))
CLAUSE = st.builds(Clause, KEY, st.sampled_from(sorted(OPERATORS)), VERSION) | st.builds(
    Clause, st.just("brand"), st.sampled_from(["=", "!="]), st.sampled_from(["tesla", "geforce", "nvidia"])
)
TERMS = st.lists(st.lists(CLAUSE, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4).map(tuple)
FACTS = st.builds(
    Facts,
    st.none() | VERSION,
    st.none() | VERSION,
    st.none() | VERSION,
    st.none() | st.sampled_from(["tesla", "geforce"]),
    st.booleans(),
)


def written(alternatives: tuple[tuple[Clause, ...], ...]) -> str:
    return " ".join(",".join(f"{c.key}{c.operator}{c.value}" for c in clauses) for clauses in alternatives)


@given(TERMS)
def test_what_is_written_is_read_back(alternatives: tuple[tuple[Clause, ...], ...]) -> None:
    assert parse(written(alternatives)).alternatives == alternatives


@given(st.text(alphabet="cudarivebn<>=!., 0123456789x", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_condition_or_a_value_error(text: str) -> None:
    try:
        condition = parse(text)
    except ValueError as error:
        assert "is no condition" in str(error)
    else:
        assert evaluate(condition, RTX_4090) in Truth


@given(TERMS, FACTS)
def test_learning_an_unknown_fact_never_turns_a_known_answer(
    alternatives: tuple[tuple[Clause, ...], ...], facts: Facts
) -> None:
    condition = Requirement("", alternatives)
    before = evaluate(condition, facts)
    known = Facts(facts.cuda or "12.4", facts.driver or "550.1", facts.arch or "8.0", facts.brand or "nvidia")
    if before is not Truth.UNKNOWN and not facts.cuda_or_later:
        assert evaluate(condition, known) is before


@given(TERMS, FACTS, VERSION)
def test_a_newer_cuda_than_the_least_never_turns_a_known_answer(
    alternatives: tuple[tuple[Clause, ...], ...], facts: Facts, newer: str
) -> None:
    from deployer.quantity import at_least

    condition = Requirement("", alternatives)
    least = Facts(facts.cuda, facts.driver, facts.arch, facts.brand, cuda_or_later=True)
    before = evaluate(condition, least)
    if facts.cuda and at_least(newer, facts.cuda) and before is not Truth.UNKNOWN:
        assert evaluate(condition, Facts(newer, facts.driver, facts.arch, facts.brand)) is before


@given(TERMS, TERMS, FACTS)
def test_another_alternative_never_takes_a_yes_away(
    one: tuple[tuple[Clause, ...], ...], other: tuple[tuple[Clause, ...], ...], facts: Facts
) -> None:
    if evaluate(Requirement("", one), facts) is Truth.MET:
        assert evaluate(Requirement("", one + other), facts) is Truth.MET
