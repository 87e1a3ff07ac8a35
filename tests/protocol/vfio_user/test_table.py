"""A walk over the command table: each row is complete, and nothing stands in it twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from protocol import vfio_user as v
from protocol.vfio_user import formats, messages

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "vfio-user.md"


def test_the_commands_are_those_of_the_specification() -> None:
    assert [row.number for row in v.ROWS] == [*range(1, 14), *range(15, 19)]
    assert len({row.name for row in v.ROWS}) == len(v.ROWS)
    assert {row.name for row in v.ROWS if row.sender is v.Role.SERVER} == {"DMA_READ", "DMA_WRITE"}
    assert v.Role.CLIENT.other is v.Role.SERVER
    assert v.Role.SERVER.other is v.Role.CLIENT


def test_each_class_belongs_to_one_row(row: v.CommandRow) -> None:
    assert row.request.message is not None
    assert v.row_of(row.request.message) is row
    if row.reply.message is not None:
        assert v.row_of(row.reply.message) is row
    assert v.row_of(v.Message) is None


def test_each_class_of_messages_is_in_the_table() -> None:
    listed = {part.message for row in v.ROWS for part in (row.request, row.reply)}
    classes = {
        value
        for value in vars(messages).values()
        if isinstance(value, type) and issubclass(value, v.Message)
    }
    assert classes - listed == {v.Message, messages.Described, messages.Query}


def test_each_layout_has_the_fields_of_its_class(any_golden: Any) -> None:
    row = v.row_of(type(any_golden.message))
    assert row is not None
    part = row.request if row.request.message is type(any_golden.message) else row.reply
    names = {name for name, _ in part.payload.rows()}
    assert set(any_golden.message.to_fields()) == names


def test_a_row_says_what_it_is_for(row: v.CommandRow) -> None:
    assert row.section == f"VFIO_USER_{row.name}"
    assert row.summary.endswith(".")


def test_the_reference_page_is_current_and_has_every_command(row: v.CommandRow) -> None:
    page = v.reference_page()
    assert PAGE.read_text(encoding="utf-8") == page
    entry = page.partition(f"### {row.name}\n")[2].partition("\n### ")[0]
    assert row.summary in entry
    for part in (row.request, row.reply):
        if part.message is not None:
            for field in dataclasses.fields(part.message):
                assert f"- `{field.name}`: " in entry


@pytest.mark.parametrize("layout", [formats.CAPABILITY, formats.IO_FD, formats.FEATURE_REPORT])
def test_the_reference_page_has_layouts_inside_payloads(layout: Any) -> None:
    assert f"### {layout.name}\n" in v.reference_page()
