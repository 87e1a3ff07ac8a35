"""Values that no message may hold: the constructor names field, value and rule."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import vhost_user as v
from protocol.vhost_user import formats

BIG = 1 << 64


def region(**changes: int) -> v.MemRegion:
    fields: dict[str, Any] = {"gpa": 0, "size": 4096, "uva": 0, "offset": 0, **changes}
    return v.MemRegion(**fields)


ILLEGAL: list[tuple[str, Any, str, Any, str]] = [
    ("num-0", lambda: v.SetVringNum(index=0, num=0), "num", 0, "1 to 32768"),
    ("num-32769", lambda: v.SetVringNum(index=0, num=32769), "num", 32769, "1 to 32768"),
    ("kick-256", lambda: v.SetVringKick(index=256), "index", 256, "bits 0-7"),
    ("enable-2", lambda: v.SetVringEnable(index=0, enable=2), "enable", 2, "0 or 1"),
    ("endian-2", lambda: v.SetVringEndian(index=0, endian=2), "endian", 2, "0 .little. or 1"),
    ("kick-num", lambda: v.VringKick(index=0, num=1), "num", 1, "reserved"),
    ("call-num", lambda: v.BackendVringCall(index=0, num=1), "num", 1, "reserved"),
    ("err-num", lambda: v.BackendVringErr(index=0, num=1), "num", 1, "reserved"),
    ("mac-5", lambda: v.SendRarp(mac=bytes(5)), "mac", bytes(5), "6 bytes"),
    ("mtu-65536", lambda: v.NetSetMtu(mtu=65536), "mtu", 65536, "16 bits"),
    ("status-256", lambda: v.SetStatus(status=256), "status", 256, "8 bits"),
    ("uuid-15", lambda: v.GetSharedObject(uuid=bytes(15)), "uuid", bytes(15), "16 bytes"),
    ("uuid-17", lambda: v.SharedObjectAdd(uuid=bytes(17)), "uuid", bytes(17), "16 bytes"),
    ("reply-uuid", lambda: v.SharedObjectReply(uuid=b"x"), "uuid", b"x", "16 bytes"),
    ("direction", lambda: v.SetDeviceStateFd(direction=2), "direction", 2, "save"),
    ("phase", lambda: v.SetDeviceStateFd(direction=0, phase=1), "phase", 1, "stopped"),
    ("region-size-0", lambda: region(size=0), "size", 0, "at least one byte"),
    ("region-gpa", lambda: region(gpa=BIG - 4095), "gpa", BIG - 4095, "2\\^64"),
    ("region-uva", lambda: region(uva=BIG - 4095), "uva", BIG - 4095, "2\\^64"),
    ("region-offset", lambda: region(offset=BIG - 4095), "offset", BIG - 4095, "2\\^64"),
    ("nine-regions", lambda: v.SetMemTable(regions=(region(),) * 9), "count", 9, "at most 8"),
    (
        "log-wrap",
        lambda: v.SetLogBase(size=BIG - 4096, offset=8192),
        "offset",
        8192,
        "2\\^64",
    ),
    (
        "inflight-size-0",
        lambda: v.SetInflightFd(mmap_size=0, mmap_offset=0, num_queues=1, queue_size=1),
        "size",
        0,
        "at least one byte",
    ),
    (
        "ring-flags",
        lambda: v.SetVringAddr(
            index=0, flags=2, desc=v.Uva(0), used=v.Uva(0), avail=v.Uva(0), log=v.Gpa(0)
        ),
        "flags",
        2,
        "reserved",
    ),
    ("config-0", lambda: v.GetConfig(offset=0, size=0), "size", 0, "1 to 256"),
    ("config-257", lambda: v.GetConfig(offset=0, size=257), "size", 257, "1 to 256"),
    (
        "config-wrap",
        lambda: v.GetConfig(offset=0xFFFF_FFFF, size=2),
        "offset",
        0xFFFF_FFFF,
        "2\\^32",
    ),
    ("config-flags", lambda: v.SetConfig(offset=0, data=b"x", flags=2), "flags", 2, "migration"),
    ("config-data", lambda: v.GetConfig(offset=0, size=2, data=b"x"), "data", b"x", "as many"),
    ("set-config-0", lambda: v.SetConfig(offset=0, data=b""), "size", 0, "1 to 256"),
    ("iotlb-type", lambda: iotlb(type=1), "type", 1, "update"),
    ("iotlb-perm", lambda: iotlb(perm=4), "perm", 4, "read"),
    ("iotlb-wrap", lambda: iotlb(iova=BIG - 1), "iova", BIG - 1, "2\\^64"),
    ("iotlb-uva", lambda: iotlb(uva=BIG - 1), "uva", BIG - 1, "2\\^64"),
    (
        "miss-type",
        lambda: v.BackendIotlbMsg(iova=v.Iova(0), perm=0, type=2),
        "type",
        2,
        "miss",
    ),
    (
        "miss-perm",
        lambda: v.BackendIotlbMsg(iova=v.Iova(0), perm=4, type=1),
        "perm",
        4,
        "read",
    ),
    (
        "shmem-id",
        lambda: v.ShmemMap(shmid=256, shm_offset=0, length=1),
        "shmid",
        256,
        "0 to 255",
    ),
    (
        "shmem-flags",
        lambda: v.ShmemMap(shmid=0, shm_offset=0, length=1, flags=2),
        "flags",
        2,
        "reserved",
    ),
    (
        "shmem-length",
        lambda: v.ShmemUnmap(shmid=0, shm_offset=0, length=0),
        "size",
        0,
        "at least one byte",
    ),
    ("shmem-sizes", lambda: v.ShmemConfig(sizes=(1,)), "sizes", 1, "256 sizes"),
    ("log-reply", lambda: v.LogBaseReply(body=b"x"), "body", b"x", "0 or 8"),
]


def iotlb(**changes: int) -> v.IotlbMsg:
    fields: dict[str, Any] = {"iova": 0, "size": 4096, "uva": 0, "perm": 3, "type": 2, **changes}
    return v.IotlbMsg(**fields)


@pytest.mark.parametrize(
    ("make", "field", "value", "rule"),
    [case[1:] for case in ILLEGAL],
    ids=[case[0] for case in ILLEGAL],
)
def test_an_illegal_message_cannot_be_made(make: Any, field: str, value: Any, rule: str) -> None:
    with pytest.raises(v.LocalProtocolError, match=rule) as caught:
        make()
    assert (caught.value.field, caught.value.value) == (field, value)


BAD_FIELDS: list[tuple[str, Any, dict[str, Any], str, str]] = [
    ("kick-bit-9", v.SetVringKick, {"index_and_flags": 0x200}, "index_and_flags", "bits 9-63"),
    ("kick-bit-63", v.SetVringErr, {"index_and_flags": 1 << 63}, "index_and_flags", "bits 9-63"),
    (
        "area",
        v.VringHostNotifier,
        {"index_and_flags": 512, "size": 1, "offset": 0},
        "index_and_flags",
        "bits 9-63",
    ),
    ("table-count", v.SetMemTable, {"count": 2, "regions": ()}, "count", "number of regions"),
    (
        "table-huge",
        v.SetMemTable,
        {"count": 0xFFFF_FFFF, "regions": ()},
        "count",
        "number of regions",
    ),
    (
        "get-config",
        v.GetConfig,
        {"offset": 0, "size": 8, "flags": 0, "data": b"1234"},
        "size",
        "here 4",
    ),
    (
        "set-config",
        v.SetConfig,
        {"offset": 0, "size": 8, "flags": 0, "data": b"1234"},
        "size",
        "here 4",
    ),
    (
        "config-reply",
        v.ConfigReply,
        {"offset": 0, "size": 8, "flags": 0, "data": b"1234"},
        "size",
        "here 4",
    ),
    ("shmem", v.ShmemConfig, {"count": 1, "sizes": (0,) * 256}, "count", "here 0"),
]


@pytest.mark.parametrize(
    ("kind", "fields", "field", "rule"),
    [case[1:] for case in BAD_FIELDS],
    ids=[case[0] for case in BAD_FIELDS],
)
def test_fields_that_contradict_each_other_make_no_message(
    kind: Any, fields: dict[str, Any], field: str, rule: str
) -> None:
    with pytest.raises(v.LocalProtocolError, match=rule) as caught:
        kind.from_fields(fields)
    assert caught.value.field == field


def test_the_last_byte_of_each_address_space_may_be_used() -> None:
    assert region(gpa=BIG - 4096, uva=BIG - 4096, offset=BIG - 4096).gpa == BIG - 4096


def test_a_configuration_request_without_data_carries_zeros() -> None:
    assert v.GetConfig(offset=0, size=3).data == bytes(3)


def test_flags_of_a_configuration_request_are_not_looked_at() -> None:
    assert v.GetConfig(offset=0, size=3, flags=2).flags == 2


def test_an_empty_payload_is_a_configuration_reply_that_reports_an_error() -> None:
    assert v.ConfigReply.from_fields({}) == v.ConfigReply()


def test_feature_bits_that_nobody_has_named_are_kept() -> None:
    bits = 1 << 63 | 1 << 24
    assert int(v.SetFeatures.from_fields({"value": bits}).features) == bits
    assert int(v.SetProtocolFeatures.from_fields({"value": bits}).features) == bits


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        v.U64(value=1).value = 2  # type: ignore[misc]


@given(setup=st.binary(max_size=64), op_code=st.integers(0, BIG - 1), session=st.integers(-9, 9))
def test_a_crypto_session_survives_the_wire(setup: bytes, op_code: int, session: int) -> None:
    message = v.CreateCryptoSession(op_code=op_code, setup=setup, session_id=session)
    payload = formats.CRYPTO_SESSION.build(message.to_fields())
    assert v.CreateCryptoSession.from_fields(formats.CRYPTO_SESSION.parse(payload)) == message


@given(index=st.integers(0, 255), no_fd=st.booleans())
def test_index_and_no_fd_flag_survive_the_wire(index: int, no_fd: bool) -> None:
    message = v.SetVringCall(index=index, no_fd=no_fd)
    assert v.SetVringCall.from_fields(message.to_fields()) == message
    assert message.fd_count() == (0 if no_fd else 1)
