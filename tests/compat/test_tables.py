"""The tables: every row can be read, says where it is from, and agrees with the other tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deployer import compat, images
from deployer.compat import tables
from deployer.quantity import at_least, parse_version
from deployer.resources import PACKAGE

ROOT = Path(__file__).resolve().parents[2]
DATA = PACKAGE / "compat" / "data"
FILES = sorted(path.name for path in DATA.glob("*.tsv"))


def rows(name: str) -> list[list[str]]:
    lines = (DATA / name).read_text().splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", FILES)
def test_a_table_names_its_source_and_its_columns(name: str) -> None:
    text = (DATA / name).read_text()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    columns = comments[-1].removeprefix("# ").split("\t")
    assert all(line.startswith("#") for line in text.splitlines()[: len(comments)]), "comments come first"
    assert {len(row) for row in rows(name)} == {len(columns)}
    assert re.search(r"nvidia\.com|NVIDIA|PyPI|GitLab", "".join(comments[:-1])), (
        "a source that anybody can open"
    )
    assert all(cell == cell.strip() and cell for row in rows(name) for cell in row)
    assert len({tuple(row) for row in rows(name)}) == len(rows(name))


def test_every_version_in_every_table_is_one() -> None:
    for name, columns in {
        "cuda.tsv": (0, 1),
        "families.tsv": (0, 1),
        "branches.tsv": (0, 1),
        "cudnn.tsv": (0, 1, 3),
        "torch.tsv": (0, 3),
        "toolkit.tsv": (0,),
        "requires.tsv": (0,),
        "forward.tsv": (0,),
        "architectures.tsv": (0,),
        "gpus.tsv": (1,),
    }.items():
        for row in rows(name):
            for column in columns:
                parse_version(row[column])


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("gpus.tsv", "torch.tsv")])
def test_rows_are_in_order(name: str) -> None:
    keys = [parse_version(".".join(row[:2]) if name == "cudnn.tsv" else row[0]) for row in rows(name)]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


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


def test_compat_packages_work_on_older_branches_only() -> None:
    known = {row[0] for row in rows("branches.tsv")}
    for cuda, works_on, not_needed in rows("forward.tsv"):
        own = tables.cuda_driver(cuda)
        assert own
        for branch in works_on.split():
            assert branch == "-" or (branch in known and int(branch) < int(own.split(".")[0]))
        assert not_needed == "-" or not_needed == own.split(".")[0]


def test_branches_speak_the_cuda_that_their_release_names() -> None:
    for branch, cuda, *_, mark in rows("branches.tsv"):
        own = tables.cuda_driver(cuda)
        assert (own is None and mark == "M") or (own and own.split(".")[0] == branch), branch


def test_a_torch_build_fits_its_cuda_its_cudnn_and_the_architectures_that_cuda_makes_code_for() -> None:
    for version, build, index, cuda, cudnn, x86_64, aarch64, mark in rows("torch.tsv"):
        assert build == f"cu{cuda.replace('.', '')}"
        assert index in ("pypi", "pytorch") and mark in ("elf", "code")
        assert (cudnn != "?") == (index == "pypi"), version
        for capability in f"{x86_64} {aarch64}".split():
            if capability in ("cpu", "?"):
                continue
            row = tables.architecture(capability)
            assert row, capability
            assert row["first_cuda"] == "-" or at_least(cuda, row["first_cuda"])
            assert row["last_cuda"] == "-" or at_least(row["last_cuda"], cuda)
            if cudnn != "?":
                known = tables.cudnn_capabilities(cudnn, cuda)
                assert known, cudnn
                # torch 2.8 to 2.10 keep code for 7.0 beside a cuDNN that still has it
                assert at_least(capability, min(known[0], key=parse_version))


def test_each_torch_has_one_default_build() -> None:
    default = [row[0] for row in rows("torch.tsv") if row[2] == "pypi"]
    assert sorted(default) == sorted({row[0] for row in rows("torch.tsv")})


def test_the_projects_own_images_agree_with_the_table() -> None:
    seen = 0
    for variant in (v for name in images.names() for v in images.load(name).variants if v.pins.get("cuda")):
        assert variant.min_driver == tables.family_driver(variant.pins["cuda"])
        if "torch" not in variant.pins:
            continue
        row = next(
            r for r in rows("torch.tsv") if r[0] == variant.pins["torch"] and r[3] == variant.pins["cuda"]
        )
        assert variant.pins["cudnn"] == row[4]
        assert list(variant.compute_capability) == row[5].split()
        seen += 1
    assert seen


@pytest.mark.parametrize(
    ("code", "capability", "cuda", "runs"),
    [
        ("8.6", "8.9", None, True),
        ("8.9", "8.6", None, False),
        ("9.0", "10.0", None, False),
        ("10.0", "10.3", None, True),
        ("12.0", "12.1", None, True),
        ("8.0", "8.7", "13.0", False),
        ("8.0", "8.7", "13.2", True),
        ("8.7", "8.9", "13.2", False),
        ("10.1", "11.0", None, True),
        ("7.0", "7.5", None, True),
        ("5.0", "5.3", "13.2", False),
    ],
)
def test_code_runs_on_its_own_major_version_and_later_minors(
    code: str, capability: str, cuda: str | None, runs: bool
) -> None:
    assert compat.runs_on(code, capability, cuda) is runs


@pytest.mark.parametrize(
    ("shortened", "release"),
    [("550.54", "550.54.14"), ("580", "580.65.06"), ("550.54.14", "550.54.14"), ("999", "999"), ("5", "5")],
)
def test_a_shortened_driver_is_the_first_release_that_begins_so(shortened: str, release: str) -> None:
    assert compat.complete(shortened) == release


@pytest.mark.parametrize("name", FILES)
def test_a_table_is_documented(name: str) -> None:
    assert f"| `{name}` |" in (ROOT / "docs/compat.md").read_text()


def test_nothing_in_the_tables_points_to_a_place_that_only_some_have() -> None:
    for path in (*DATA.glob("*.tsv"), *(PACKAGE / "compat").glob("*.py"), ROOT / "docs/compat.md"):
        assert not re.search(r"\.\./|/home/", path.read_text()), path
