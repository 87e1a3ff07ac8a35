"""The reference pages of commands, options and the control socket, as text, all from their tables.

`python docs/generate.py` writes them to docs/reference.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vhostuser.cli.program import make_parser
from vhostuser.disks import DiskConfig
from vhostuser.monitor import COMMON
from vhostuser.monitor.disks import OF_DISKS
from vhostuser.monitor.ports import OF_PORTS
from vhostuser.options import Flag, OptionTable, Source, options
from vhostuser.serving import ProgramConfig
from vhostuser.switch import PortConfig, SwitchConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vhostuser.monitor import CommandRow
    from vhostuser.options import Option

__all__ = ["commands_page", "control_page", "options_page"]

_COMMANDS = """\
# Commands

Generated from the parser of the command line by `python docs/generate.py`; do not edit.

`vhostuser COMMAND --help` prints the same. The exit status is 0, 1 after an error (which is
printed), 2 for a wrong command line, or 130 when the keyboard interrupted a command.
`vhostuser-blk` is `vhostuser blk` under the name that the conventions for back-ends want. Other
packages bring commands by the entry-point group `vhostuser.commands`.
"""

_OPTIONS = """\
# Options

Generated from the tables of options by `python docs/generate.py`; do not edit.

A disk has the same options wherever it is described: on the command line of `vhostuser blk`, as
keys of a `[[disk]]` table in the file of `--config`, and as arguments of `disk-add` on the
[control socket](control-socket.md). So has a port of `vhostuser net`, in `[[port]]` tables and with
`port-add`.

```console
$ vhostuser blk --socket-path=/run/vms/root.sock --blk-file=root.img --num-queues=4
```

```toml
control = "/run/vms/control.sock"

[[disk]]
id = "root"
socket-path = "/run/vms/root.sock"
blk-file = "root.img"
num-queues = 4
```

```json
{"execute": "disk-add", "arguments": {"id": "root", "socket-path": "/run/vms/root.sock",
                                      "blk-file": "/images/root.img", "num-queues": 4}}
```

Relative paths belong to the current folder on the command line, to the folder of the file in a
file, and are refused on the control socket. In a file a size is a number of bytes or text with a
unit (`"64M"`), a mode is text (`"0660"`), and what is a flag on the command line is `true` or
`false`.

`vhostuser blk --config FILE --check` serves nothing and prints a line for each mistake, with file,
disk, key and what to do. Its exit status is 0 when there is none, else 1. One mistake may hide
another of the same disk: check again once they are mended. `vhostuser net --check` does the same.

On the command line of `vhostuser net` each `--socket-path`, `--connect`, `--fd` and `--tap` is a
port of its own, called `port0`, `port1` and so on, in their order; the other options of a port hold
for all of them: `--bridge` for every TAP, `--socket-mode` and `--socket-group` for every socket.
Without any of these, each socket that systemd passes is a port of the name that it has there.

```console
$ vhostuser net --socket-path=/run/vms/a.sock --socket-path=/run/vms/b.sock --tap=tap0 --bridge=br0
```

```toml
workers = 2

[[port]]
id = "a"
socket-path = "/run/vms/a.sock"
mac = "02:00:00:00:00:0a"
lock-mac = true

[[port]]
id = "uplink"
tap = "tap0"
bridge = "br0"
```
"""

_CONTROL = """\
# Control socket

Generated from the tables of commands by `python docs/generate.py`; do not edit.

`--control PATH` (in a file: `control = "PATH"`) makes a running server listen on a UNIX socket
(mode 0600) that speaks QMP, the protocol of QEMU's monitor: JSON objects, a greeting,
`qmp_capabilities` first, then commands. Any QMP client will do, for example the `qemu.qmp`
package.

```
← {"QMP": {"version": {"vhostuser": {"major": 0, "minor": 1, "micro": 0}, …}, "capabilities": []}}
→ {"execute": "qmp_capabilities"}
← {"return": {}}
→ {"execute": "query-connections", "id": 1}
← {"return": [{"id": "disk", "connection": 1, "process": 4711, "device": "block", "state": "idle",
               "status": 15, "requests": 31, "backend-channel": true}], "id": 1}
→ {"execute": "block-resize", "arguments": {"id": "disk", "size": "2G"}}
← {"return": {"id": "disk", "size": 2147483648}}
```

A disk on the command line is called `disk` unless `--id` says otherwise; ports are called `port0`,
`port1` and so on.
"""

_EVENTS = """\
## Events

| event | when | data |
|---|---|---|
| `CONNECTED` | a front-end is served from now on | id, connection |
| `DISCONNECTED` | it left, or was left | id, connection |
| `RING_BROKEN` | a ring broke a rule and was stopped | id, connection, ring, rule, value |
| `RING_FAILED` | what served a ring is gone, and nothing took over | id, connection, ring, reason |
| `DISK_ADDED` | front-ends can connect to a disk | id, size |
| `DISK_REMOVED` | a disk is served no longer | id, reason: `removed` by command, `ended` as no \
front-end can come any more, or `failed` |
| `BLOCK_RESIZED` | a disk has another size | id, size |
| `PORT_ADDED` | front-ends can connect to a port, or it leads to its TAP | id, number |
| `PORT_REMOVED` | a port is served no longer | id, reason: as above; a port whose TAP is gone has \
`ended` |
| `PORT_LINK` | the link of a port was set by command | id, up |

