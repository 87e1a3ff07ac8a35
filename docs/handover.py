"""Makes the reference page of the messages that hand rings over, from codec and checks.

Bits, sizes, numbers, example bytes and the words of each refusal come from the code that speaks
and checks the messages: nothing on the page can differ from it. `generate.py` writes it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import trio

from protocol import vhost_user as v
from protocol.virtio import VirtioFeature, VirtioFeatures
from vhostuser.errors import RequestError
from vhostuser.fds import OwnedFd
from vhostuser.frontend.area_map import map_pages
from vhostuser.frontend.area_rules import MAX_AREA, require_area
from vhostuser.frontend.groups import identify_group
from vhostuser.frontend.hand_over import HandOver, Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["hand_over_page"]

AREAS = (v.VringHostNotifier, v.VringNotifyArea)
PAGE = 4096

INTRODUCTION = """\
# Messages that hand a ring over

Generated from the codec and its checks by `python docs/generate.py`; do not edit.

With these messages, on the back-end channel, a back-end gives a front-end what lets a guest and an
accelerator speak to each other directly. Two of them offer the same thing, a *notify area*: pages
into which the driver writes its notifications, instead of the front-end signalling the kick file
descriptor for it. The third, of the RFC dialects alone, names the VFIO group that the accelerator
is in. Why and when to send them, and what either side may rely on: [the
hand-over](../explanation/hand-over.md). The rest of the protocol: [messages](messages.md).

Numbers are in the machine's byte order (the examples: little-endian), file descriptors come as
ancillary data with the first byte of the header, sizes and offsets are in bytes, and *page* is the
page size of the host on which both processes run: 4096, 16384 or 65536 bytes, as
`sysconf(_SC_PAGESIZE)` says.

## Words

| word | meaning | from |
|---|---|---|
| driver, device | the two ends of a virtqueue; the driver is in the guest | virtio |
| virtqueue, vring | the memory by which driver and device exchange buffers; *vring index* is its \
number, from 0 | virtio, vhost-user |
| available buffer notification, kick | the driver's word that it has added buffers | \
virtio, vhost-user |
| notify area | the device's memory into which a driver writes that word; without \
NOTIFICATION_DATA the vring index, 16 bits, at its first byte (virtio: the queue's notification \
address) | RFC of 2018 |
| front-end, back-end | the process that runs the guest, the one that serves its virtqueues | \
vhost-user |
| kick fd, call fd | eventfds by which kicks and interrupts pass between them | vhost-user |
| device descriptor | what opens one device: its regions can be mapped | VFIO |
| region | part of a device, read, written or mapped at an offset of the device descriptor | VFIO |
| group | the smallest set of devices that an IOMMU can isolate; `/dev/vfio/N` | VFIO |
| container | the address space for DMA that groups share; `/dev/vfio/vfio` | VFIO |

