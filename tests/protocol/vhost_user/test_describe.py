"""Messages in words."""

from __future__ import annotations

import pytest

from protocol import vhost_user as v
from protocol.virtio.features import VirtioFeatures


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (v.GetFeatures(), "GET_FEATURES"),
        (v.SetVringNum(index=1, num=128), "SET_VRING_NUM index=1 num=128"),
        (v.SetVringKick(index=1, no_fd=True), "SET_VRING_KICK index=1 no_fd=true"),
        (
            v.SetFeatures(features=VirtioFeatures.VERSION_1 | VirtioFeatures(1 << 45)),
            "SET_FEATURES features=VERSION_1|bit45",
        ),
        (
            v.SetProtocolFeatures(features=v.ProtocolFeatures.PAGEFAULT),
            "SET_PROTOCOL_FEATURES features=PAGEFAULT",
        ),
        (
            v.SetMemTable(regions=(v.MemRegion(gpa=v.Gpa(0), size=4096, uva=v.Uva(8192)),)),
            "SET_MEM_TABLE regions=[{gpa=0x0 size=0x1000 uva=0x2000 offset=0x0}]",
        ),
        (v.U64(value=0x10000), "U64 value=0x10000"),
        (v.SendRarp(mac=bytes(6)), "SEND_RARP mac=000000000000"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, v.Message) else "",
)
def test_a_message_is_named_with_all_its_fields(message: v.Message, text: str) -> None:
    assert v.describe(message) == text


def test_a_dialect_names_its_own_features() -> None:
    message = v.SetProtocolFeatures(features=v.ProtocolFeatures.PAGEFAULT)
    assert v.describe(message, v.RFC_V2) == "SET_PROTOCOL_FEATURES features=VFIO"


def test_every_message_can_be_described(request_golden: object) -> None:
    message = request_golden.message  # type: ignore[attr-defined]
    row = v.CURRENT.row_of(type(message))
    assert row is not None
    assert v.describe(message).split(" ")[0] == row.name
    assert "\n" not in v.describe(message)
