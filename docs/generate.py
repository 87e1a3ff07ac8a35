"""Generates the reference pages that derive from the code: messages, commands, options.

Run it after changing the message table, a layout, a state table, an option or a command:

    python docs/generate.py            writes the pages in docs/reference
    python docs/generate.py --check    fails if a page differs from the code

It needs the project's packages, installed or in the current directory (`python -m docs.generate`).
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol import vhost_user as v
from protocol.vfio_user.reference import reference_page
from protocol.vhost_user import formats, states
from vhostuser.cli.reference import commands_page, control_page, options_page

sys.path.insert(0, str(Path(__file__).parent))  # this folder is no package

from handover import hand_over_page

if TYPE_CHECKING:
    import enum
    from collections.abc import Iterator, Mapping, Sequence

FOLDER = Path(__file__).parent / "reference"

INTRODUCTION = """\
# vhost-user messages

Generated from the message table by `python docs/generate.py`; do not edit.

A message is a 12-byte header (u32 number, u32 flags, u32 size of the payload, in the machine's byte
order) and its payload. Flags: bits 0-1 version, always 1; bit 2 reply; bit 3 need_reply; the rest
is zero. The flags of a reply are exactly 0x5. File descriptors ride on the first byte of the
header; at least and at most as many come as the tables say. "Reply" is what a message is always
answered with; every other message is answered with a u64 (0 for success) if bit 3 was set and
REPLY_ACK had been negotiated before. "Failure" is the reply that reports an error, where there is
one. "Since" is the QEMU release whose specification first has the message.
"""

POLICY = """\
## What happens to a message that breaks a rule

It changes nothing, its file descriptors are closed, and one log line names message, field, value,
rule and section. Then:

| what is wrong | what follows |
|---|---|
| version other than 1, reserved flag bits, reply bit in a request | the connection is closed |
| size above the limit (4096 bytes) | the connection is closed |
| file descriptors with the payload | the connection is closed |
| INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK | the connection is closed |
| anything wrong with a reply | the connection is closed |
| unknown number, feature not negotiated, wrong size, wrong number of fds, illegal value, ring \
index too large, wrong state | a failure reply or a non-zero acknowledgement, where the tables \
have one or the sender asked for one, and the connection goes on; otherwise it is closed |
| need_reply without REPLY_ACK | tolerated, not answered |
"""


def messages_page() -> str:
    """Return the page of messages, layouts and states."""
    parts = [
        INTRODUCTION,
        "## Front-end messages\n",
        message_table(v.CURRENT.rows(v.Channel.FRONT_END)),
        "## Back-end messages\n",
        message_table(v.CURRENT.rows(v.Channel.BACK_END)),
        POLICY,
        "## Each message\n",
        *map(message_entry, v.CURRENT.rows()),
        "## Replies\n",
        *map(reply_entry, replies()),
        "## Layouts\n",
        *map(layout_entry, layouts()),
        "## Protocol features\n",
        feature_table(),
        "## Dialects\n",
        *dialect_entries(),
        "## States\n",
        *state_entries(),
    ]
    return "\n".join(parts).rstrip() + "\n"


def table(head: Sequence[str], rows: Iterator[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def message_table(rows: Iterator[v.MessageRow]) -> str:
    """Return the table of some messages."""
    head = ("number", "name", "payload", "fds", "reply", "failure", "feature", "legal", "since")
    return table(head, map(message_cells, rows))


def message_cells(row: v.MessageRow) -> Sequence[object]:
    """Return one message's line of the table."""
    return (
        row.number,
        f"[{row.name}](#{row.name.lower()})",
        row.payload.name,
        fds_in_words(row.fds) + (" (closed unused)" if row.drop_fds else ""),
        row.reply.kind.value,
        failure_in_words(row),
        " and ".join(each.name for each in unlocking(row)) or "-",
        legal_in_words(row),
        row.since,
    )


def unlocking(row: v.MessageRow) -> tuple[Any, ...]:
    """Return the features that unlock a message."""
    return (*((row.feature,) if row.feature else ()), *row.needs)


def fds_in_words(fds: tuple[int, int]) -> str:
    """Return a range of numbers of fds."""
    fewest, most = fds
    return str(most) if fewest == most else f"{fewest}-{most}"


def failure_in_words(row: v.MessageRow) -> str:
    """Return the reply that reports a failure."""
    if row.reply.kind in (v.ReplyKind.NONE, v.ReplyKind.POSTCOPY):
        return "acknowledgement"
    if row.reply.failure is None:
        return "none"
    if row.message is v.CreateCryptoSession:
        return "session_id -1"
    failure = row.reply.failure(None)
    return "-" if failure is None else v.describe(failure).partition(" ")[2] or "empty"


def legal_in_words(row: v.MessageRow) -> str:
    """Return the states in which a message is legal."""
    return " or ".join(sorted(state.value for state in row.legal_states)) or "always"


def message_entry(row: v.MessageRow) -> str:
    """Return the entry of one message."""
    return (
        f"### {row.name}\n\n"
        f"{row.summary} Message {row.number} of the {row.channel.value} channel, class "
        f'`{row.message.__name__}`, layout "{row.payload.name}". Specification: {row.section}.\n'
        + attributes_of(row.message)
    )


def replies() -> list[type[v.Message]]:
    """Return the classes of replies, each once, by name."""
    found = {row.reply.message for row in v.CURRENT.rows()}
    return sorted(found, key=lambda kind: kind.__name__)


