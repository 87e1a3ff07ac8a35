"""The page of the hand-over's requirements: every demand has an answer and a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "reference" / "requirements-hand-over.md").read_text(encoding="utf-8")
TEST = re.compile(r"^\| (R\d+) \| `(\S+\.py)::(\w+)` \|$", re.MULTILINE)
ANSWER = re.compile(r"^\| (R\d+) \| .+ \| .+ \|$", re.MULTILINE)
DEMANDS = [f"R{number}" for number in range(1, 19)]


def functions(path: Path) -> set[str]:
    """The names of the functions of a test file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


def test_every_demand_has_an_answer() -> None:
    assert ANSWER.findall(PAGE) == DEMANDS


def test_every_demand_has_a_test_and_no_other_is_named() -> None:
    named = [number for number, _, _ in TEST.findall(PAGE)]
    assert list(dict.fromkeys(named)) == DEMANDS


@pytest.mark.parametrize(
    ("path", "name"),
    sorted({(path, name) for _, path, name in TEST.findall(PAGE)}),
    ids=lambda each: each.rpartition("/")[2],
)
def test_each_test_that_is_named_exists(path: str, name: str) -> None:
    assert name in functions(ROOT / path)


def test_the_protocol_page_explains_its_words_and_speaks_of_no_users_options() -> None:
    text = (DOCS / "reference" / "hand-over-messages.md").read_text(encoding="utf-8")
    for undefined in ("page-per-vq", "MemoryRegion", "passively", "accelerator context"):
        assert undefined not in text
    words = text.partition("## Words")[2].partition("\n## ")[0]
    for word in ("notify area", "device descriptor", "region", "group", "container", "kick fd"):
        assert re.search(rf"^\| [^|]*\b{word}\b[^|]* \| [^|]+ \| [^|]+ \|$", words, re.MULTILINE)
