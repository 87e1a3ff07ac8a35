"""The reference pages are generated, current, and have every row of their tables."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from protocol import vhost_user as v

SCRIPT = Path(__file__).parents[3] / "docs" / "generate.py"


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "reference")
    return module


def test_the_pages_are_current(generate: Any) -> None:
    for name, make in generate.PAGES.items():
        page = SCRIPT.parent / "reference" / name
        assert page.read_text(encoding="utf-8") == make()


def test_a_page_that_differs_fails_the_check(
    generate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--check"]) == 1
    assert "run python docs/generate.py" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    for name in generate.PAGES:
        page = generate.FOLDER / name
        before = page.read_text(encoding="utf-8")
        page.write_text("something else", encoding="utf-8")
        assert generate.main(["--check"]) == 1
        page.write_text(before, encoding="utf-8")


def test_each_row_is_documented_with_its_fields(generate: Any, row: v.MessageRow) -> None:
    text = generate.messages_page()
    assert f"| {row.number} | [{row.name}](#{row.name.lower()}) | {row.payload.name} |" in text
    entry = text.partition(f"### {row.name}\n")[2].partition("\n### ")[0]
    assert row.section in entry
    for field in dataclasses.fields(row.message):
        assert f"- `{field.name}`: " in entry


def test_each_dialect_and_each_state_is_documented(generate: Any) -> None:
    text = generate.messages_page()
    for dialect in v.DIALECTS.values():
        assert f"### {dialect.name}\n" in text
        assert all(f"### {row.name}\n" in text for row in dialect.replaced)
    for kind in (v.ConnectionState, v.RingRun, v.RingGate, v.DeviceRun, v.Postcopy):
        assert all(f" {state.value} --> " in text for state in kind)


def test_each_layout_is_documented_with_offsets(generate: Any) -> None:
    text = generate.messages_page()
    entry = text.partition("### vring address description\n")[2].partition("\n### ")[0]
    assert "| 32 | 8 | log |" in entry
    assert "40 bytes." in entry