def reply_entry(kind: type[v.Message]) -> str:
    """Return the entry of one reply."""
    names = [row.name for row in v.CURRENT.rows() if row.reply.message is kind]
    rules = [row.reply for row in v.CURRENT.rows() if row.reply.message is kind]
    answered = ", ".join(names) if rules[0] is not v.ACK else "any message, if asked for"
    summary = (kind.__doc__ or "").partition("\n")[0]
    return (
        f'### {kind.__name__}\n\n{summary} Layout "{rules[0].payload.name}". '
        f"Answers: {answered}.\n" + attributes_of(kind)
    )


def attributes_of(kind: type[v.Message]) -> str:
    """Return the fields of a message as a list, from its class's documentation."""
    documents = (inspect.cleandoc(each.__doc__ or "") for each in kind.__mro__)
    rest = next((text for text in documents if "Attributes:\n" in text), "")
    rest = rest.partition("Attributes:\n")[2]
    if not rest:
        return ""
    items: list[str] = []
    for line in rest.splitlines():
        if not line.startswith("    "):
            break
        if line.startswith("        "):
            items[-1] += f" {line.strip()}"
        else:
            name, _, meaning = line.strip().partition(": ")
            items.append(f"- `{name}`: {meaning}")
    return "\n" + "\n".join(items) + "\n"


def layouts() -> list[formats.Format]:
    """Return every layout that has bytes, in the order of their declaration."""
    found = (each for each in vars(formats).values() if isinstance(each, formats.Format))
    return [each for each in found if each.max_size]


def layout_entry(layout: formats.Format) -> str:
    """Return the fields of one layout, with offsets as far as they are fixed."""
    sizes = [layout.min_size, layout.max_size]
    in_words = " to ".join(str(size) for size in dict.fromkeys(sizes))
    empty = ", or none at all" if layout.may_be_empty else ""
    return f"### {layout.name}\n\n{in_words} bytes{empty}.\n\n" + table(
        ("offset", "size", "field"), offsets(layout)
    )


def offsets(layout: formats.Format) -> Iterator[Sequence[object]]:
    """Yield offset, size and name of each field."""
    offset = 0
    for name, size in layout.rows():
        yield offset, size, name
        offset += int(size) if size.isdecimal() else 0


def feature_table() -> str:
    """Return the protocol features with what they unlock and need."""
    return table(
        ("bit", "name", "depends on", "unlocks", "number since"),
        (
            (
                feature.value,
                feature.name,
                ", ".join(each.name for each in v.DEPENDENCIES.get(feature, ())) or "-",
                ", ".join(row.name for row in v.CURRENT.rows() if row.feature is feature) or "-",
                v.NUMBERED_SINCE.get(feature, "10.0 or before"),
            )
            for feature in v.ProtocolFeature
        ),
    )


def dialect_entries() -> Iterator[str]:
    """Yield what each dialect changes."""
    for dialect in v.DIALECTS.values():
        yield f"### {dialect.name}\n\n{dialect.summary}\n"
        if dialect.feature is None:
            continue
        gone = v.ProtocolFeature(dialect.feature.value)
        missing = [row.name for row in v.CURRENT.rows() if row.feature is gone]
        yield (
            f"Protocol feature {dialect.feature.value} is {dialect.feature.name}, not {gone.name}; "
            f"{', '.join(missing)} do not exist. These messages take the place of others:\n"
        )
        yield message_table(iter(dialect.replaced))
        yield from (message_entry(row) for row in dialect.replaced)


def state_entries() -> Iterator[str]:
    """Yield a diagram of each state table."""
    yield "A message that a state does not list is refused there.\n"
    for title, chart in (
        ("One end of a channel", states.CONNECTION),
        ("A ring: does it run?", states.RING_RUN),
        ("A ring: may it have effects?", states.RING_GATE),
        ("The device", states.DEVICE),
        ("Post-copy migration", states.POSTCOPY),
    ):
        yield f"### {title}\n\n```mermaid\n{diagram(chart)}```\n"


def diagram(chart: Mapping[Any, Mapping[Any, Any]]) -> str:
    """Return a state table as a Mermaid diagram; events that lead the same way share an arrow."""
    lines = ["stateDiagram-v2", f"    [*] --> {label(next(iter(chart)))}"]
    for state, events in chart.items():
        arrows: dict[Any, list[str]] = {}
        for event, after in events.items():
            arrows.setdefault(after, []).append(event.value)
        lines += [
            f"    {label(state)} --> {label(after)}: {', '.join(names)}"
            for after, names in arrows.items()
        ]
    return "\n".join(lines) + "\n"


def label(state: enum.Enum) -> str:
    """Return a state's name in a diagram."""
    return str(state.value)


PAGES = {
    "messages.md": messages_page,
    "hand-over-messages.md": hand_over_page,
    "vfio-user.md": reference_page,
    "commands.md": commands_page,
    "options.md": options_page,
    "control-socket.md": control_page,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or check them; return the exit status."""
    parser = argparse.ArgumentParser(description="Generate the pages of the reference.")
    parser.add_argument("--check", action="store_true", help="only tell if the pages are current")
    options = parser.parse_args(arguments)
    status = 0
    for name, make in PAGES.items():
        page, text = FOLDER / name, make()
        if not options.check:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
        elif not page.is_file() or page.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{page} differs from the code: run python docs/generate.py\n")
            status = 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
