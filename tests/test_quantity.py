from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.quantity import (
    at_least,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    parse_version,
)

VERSIONS = st.lists(st.integers(0, 999), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
# arbitrary text, and text that is nearly right
TEXTS = st.text() | st.from_regex(r"\s*\d*\.?\d* ?([kKmMgGtT]?i?[bB]|ms|s|min|h|%)?", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8 GB", 8 * 10**9),
        ("8GB", 8 * 10**9),
        (" 8 gb ", 8 * 10**9),
        ("8 GiB", 8 * 2**30),
        ("512 MiB", 2**29),
        ("1.5 kB", 1500),
        ("98362432 B", 98362432),
        ("0.1 TB", 10**11),
        ("999999999999999 B", 999999999999999),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text",
    ["8", "8 Gb/s", "GB", "", "-1 GB", "1e3 GB", "8,5 GB", "8 GB GB", "9" * 400 + " GB"],
    ids=lambda t: t[:12],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="for example 8 GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500 ms", 0.5), ("2 s", 2.0), ("1.5 min", 90.0), ("1 h", 3600.0), ("2S", 2.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["2", "2 days", "s", "9" * 400 + " s"], ids=lambda t: t[:12])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="for example 500 ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (98362432, "98.4 MB"),
        (99_960_000, "100 MB"),
        (999_700_000, "1 GB"),
        (8 * 10**9, "8 GB"),
        (2 * 10**12, "2 TB"),
    ],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0423, "42 ms"), (3.21, "3.2 s"), (75, "1 min 15 s"), (120, "2 min")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**15))
def test_a_printed_size_reads_back_within_its_three_figures(count: int) -> None:
    assert parse_size(format_size(count)) == pytest.approx(count, rel=0.006)


@pytest.mark.parametrize(
    ("text", "parts"), [("580.65.06", (580, 65, 6)), ("13.0", (13, 0)), ("3", (3,)), (" 1.2 ", (1, 2))]
)
def test_versions(text: str, parts: tuple[int, ...]) -> None:
    assert parse_version(text) == parts


@pytest.mark.parametrize("text", ["", "v1", "1.", ".1", "1..2", "1.2rc1", "1 2"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="numbers and dots"):
        parse_version(text)


@pytest.mark.parametrize("parse", [parse_size, parse_duration, parse_version], ids=lambda f: f.__name__)
def test_any_text_is_parsed_or_refused_with_a_value_error(parse: Callable[[str], object]) -> None:
    @given(TEXTS)
    def holds(text: str) -> None:
        try:
            parse(text)
        except ValueError as error:
            assert str(error)

    holds()


@pytest.mark.parametrize(
    ("found", "wanted", "enough"),
    [
        ("580.65.06", "580.65.06", True),
        ("580.65.06", "580.65.6", True),
        ("580.105", "580.65.06", True),
        ("580", "580.0.0", True),
        ("580", "580.0.1", False),
        ("3.9.18", "3.10", False),
        ("550.54.14", "580.65.06", False),
    ],
)
def test_at_least(found: str, wanted: str, enough: bool) -> None:
    assert at_least(found, wanted) is enough


@given(VERSIONS, VERSIONS, VERSIONS)
def test_at_least_is_a_total_order(a: str, b: str, c: str) -> None:
    assert at_least(a, b) or at_least(b, a)
    assert not (at_least(a, b) and at_least(b, c)) or at_least(a, c)
    if at_least(a, b) and at_least(b, a):
        width = max(a.count("."), b.count("."))
        assert parse_version(a + ".0" * (width - a.count("."))) == parse_version(
            b + ".0" * (width - b.count("."))
        )


@given(VERSIONS, VERSIONS, st.integers(0, 3))
def test_trailing_zeros_change_nothing(a: str, b: str, zeros: int) -> None:
    assert at_least(a + ".0" * zeros, b) == at_least(a, b)
    assert at_least(a, b + ".0" * zeros) == at_least(a, b)