A command that does not exist, takes no such argument or cannot be done is answered with an error
that says what can be; nothing has changed then. A client that sends more than 64 KiB without
completing a command loses its connection; so does one that does not read its answers, after ten
seconds. One that reads too slowly misses events.
"""

_WORDS = {
    Source.COMMAND_LINE: "command line",
    Source.FILE: "file",
    Source.CONTROL: "control socket",
}


_OWNERS: dict[type[OptionTable], str] = {
    DiskConfig: "of a disk",
    PortConfig: "of a port",
    SwitchConfig: "of the switch",
    ProgramConfig: "of the program",
}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        f"| {' | '.join(each.replace('|', chr(92) + '|') for each in line)} |\n" for line in lines
    )


def _value(entry: Option) -> str:
    return "" if isinstance(entry.kind, Flag) else entry.kind.wanted.rstrip(",")


def _where(entry: Option) -> str:
    missing = [_WORDS[each] for each in Source if each not in entry.sources]
    required = [_WORDS[each] for each in Source if each in entry.required]
    notes = [f"; not on the {each}" for each in missing]
    notes += [f"; required in {' and '.join(required)}"] if required else []
    return "".join(notes)


def _default(entry: Option) -> str:
    if isinstance(entry.kind, Flag):
        return "true" if entry.default is True else "false"
    return entry.default_in_words


def _options(table: type[OptionTable], *, without: Iterable[Option] = ()) -> str:
    """Return a table of options, but for those that stand elsewhere."""
    elsewhere = {each.name for each in without}
    head = ("key", "command line", "value", "default", "meaning")
    rows = (
        (
            f"`{each.name}`",
            f"`{each.flag}`" if Source.COMMAND_LINE in each.sources else "",
            _value(each),
            _default(each),
            each.help + _where(each),
        )
        for each in options(table)
        if each.name not in elsewhere
    )
    return _table(head, rows)


def commands_page() -> str:
    """Return the page of all commands, with those of their options that are in no table."""
    return "\n".join([_COMMANDS, *_commands("vhostuser", make_parser())])


def _commands(program: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a section for each command of a parser, and of those in it."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to look
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, sub in action.choices.items():
                yield _command(f"{program} {name}", sub)
                yield from _commands(f"{program} {name}", sub)


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    summary = (parser.description or "").removesuffix(".")
    text = f"## {name}\n\n{summary[:1].upper()}{summary[1:]}.\n"
    rows = list(_flags(parser))
    if rows:
        text += f"\n{_table(('option', 'meaning'), rows)}"
    owners = [_OWNERS[table] for table in _tables(parser)]
    if owners:
        text += f"\nAnd the [options](options.md) {' and '.join(owners)}.\n"
    return text


def _tables(parser: argparse.ArgumentParser) -> list[type[OptionTable]]:
    """Return the tables of which a parser has every option."""
    known = {action.dest for action in parser._actions}  # noqa: SLF001
    return [
        table
        for table in _OWNERS
        if {each.attribute for each in options(table, Source.COMMAND_LINE)} <= known
    ]


def _flags(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    elsewhere = {each.attribute for table in _tables(parser) for each in options(table)}
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            continue
        if action.dest not in elsewhere and action.dest != "help":
            value = f"={action.metavar}" if action.metavar else ""
            flags = ", ".join(f"`{flag}{value}`" for flag in action.option_strings)
            yield flags or f"`{action.metavar or action.dest}`", action.help or ""


def options_page() -> str:
    """Return the page of all options."""
    return "\n".join(
        [
            _OPTIONS,
            "## Of a disk\n",
            _options(DiskConfig),
            f"At most one each of: {_exclusive(DiskConfig)}.\n",
            "## Of a port\n",
            _options(PortConfig),
            f"At most one of: {_exclusive(PortConfig)}.\n",
            "## Of the switch\n",
            _options(SwitchConfig, without=options(ProgramConfig)),
            "## Of the program\n",
            _options(ProgramConfig),
        ]
    )


def _exclusive(table: type[OptionTable]) -> str:
    groups: dict[str, list[str]] = {}
    for each in options(table):
        if each.group:
            groups.setdefault(each.group, []).append(f"`{each.name}`")
    return "; ".join(", ".join(names) for names in groups.values())


def control_page() -> str:
    """Return the page of commands and events."""
    every = [
        ("`query-commands`", "", "the names of all commands"),
        *_rows(COMMON),
        ("`quit`", "", "nothing; the server ends as after SIGTERM"),
    ]
    head = ("command", "arguments", "returns")
    return "\n".join(
        [
            _CONTROL,
            "## Commands of every server\n",
            _table(head, every),
            "## Commands of `vhostuser blk` and `vhostuser accel`\n",
            _table(head, _rows(OF_DISKS)),
            "## Commands of `vhostuser net`\n",
            _table(head, _rows(OF_PORTS)),
            _EVENTS,
        ]
    )


def _rows(commands: Mapping[str, CommandRow]) -> Iterator[tuple[str, str, str]]:
    for name, row in commands.items():
        yield f"`{name}`", _arguments(row.arguments), row.returns


def _arguments(table: type[OptionTable]) -> str:
    if table in _OWNERS:
        return f"those [{_OWNERS[table]}](options.md#{_OWNERS[table].replace(' ', '-')})"
    return "; ".join(f"`{each.name}`: {each.help}" for each in options(table, Source.CONTROL))
