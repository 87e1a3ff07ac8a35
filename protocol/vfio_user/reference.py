"""The reference page of vfio-user, derived from the command table.

Specification: none; it says what ours is, and where this implementation differs.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from protocol.vfio_user import formats as f
from protocol.vfio_user.table import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocol.layouts import Format
    from protocol.vfio_user.rows import CommandRow, Part

__all__ = ["reference_page"]

_INTRODUCTION = """\
# vfio-user commands

Generated from the command table; do not edit. Specification: QEMU, docs/interop/vfio-user.rst.

A message is a 16-byte header and its payload, in the machine's byte order: u16 id, u16 command,
u32 size (with the header), u32 flags, u32 error. Flags: bits 0-3 type (0 command, 1 reply), bit 4
no reply wanted, bit 5 error; the rest is zero. Ids are the sender's; a reply repeats id and
command. A failed command is answered with the header alone, bit 5, and an error number. File
descriptors ride on the first byte of a message that was written by a call of its own.

`argsz` in a request is the room that its sender has for the reply's payload, in a reply what that
needs. A reply that needs more is cut to its fixed part, and its fds stay behind: ask again.
"""

_POLICY = """\
## What happens to a message that breaks a rule

It changes nothing, its file descriptors are closed, and one log line names message, field, value,
rule and section. Then:

| what is wrong | what follows |
|---|---|
| anything before VERSION is agreed | an answer (EINVAL), and the connection is closed |
| size below 16, or above 1 MiB and the heads | an answer (EINVAL), and the connection is closed |
| anything wrong with a reply; a reply to nothing | the connection is closed |
| unknown command or one of the other side, flags, size, number of fds, fds behind the first byte, \
a value out of its range | an answer (EINVAL) unless none is wanted, and the connection goes on |
| a reply to a posted request, or to one that is not waited for any more | it is dropped |
| an error reply without type bit, or with a body | it is taken as an error reply |
| other messages in the same write behind one that brings fds | the fds count as the last one's |

## Where this differs from libvfio-user's server

| case | libvfio-user | here |
|---|---|---|
| capabilities in VERSION that are no JSON object | accepted | EINVAL, closed |
| size below 16, or too large | EINVAL, goes on | EINVAL, closed: the stream makes no sense |
| a reply to nothing | EINVAL, then out of step | closed |
| REGION_WRITE_MULTI | EINVAL | served where both sides announced `write_multiple` |
| DMA_MAP with two fds | accepted | EINVAL |
| DMA_MAP of what is mapped: the same again, or an overlap | done; EINVAL | EEXIST, as specified |
| DEVICE_FEATURE, MIG_DATA_READ, MIG_DATA_WRITE | served | EINVAL: no device here can be migrated |
| header or body that come in pieces | out of step | any pieces are fine |

## Where this goes beyond the specification

| what | why |
|---|---|
| DMA_WRITE's reply has a u64 count | so QEMU and libvfio-user have it; the specification's table \
says 4 bytes |
| DMA_MAP flags 4 and 8, I/O fds of 48 bytes with shadow memory | libvfio-user sends them |
| MIG_DATA_READ's reply may be longer than its size says | libvfio-user pads it |
| capabilities bind the other side's messages, each side's its peer's | so recorded peers take it |
"""

_INNER = (
    f.CAPABILITY,
    f.SPARSE_MMAP,
    f.AREA,
    f.REGION_TYPE,
    f.IO_FD,
    f.SHADOW_IO_FD,
    f.WRITE,
    f.FEATURE_MIGRATION,
    f.FEATURE_STATE,
    f.FEATURE_LOGGING,
    f.LOGGED_RANGE,
    f.FEATURE_REPORT,
)


def reference_page() -> str:
    """Return the page of commands and layouts."""
    parts = [_INTRODUCTION, "## Commands\n", _command_table(), _POLICY, "## Each command\n"]
    parts += map(_command_entry, ROWS)
    parts.append("## Layouts inside payloads\n")
    parts += map(_inner_entry, _INNER)
    return "\n".join(parts)


def _inner_entry(payload: Format) -> str:
    fields = "\n".join(_layout(payload))
    return f"### {payload.name}\n\n| field | bytes |\n|---|---|\n{fields}\n"


def _command_table() -> str:
    lines = ["| number | command | sent by | fds | reply's fds |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.number} | [{row.name}](#{row.name.lower()}) | {row.sender.value} "
        f"| {_count(row.request)} | {_count(row.reply)} |"
        for row in ROWS
    ]
    return "\n".join(lines) + "\n"


def _count(part: Part) -> str:
    low, high = part.fds
    return f"{low}" if low == high else f"{low} to {high}"


def _command_entry(row: CommandRow) -> str:
    lines = [f"### {row.name}\n", f"{row.summary} Section {row.section}.\n"]
    lines += ["Request:\n", *_part(row.request)]
    if row.reply.message is None:
        lines.append("The reply has no payload.\n")
    else:
        lines += ["Reply:\n", *_part(row.reply)]
    return "\n".join(lines)


def _part(part: Part) -> Iterator[str]:
    fields = list(_layout(part.payload))
    if not fields:
        yield "No payload.\n"
        return
    yield "| field | bytes |\n|---|---|\n" + "\n".join(fields) + "\n"
    attributes = _attributes(part)
    if attributes:
        yield attributes + "\n"


def _layout(payload: Format) -> Iterator[str]:
    for name, size in payload.rows():
        yield f"| {name} | {size} |"


def _attributes(part: Part) -> str:
    text = inspect.getdoc(part.message) or ""
    lines = text.partition("Attributes:\n")[2].partition("\n\n")[0].splitlines()
    entries: list[str] = []
    for line in lines:
        stripped = line.strip()
        if line.startswith("    ") and not line.startswith("     "):
            name, _, meaning = stripped.partition(": ")
            entries.append(f"- `{name}`: {meaning}")
        elif stripped:
            entries[-1] += f" {stripped}"
    return "\n".join(entries)
