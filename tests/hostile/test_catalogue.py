"""The hostile tests against the catalogue: none unknown, none forgotten, the open ones listed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "reference" / "hostile-input.md"
REQUIRED = frozenset(
    chain(
        range(1, 41),
        range(42, 47),
        (48, 49),
        range(54, 85),
        (93, 96),
        range(97, 115),
        (117, 118, 121, 122),
    )
)
ITEM = re.compile(r"^\| (\d+) \| \S", re.MULTILINE)
TEST = re.compile(r"^(\S+\.py)::hostile\[(\S+)\]$", re.MULTILINE)
IDENTITY = re.compile(r"^(\d{2,3})-[a-z0-9]+(-[a-z0-9]+)*$")


@pytest.fixture(scope="module")
def tests() -> list[tuple[str, str]]:
    """File and id of every hostile test, as pytest collects them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    outcome = subprocess.run(
        [*command, str(HERE), f"--rootdir={ROOT}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return TEST.findall(outcome.stdout)


def catalogue() -> set[int]:
    return {int(number) for number in ITEM.findall(PAGE.read_text(encoding="utf-8"))}


def listed_as_open() -> set[int]:
    section = PAGE.read_text(encoding="utf-8").split("## Still open")[1].split("##")[0]
    numbers: set[int] = set()
    for first, last in re.findall(r"\b(\d+)(?:-(\d+))?\b", section):
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def covered(tests: list[tuple[str, str]]) -> set[int]:
    return {int(identity.split("-")[0]) for _, identity in tests}


def test_the_page_has_every_number_once_and_in_order() -> None:
    numbers = [int(number) for number in ITEM.findall(PAGE.read_text(encoding="utf-8"))]
    assert numbers == list(range(1, 123))


def test_every_id_is_a_number_of_the_catalogue_with_a_variant(tests: list[tuple[str, str]]) -> None:
    assert [identity for _, identity in tests if not IDENTITY.match(identity)] == []
    assert covered(tests) <= catalogue()


def test_no_id_stands_for_two_tests(tests: list[tuple[str, str]]) -> None:
    counts = Counter(identity for _, identity in tests)
    assert [identity for identity, count in counts.items() if count > 1] == []


def test_every_number_that_was_promised_has_a_test(tests: list[tuple[str, str]]) -> None:
    assert sorted(REQUIRED - covered(tests)) == []


def test_the_page_lists_exactly_the_numbers_without_a_test(tests: list[tuple[str, str]]) -> None:
    assert sorted(listed_as_open()) == sorted(catalogue() - covered(tests))
