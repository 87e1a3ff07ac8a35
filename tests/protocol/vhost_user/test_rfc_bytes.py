"""The bytes of the hand-over messages against C: the RFCs' field lists, laid out by a compiler.

No peer speaks the RFCs any more, so that a struct made of the field names and types in their text
stands for one.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from protocol.vhost_user import (
    CURRENT,
    RFC_V1,
    RFC_V2,
    Channel,
    Connection,
    Dialect,
    Message,
    Negotiated,
    ProtocolFeatures,
    Role,
    VringHostNotifier,
    VringNotifyArea,
    VringVfioGroup,
)
from protocol.virtio import VirtioFeatures
from vhostuser.testing import CountingFd

if TYPE_CHECKING:
    from pathlib import Path

# Header: request, flags, size; payload: one u64, or "u64 | size | offset" (vring area description).
SOURCE = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct area {
    uint64_t u64;
    uint64_t size;
    uint64_t offset;
};

struct message {
    uint32_t request;
    uint32_t flags;
    uint32_t size;
    union {
        uint64_t u64;
        struct area area;
    } payload;
} __attribute__((packed));

enum { VERSION = 1, NEED_REPLY = 1 << 3, NOFD = 1 << 8 };

int main(int argc, char **argv)
{
    struct message message;
    uint64_t queue = strtoull(argv[3], NULL, 0);
    int is_area = strcmp(argv[2], "area") == 0, is_removed = strcmp(argv[4], "remove") == 0;

    if (argc != 7)
        return 1;
    memset(&message, 0, sizeof(message));
    message.request = (uint32_t)strtoul(argv[1], NULL, 0);
    message.flags = VERSION | NEED_REPLY;
    queue |= is_removed ? NOFD : 0;
    if (is_area) {
        message.size = sizeof(message.payload.area);
        message.payload.area.u64 = queue;
        message.payload.area.size = strtoull(argv[5], NULL, 0);
        message.payload.area.offset = strtoull(argv[6], NULL, 0);
    } else {
        message.size = sizeof(message.payload.u64);
        message.payload.u64 = queue;
    }
    fwrite(&message, 12 + message.size, 1, stdout);
    return 0;
}
"""

AREA = {CURRENT: (VringHostNotifier, 3), RFC_V2: (VringNotifyArea, 4), RFC_V1: (VringNotifyArea, 3)}
GROUP = {RFC_V2: 3, RFC_V1: 2}
FEATURES = {CURRENT: 1 << 10 | 1 << 11, RFC_V2: 1 << 8, RFC_V1: 1 << 7}
VALUES = [(0, 0, 4096), (1, 0x40000003000, 4096), (255, (1 << 63) - (1 << 16), 1 << 16)]


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rfc")
    source, program = folder / "message.c", folder / "message"
    source.write_text(SOURCE, encoding="utf-8")
    subprocess.run(["gcc", "-std=c17", "-Wall", "-Werror", "-o", program, source], check=True)
    return program


def compiled(program: Path, *arguments: object) -> bytes:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def connection(dialect: Dialect, role: Role) -> Connection:
    bits = FEATURES[dialect] | ProtocolFeatures.REPLY_ACK | ProtocolFeatures.BACKEND_REQ
    negotiated = Negotiated(VirtioFeatures.VERSION_1, ProtocolFeatures(bits))
    return Connection(role, Channel.BACK_END, dialect=dialect, negotiated=negotiated)


def check(dialect: Dialect, message: Message, expected: bytes) -> None:
    """Both directions: the message makes the bytes, and the bytes make the message."""
    fds = [CountingFd()] if not getattr(message, "no_fd", True) else []
    sender = connection(dialect, Role.BACK_END)
    assert sender.request(message, fds=fds, need_reply=True).data == expected
    receiver = connection(dialect, Role.FRONT_END)
    assert receiver.receive(expected[:12], fds) is None
    request: Any = receiver.receive(expected[12:])
    assert request.message == message


@pytest.mark.parametrize("no_fd", [False, True], ids=["offer", "remove"])
@pytest.mark.parametrize("values", VALUES, ids=str)
@pytest.mark.parametrize("dialect", AREA, ids=lambda each: each.name)
def test_an_area_has_the_bytes_of_the_struct(
    dialect: Dialect, values: tuple[int, int, int], no_fd: bool, in_c: Path
) -> None:
    index, offset, size = values
    kind, number = AREA[dialect]
    what = "remove" if no_fd else "offer"
    expected = compiled(in_c, number, "area", index, what, size, offset)
    message = kind(index=index, no_fd=no_fd, size=size, offset=offset)
    check(dialect, message, expected)


@pytest.mark.parametrize("no_fd", [False, True], ids=["offer", "remove"])
@pytest.mark.parametrize("index", [0, 1, 255])
@pytest.mark.parametrize("dialect", GROUP, ids=lambda each: each.name)
def test_a_group_has_the_bytes_of_the_struct(
    dialect: Dialect, index: int, no_fd: bool, in_c: Path
) -> None:
    what = "remove" if no_fd else "offer"
    expected = compiled(in_c, GROUP[dialect], "group", index, what, 0, 0)
    check(dialect, VringVfioGroup(index=index, no_fd=no_fd), expected)


@pytest.mark.parametrize("dialect", AREA, ids=lambda each: each.name)
def test_the_bit_that_unlocks_them_is_the_dialects(dialect: Dialect) -> None:
    rows = list(dialect.rows(Channel.BACK_END))
    row = next(each for each in rows if each.message is AREA[dialect][0])
    assert row.feature is not None
    assert FEATURES[dialect] >> row.feature.value & 1