VFIO's words are those of the kernel's
[VFIO documentation](https://docs.kernel.org/driver-api/vfio.html). A device that is opened by its
own character device (`/dev/vfio/devices/vfioN`, iommufd) has no group to hand over.
"""


def hand_over_page() -> str:
    """Return the page."""
    parts = [INTRODUCTION, "## At a glance\n", glance(), area_description(), fd_description()]
    parts += map(message_section, (*AREAS, v.VringVfioGroup))
    parts += [REFUSALS, refusals()]
    return "\n".join(parts).rstrip() + "\n"


def table(head: Sequence[str], rows: Iterator[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def rows_of(dialect: v.Dialect) -> list[v.MessageRow]:
    """Return the rows of the messages that this page is about, groups last."""
    found = (dialect.row_of(kind) for kind in (*AREAS, v.VringVfioGroup))
    return [row for row in found if row is not None]


def glance() -> str:
    """Return the table of all of them."""
    return table(
        ("dialect", "number", "name", "hands over", "payload", "fds", "unlocked by"),
        (
            (
                dialect.name,
                row.number,
                row.name,
                "a notify area" if row.message in AREAS else "a VFIO group",
                row.payload.name,
                "0 or 1",
                unlocked_by(dialect, row),
            )
            for dialect in v.DIALECTS.values()
            for row in rows_of(dialect)
        ),
    )


def unlocked_by(dialect: v.Dialect, row: v.MessageRow) -> str:
    """Return the features without which a message is refused, with their bits."""
    features = [row.feature, *v.DEPENDENCIES.get(row.feature, ()), *row.needs]
    if dialect.feature is not None:
        features.insert(1, v.ProtocolFeature.BACKEND_REQ)
    named = (
        f"{each.name} ({'virtio' if isinstance(each, VirtioFeature) else 'protocol'} bit "
        f"{each.value})"
        for each in features
        if each is not None
    )
    return ", ".join(named)


def bits(mask: int) -> str:
    """Return the bits of a contiguous mask in words."""
    low, high = (mask & -mask).bit_length() - 1, mask.bit_length() - 1
    return f"bit {low}" if low == high else f"bits {low}-{high}"


def word_fields() -> tuple[int, int, int]:
    """Return the bits of index, no-fd flag and reserved ones, as the codec has them."""
    kind = v.VringVfioGroup

    def word(index: int, *, no_fd: bool) -> int:
        return int(kind(index=index, no_fd=no_fd).to_fields()["index_and_flags"])

    index = 0
    with contextlib.suppress(v.LocalProtocolError):
        for number in range(1 << 16):
            index |= word(number, no_fd=False)
    flag = word(0, no_fd=True)
    reserved = sum(1 << bit for bit in range(64) if is_refused(1 << bit))
    return index, flag, reserved


def is_refused(word: int) -> bool:
    """Whether the codec refuses a first field."""
    try:
        v.VringVfioGroup.from_fields({"index_and_flags": word})
    except v.LocalProtocolError:
        return True
    return False


def first_field() -> Iterator[Sequence[object]]:
    """Yield the parts of the first field of every one of the messages."""
    index, flag, reserved = word_fields()
    yield (
        "0",
        f"8: {bits(index)}",
        "vring index",
        f"0 to {index}, and below the number of vrings",
        "the vring that is handed over",
    )
    yield (
        "",
        bits(flag),
        "no-fd flag",
        "0 or 1",
        "1: what this vring was given is taken back, no file descriptor comes; 0: one does",
    )
    yield "", bits(reserved), "reserved", "0", "refused unless zero"


AREA_OFFSET = """\
where the area begins in the file: for a VFIO device descriptor the region's offset plus the \
doorbell's. `offset` + `size` does not pass 2^63 nor, in a regular file, its end"""


def area_description() -> str:
    """Return the section of the payload of an area."""
    head = ("offset", "size", "field", "range", "meaning")
    rows = [
        *first_field(),
        (
            8,
            8,
            "size",
            f"a multiple of the page, from 1 page to {MAX_AREA} bytes",
            "how much to map, from `offset` on and no byte more; QEMU takes exactly one page",
        ),
        (
            16,
            8,
            "offset",
            "a multiple of the page",
            AREA_OFFSET,
        ),
    ]
    require_layout(v.VringHostNotifier, ("index_and_flags", "size", "offset"))
    return (
        "## Vring area description\n\n"
        "24 bytes: a u64 in three parts, a u64 size, a u64 offset. With the no-fd flag, size and "
        "offset mean\nnothing and should be zero.\n\n" + table(head, iter(rows))
    )


def require_layout(kind: type[v.Message], names: tuple[str, ...]) -> None:
    """Stop if the layout is no longer the one that the page describes."""
    row = v.CURRENT.row_of(kind) or v.RFC_V2.row_of(kind)
    assert row is not None
    if tuple(row.payload.rows()) != tuple((name, "8") for name in names):
        sys.exit(f"docs/handover.py describes {names}, the layout is {[*row.payload.rows()]}")


def fd_description() -> str:
    """Return the section of the payload of a group."""
    require_layout(v.VringVfioGroup, ("index_and_flags",))
    head = ("offset", "size", "field", "range", "meaning")
    return (
        "## Vring index and no-fd flag\n\n"
        "8 bytes: a u64 in three parts, as SET_VRING_KICK has it.\n\n" + table(head, first_field())
    )


MEANINGS = {
    v.VringHostNotifier: """\
Offers the notify area of a vring, or takes it back. The file descriptor is what the front-end
maps, shared, readable and writable: the page of a VFIO device's region that holds this vring's
doorbell and no other's, or a memfd that the back-end polls. The receiver owns it, and may close it
once it is mapped.

From the front-end's acknowledgement on, the driver may write into the area instead of the
front-end signalling the kick fd; around every change both may happen, and the back-end serves
both. The area ends with the vring: at GET_VRING_BASE the front-end unmaps it, in silence, and
after the next SET_VRING_KICK the back-end offers again. An offer replaces the area of before; a
refused one leaves it in place (QEMU drops it). Taking back what is not there succeeds.
""",
    v.VringNotifyArea: """\
Offers the notify area of a vring, or takes it back. The file descriptor is what the front-end
maps, shared, readable and writable, typically a VFIO device descriptor. The receiver owns it.

From the front-end's acknowledgement on, the driver may write into the area instead of the
front-end signalling the kick fd; around every change both may happen, and the back-end serves
both. The area is the front-end's until it is taken back: it unmaps it at GET_VRING_BASE and maps
it again at SET_VRING_BASE by itself, without another message. An offer replaces the area of
before; a refused one leaves it in place. Taking back what is not there succeeds.
""",
    v.VringVfioGroup: """\
Hands over the VFIO group of the device that serves a vring, or takes it back. The front-end has
one group a vring at most, and holds each group once however many vrings have it: what counts is
which group the file descriptor refers to, not its number. A group is let go of when the last vring
that had it has another or none. With it a hypervisor may let the device interrupt the guest
without a system call; the interrupt path does not depend on it: it is the call fd.

The current dialect has no such message, and needs none: a hypervisor finds the device's interrupt
by the call eventfd that the back-end gave to VFIO.
""",
}


def message_section(kind: type[v.Message]) -> str:
    """Return the section of one message, in every dialect that has it."""
    having = [(each, row) for each in v.DIALECTS.values() if (row := each.row_of(kind))]
    values: dict[str, Any] = {"index": 1}
    if kind in AREAS:
        values |= {"size": PAGE, "offset": (4 << 40) + 0x4000}
    offer, removal = kind(**values), kind(index=1, no_fd=True)
    layout = having[0][1].payload
    parts = [
        f"## {having[0][1].name}\n",
        f"Payload: {layout.name}, {layout.max_size} bytes.",
        "One file descriptor, none with the no-fd flag.",
        "Acknowledged with a u64 if need_reply was set: 0 done, anything else refused.\n",
        *(
            f"- {dialect.name}: number {row.number}, {row.name}; unlocked by "
            f"{unlocked_by(dialect, row)}"
            for dialect, row in having
        ),
        f"\n{MEANINGS[kind]}",
    ]
    for message, more in ((offer, " and one file descriptor"), (removal, "")):
        for dialect, _ in having:
            words = f"{in_words(message)}, with need_reply{more}"
            parts += [f"Example ({dialect.name}): {words}.\n", dump(dialect, message)]
    return "\n".join(parts)


def in_words(message: v.Message) -> str:
    """Return what an example says."""
    what = "area" if isinstance(message, AREAS) else "group"
    index = getattr(message, "index", 0)
    if getattr(message, "no_fd", False):
        return f"the {what} of vring {index} is taken back"
    if what == "group":
        return f"the group of vring {index}"
    size, offset = getattr(message, "size", 0), getattr(message, "offset", 0)
    return f"for vring {index}, {size} bytes at {offset:#x} of the file"


def connection(dialect: v.Dialect, role: v.Role) -> v.Connection:
    """Return one end of a channel on which everything needed was negotiated."""
    needed = dialect.hand_over_features | v.ProtocolFeatures.BACKEND_REQ
    negotiated = v.Negotiated(VirtioFeatures.VERSION_1, needed | v.ProtocolFeatures.REPLY_ACK)
    return v.Connection(role, v.Channel.BACK_END, dialect=dialect, negotiated=negotiated)


class _NoFd:
    def close(self) -> None:
        """Nothing was open."""


def encode(dialect: v.Dialect, message: v.Message) -> bytes:
    """Return a message as it goes on the wire."""
    fds = [_NoFd()] * (message.fd_count() or 0)
    sender = connection(dialect, v.Role.BACK_END)
    return sender.request(message, fds=fds, need_reply=True).data


def dump(dialect: v.Dialect, message: v.Message) -> str:
    """Return a message's bytes with what they are."""
    data = encode(dialect, message)
    names = ["number", "flags", "payload size"]
    pieces = [data[at : at + 4] for at in (0, 4, 8)]
    row = dialect.row_of(type(message))
    assert row is not None
    for name, _ in row.payload.rows():
        at = 12 + 8 * (len(names) - 3)
        names.append("vring index, flag" if name == "index_and_flags" else name)
        pieces.append(data[at : at + 8])
    lines = (f"{piece.hex(' '):<24}{name}" for piece, name in zip(pieces, names, strict=True))
    return "```\n" + "\n".join(line.rstrip() for line in lines) + "\n```\n"


REFUSALS = """\
## What is refused, and in which words

A refused message changes nothing: what the vring had before it keeps. The checks come in about
this order. The words are those of this project's front-end library in its log; on the wire there
is only an acknowledgement other than zero. A message that is malformed, and to which no
acknowledgement was asked for, ends the back-end channel; one that is merely refused does not.
"""


def refusals() -> str:
    """Return the table of what is refused."""
    return table(("what is wrong", "field", "rule"), refused_cases())


def refused_cases() -> Iterator[Sequence[object]]:
    """Provoke each refusal, and yield what was said."""
    area = v.VringHostNotifier
    yield "features were not negotiated", *on_wire(b"", 0, negotiated=False)
    yield "another size of payload", *on_wire(b"\0" * 8, 1)
    yield "a reserved bit", *on_wire(words(0x200, PAGE, 0), 1)
    yield "no file descriptor, and no flag", *on_wire(words(0, PAGE, 0), 0)
    yield "a file descriptor, and the flag", *on_wire(words(0x100, 0, 0), 1)
    yield "two file descriptors", *on_wire(words(0, PAGE, 0), 2)
    yield "a vring that is not there", *said(lambda: take({1: None}))
    yield "a vring that was not started (current)", *said(lambda: take({0: None}))
    for what, size, offset in (
        ("size 0, or no multiple of the page", 2048, 0),
        ("an area that is too large", MAX_AREA + PAGE, 0),
        ("a misaligned offset", PAGE, 2048),
        ("a sum that wraps", PAGE, 2**64 - PAGE),
    ):
        message = area(index=0, size=size, offset=offset)
        yield what, *said(lambda message=message: require_area(message, PAGE))
    with memfd(PAGE) as short:
        yield "a file that ends before", *said(lambda: map_pages(short, 0, 2 * PAGE))
        yield "a file that is no VFIO group", *said(lambda: identify_group(short))
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with OwnedFd(reading), OwnedFd(writing) as pipe:
        yield "a pipe, a socket, a directory", *said(lambda: map_pages(pipe, 0, PAGE))
    with OwnedFd(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) as null:
        yield "a device that cannot be mapped", *said(lambda: map_pages(null, 0, PAGE))


def memfd(size: int) -> OwnedFd:
    """Return a file of so many bytes."""
    fd = OwnedFd(os.memfd_create("page", os.MFD_CLOEXEC))
    os.ftruncate(fd.fileno(), size)
    return fd


def words(*values: int) -> bytes:
    """Return u64 fields."""
    return b"".join(value.to_bytes(8, sys.byteorder) for value in values)


def on_wire(payload: bytes, fds: int, *, negotiated: bool = True) -> tuple[str, str]:
    """Feed a message to a front-end's connection; return the field and the rule that it broke."""
    receiver = connection(v.CURRENT, v.Role.FRONT_END)
    if not negotiated:
        receiver.negotiated.protocol_features = v.ProtocolFeatures.REPLY_ACK
    header = b"".join(part.to_bytes(4, sys.byteorder) for part in (3, 0x9, len(payload)))
    try:
        receiver.receive(header, [_NoFd()] * fds)
        receiver.receive(payload)
    except v.RemoteProtocolError as error:
        return f"`{error.field}`", error.rule
    raise AssertionError("what the page says is refused was accepted")


def take(queues: dict[int, Any]) -> None:
    """Have a front-end with these queues take an offer for the first."""
    receiver = connection(v.CURRENT, v.Role.FRONT_END)
    area = v.VringHostNotifier(index=0, size=PAGE)
    with memfd(PAGE) as file:
        data = connection(v.CURRENT, v.Role.BACK_END).request(area, fds=[file]).data
        receiver.receive(data[:12], [file])
        request = receiver.receive(data[12:])
        front_end = HandOver(v.CURRENT, queues, Host(), lambda _: False)
        trio.run(front_end.carry_out, request)


def said(act: Callable[[], object]) -> tuple[str, str]:
    """Return the field and the rule of the refusal that an action meets."""
    try:
        act()
    except RequestError as error:
        return f"`{error.field}`", str(error.strerror)
    raise AssertionError("what the page says is refused was accepted")
