"""The RFC dialects: other numbers, other features, and golden bytes from a C structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cffi
import pytest

from protocol import vhost_user as v
from protocol.virtio.features import VirtioFeatures
from vhostuser.testing import CountingFd

RFCS = [(v.RFC_V2, 3, 8, v.Rfc2Feature.VFIO), (v.RFC_V1, 2, 7, v.Rfc1Feature.VFIO)]
every_rfc = pytest.mark.parametrize(
    ("dialect", "first", "bit", "feature"), RFCS, ids=["rfc-v2", "rfc-v1"]
)


def back_end(dialect: v.Dialect, *, version_1: bool = True) -> v.Connection:
    features = VirtioFeatures.VERSION_1 if version_1 else VirtioFeatures(0)
    vfio = v.ProtocolFeatures((1 << 8) if dialect is v.RFC_V2 else (1 << 7))
    negotiated = v.Negotiated(features, vfio | v.ProtocolFeatures.REPLY_ACK)
    return v.Connection(v.Role.BACK_END, v.Channel.BACK_END, dialect=dialect, negotiated=negotiated)


def c_bytes(number: int, flags: int, word: int, area: tuple[int, int] | None = None) -> bytes:
    """Return a message of the RFC, laid out by a C structure made from its field list."""
    ffi = cffi.FFI()
    ffi.cdef(
        "struct group { uint32_t request, flags, size; uint64_t u64; };"
        "struct area { uint32_t request, flags, size; uint64_t u64, size_, offset; };",
        packed=True,
    )
    kind = "struct area *" if area else "struct group *"
    made: Any = ffi.new(kind)
    made.request, made.flags, made.u64 = number, flags, word
    made.size = 24 if area else 8
    if area:
        made.size_, made.offset = area
    return bytes(ffi.buffer(made))


@every_rfc
def test_the_rfc_messages_equal_the_c_structure(
    dialect: v.Dialect, first: int, bit: int, feature: Any
) -> None:
    connection = back_end(dialect)
    fd = CountingFd()
    group = connection.request(v.VringVfioGroup(index=2), fds=(fd,), need_reply=True)
    assert group.data == c_bytes(first, 9, 2)
    assert group.fds == (fd,)
    gone = connection.request(v.VringVfioGroup(index=2, no_fd=True))
    assert gone.data == c_bytes(first, 1, 0x102)
    area = connection.request(v.VringNotifyArea(index=1, size=4096, offset=8192), fds=(fd,))
    assert area.data == c_bytes(first + 1, 1, 1, (4096, 8192))
    assert feature.value == bit
    assert dialect.feature_names[bit] == "VFIO"


@every_rfc
def test_a_golden_rfc_message_is_taken_by_the_other_side(
    dialect: v.Dialect, first: int, bit: int, feature: Any, rfc_golden: Any
) -> None:
    row = dialect.row_of(type(rfc_golden.message))
    assert row is not None
    assert row.number in (first, first + 1)
    assert row.feature is feature
    assert row.section.startswith("RFC")
    vfio = v.ProtocolFeatures(1 << bit)
    front_end = v.Connection(
        v.Role.FRONT_END,
        v.Channel.BACK_END,
        dialect=dialect,
        negotiated=v.Negotiated(VirtioFeatures.VERSION_1, vfio),
    )
    fds = tuple(CountingFd() for _ in range(rfc_golden.fds))
    size = len(rfc_golden.payload)
    front_end.receive(v.Header(number=row.number, flags=1, size=size).build(), fds)
    request = front_end.receive(rfc_golden.payload)
    assert isinstance(request, v.Request)
    assert request.message == rfc_golden.message
    assert request.fds == fds


@every_rfc
def test_messages_of_the_displaced_feature_do_not_exist(
    dialect: v.Dialect, first: int, bit: int, feature: Any
) -> None:
    displaced = v.ProtocolFeature(bit)
    rows = list(dialect.rows())
    assert any(row.feature is displaced for row in v.CURRENT.rows())
    assert not any(row.feature is displaced for row in rows)
    assert sum(row.feature is feature for row in rows) == 2
    numbers = [(row.channel, row.number) for row in rows]
    assert len(set(numbers)) == len(numbers)
    assert dialect.row(v.Channel.BACK_END, first) is dialect.row_of(v.VringVfioGroup)


@every_rfc
def test_a_notify_area_needs_version_1(
    dialect: v.Dialect, first: int, bit: int, feature: Any
) -> None:
    connection = back_end(dialect, version_1=False)
    with pytest.raises(v.LocalProtocolError, match="VERSION_1"):
        connection.request(v.VringNotifyArea(index=0, no_fd=True))
    assert connection.request(v.VringVfioGroup(index=0, no_fd=True)).data[:1] == bytes([first])
    assert bit == feature.value


def test_the_current_dialect_knows_nothing_of_the_rfcs() -> None:
    assert v.CURRENT.row_of(v.VringVfioGroup) is None
    assert v.CURRENT.feature_names[8] == "PAGEFAULT"
    with pytest.raises(v.LocalProtocolError, match="of its own channel"):
        back_end(v.CURRENT).request(v.VringVfioGroup(index=0, no_fd=True))


def test_dialects_are_found_by_name_and_listed_in_order() -> None:
    assert list(v.DIALECTS) == ["current", "rfc-v2", "rfc-v1"]
    assert repr(v.DIALECTS["rfc-v2"]) == "Dialect('rfc-v2')"
    keys = [(row.channel.value, row.number) for row in v.CURRENT.rows()]
    assert keys == sorted(keys, key=lambda key: (key[0] == "back-end", key[1]))
    assert [row.number for row in v.CURRENT.rows(v.Channel.BACK_END)] == list(range(1, 11))


def test_old_words_stand_in_the_dialect_module_alone() -> None:
    root = Path(v.__file__).parent  # PCI has masters, too: of the bus
    for file in root.rglob("*.py"):
        text = file.read_text(encoding="utf-8").lower()
        assert file.name == "dialect.py" or ("master" not in text and "slave" not in text), file
