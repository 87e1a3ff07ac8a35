"""Messages in words: one line, every field, bounded."""

from __future__ import annotations

import dataclasses
from typing import Any

from protocol import vfio_user as v
from protocol.addresses import Iova


def test_a_description_names_the_command_and_every_field(any_golden: Any) -> None:
    message = any_golden.message
    row = v.row_of(type(message))
    assert row is not None
    line = v.describe(message)
    name = row.name if row.request.message is type(message) else f"{row.name}_REPLY"
    assert line.split(" ")[0] == name
    assert "\n" not in line
    for field in dataclasses.fields(message):
        assert f" {field.name}=" in line


def test_values_are_shown_as_people_read_them() -> None:
    assert v.describe(v.DmaMap(address=Iova(0x10_0000), size=0x2000, flags=1)) == (
        "DMA_MAP argsz=32 flags=1 offset=0 address=0x100000 size=0x2000"
    )
    write = v.RegionWriteMulti(writes=(v.RegionWrite(offset=4, region=2, data=b"\1"),))
    assert v.describe(write) == "REGION_WRITE_MULTI writes=[{offset=4 region=2 data=01}]"
    assert v.describe(v.DeviceReset()) == "DEVICE_RESET"


def test_a_long_message_has_a_short_description() -> None:
    many = tuple(v.RegionWrite(offset=at, region=2, data=b"\1") for at in range(1024))
    assert len(v.describe(v.RegionWriteMulti(writes=many))) < 400
    assert len(v.describe(v.RegionWrite(offset=0, region=0, data=bytes(1 << 20)))) < 100
