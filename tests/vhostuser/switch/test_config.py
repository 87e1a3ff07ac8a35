"""The options of ports and of the switch, from wherever they come, and a look at the host."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given as each
from hypothesis import settings
from hypothesis import strategies as st

from vhostuser.devices import NetOptions, SwitchOptions, tap_check
from vhostuser.devices.tap_links import Link
from vhostuser.errors import UsageError
from vhostuser.options import Source, add_arguments, given, given_each, options, read
from vhostuser.serving import ProgramConfig, read_config
from vhostuser.switch import PortConfig, SwitchConfig, check_ports

FULL = {
    "id": "one",
    "socket-path": "/run/one.sock",
    "socket-mode": "0660",
    "socket-group": "kvm",
    "mac": "02:00:00:00:00:0A",
    "lock-mac": True,
    "queue-pairs": 4,
    "queue-size": 256,
    "mtu": 9000,
    "speed": 25000,
    "addresses": 16,
}


def lines(findings):
    return [str(finding) for finding in findings]


def toml(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int) else f'"{value}"'


def test_the_tables_offer_what_device_and_switch_can_do():
    of_port = {row.attribute for row in options(PortConfig)}
    known = {field.name for field in dataclasses.fields(NetOptions)}
    assert known - of_port == {"locked"}  # which is called lock-mac
    of_switch = {row.attribute for row in options(SwitchConfig)}
    known = {field.name for field in dataclasses.fields(SwitchOptions)}
    assert known - of_switch == {"ports"}


def test_file_and_control_socket_give_the_same_port(tmp_path):
    text = 'mode = "echo"\nworkers = 3\n[[port]]\n'
    text += "".join(f"{name} = {toml(value)}\n" for name, value in FULL.items())
    path = tmp_path / "net.toml"
    path.write_text(text)
    file = read_config(path, SwitchConfig, PortConfig)
    made, problems = read(PortConfig, FULL, Source.CONTROL)
    assert (problems, file.findings) == ([], ())
    assert file.served == ((made, f"{path}: port 'one'"),)
    assert (file.program.mode, file.program.workers) == ("echo", 3)
    assert (made.mac, made.lock_mac, made.mtu) == (bytes.fromhex("02000000000a"), True, 9000)


def test_what_a_port_was_made_of_can_be_given_again():
    made, _ = read(PortConfig, FULL, Source.CONTROL)
    rows = options(PortConfig, Source.CONTROL)
    values = {row.name: getattr(made, row.attribute) for row in rows}
    plain = {row.name: row.kind.plain(values[row.name]) for row in rows if values[row.name]}
    assert plain["mac"] == "02:00:00:00:00:0a"
    assert read(PortConfig, plain, Source.CONTROL) == (made, [])


def test_places_on_a_command_line_are_kept_in_their_order():
    parser = argparse.ArgumentParser()
    add_arguments(parser, PortConfig, each_of="socket")
    line = "--tap t0 --socket-path a --mtu 9000 --connect b --tap t1 --fd 7 --socket-path c"
    namespace = parser.parse_args(line.split())
    assert given(namespace, PortConfig) == {"mtu": 9000}
    assert given_each(namespace) == (
        ("tap", "t0"),
        ("socket-path", Path("a")),
        ("connect", Path("b")),
        ("tap", "t1"),
        ("fd", 7),
        ("socket-path", Path("c")),
    )


@pytest.mark.parametrize("row", options(PortConfig), ids=lambda row: row.name)
def test_every_option_has_a_word_of_help_and_refuses_what_it_is_not(row):
    assert row.help
    assert not row.help.endswith(".")
    for value in (None, [], {}, 1.5, "\0", -1, 1 << 70):
        with pytest.raises(ValueError, match="expected, not"):
            row.kind.parse(value)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"socket-path": "/s"}, "id: is missing"),
        ({"id": "a", "tap": "t0", "socket-path": "/s"}, "tap: not together with socket-path"),
        ({"id": "a", "tap": "a name"}, "tap: an interface's name of letters, digits and _ . -"),
        ({"id": "a", "tap": "sixteenletters16"}, "(at most 15) is expected, not 'sixteenletters"),
        ({"id": "a", "tap": "tap%d"}, "is expected, not 'tap%d'"),
        ({"id": "a", "tap": "../x"}, "is expected, not '../x'"),
        ({"id": "a", "bridge": "br0"}, "bridge: is of a TAP device: give tap"),
        ({"id": "a", "tap": "t", "mac": "02:00:00:00:00:01"}, "mac: is of a guest's device"),
        ({"id": "a", "lock-mac": True}, "lock-mac: is to an address: give mac"),
        ({"id": "a", "mac": "01:00:00:00:00:01"}, "mac: an address of one device, for example"),
        ({"id": "a", "mac": "02:00:00:00:00"}, "mac: an address of one device, for example"),
        ({"id": "a", "queue-pairs": 129}, "queue-pairs: a number from 1 to 128 is expected"),
        ({"id": "a", "mtu": 67}, "mtu: a number from 68 to 65521 is expected, not 67"),
        ({"id": "a", "tap": "t", "socket-mode": "0660"}, "socket-mode: is of a socket that is"),
        ({"id": "a", "fd": 3}, "fd: there is no such argument"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(values, text):
    made, problems = read(PortConfig, values, Source.CONTROL)
    assert made is None
    assert any(text in line for line in lines(problems)), problems


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


@settings(deadline=None)  # the machine may have other things to do
@each(
    st.dictionaries(
        st.sampled_from([*FULL, "tap", "bridge"]) | st.text(),
        JSON | st.sampled_from(list(FULL.values())),
    )
)
def test_any_values_make_a_port_or_lines_that_say_why_not(values):
    made, problems = read(PortConfig, values, Source.CONTROL)
    assert (made is None) == bool(problems)
    for problem in problems:
        assert str(problem).isprintable()


def test_every_mistake_of_a_file_is_told_at_once(tmp_path):
    path = tmp_path / "net.toml"
    path.write_text('mode = "hub"\n[[port]]\nid = "a"\nmtu = 0\n[[port]]\ntap = "t"\n')
    assert lines(read_config(path, SwitchConfig, PortConfig).findings) == [
        f"{path}: mode: one of switch, echo, sink, source is expected, not 'hub'",
        f"{path}: port 'a': mtu: a number from 68 to 65521 is expected, not 0",
        f"{path}: port 2: id: is missing",
    ]


def test_a_disk_in_a_file_of_ports_is_a_mistake(tmp_path):
    path = tmp_path / "net.toml"
    path.write_text("[[disk]]\nid = 'a'\n")
    (finding,) = read_config(path, SwitchConfig, PortConfig).findings
    assert "disk: there is no such key" in str(finding)
    path.write_text("[[prot]]\nid = 'a'\n")
    (finding,) = read_config(path, SwitchConfig, PortConfig).findings
    assert str(finding) == f"{path}: prot: there is no such key: did you mean port?"
    path.write_text("port = 3\n")
    (finding,) = read_config(path, SwitchConfig, PortConfig).findings
    assert "begin it with [[port]]" in str(finding)
    with pytest.raises(UsageError, match="cannot read"):
        read_config(tmp_path / "missing", SwitchConfig, PortConfig)


def checked(*ports, control=None):
    made = [
        read(PortConfig, {"id": f"p{i}"} | port, Source.CONTROL) for i, port in enumerate(ports)
    ]
    assert not any(problems for _, problems in made)
    placed = [(port, port.id) for port, _ in made]
    return lines(check_ports(ProgramConfig(control=control), placed))


class FakeLinks(dict):
    """The interfaces of a host."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def find(self, name):
        return self.get(name)

    def have(self, name, kind="tun", **attributes):
        values = {
            "index": 1,
            "mac": HOST,
            "mtu": 1500,
            "up": True,
            "bridge": 0,
            "tap": kind == "tun",
            "multi_queue": False,
            "users": 0,
            "owner": None,
            "group": None,
        }
        self[name] = Link(kind=kind, **values | attributes)


HOST = bytes.fromhex("02aabbccddee")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host whose interfaces are what a test says, and a user who may do nothing."""
    links, status = FakeLinks(), tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t0000000000000000\n")
    monkeypatch.setattr(tap_check, "Links", lambda: links)
    monkeypatch.setattr(tap_check, "_STATUS", status)
    monkeypatch.setattr(tap_check, "TUN_NODE", status)  # is there, and can be opened
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.getgroups", lambda: [50])
    return links


def test_ports_that_can_be_served_pass_the_check(tmp_path, host):
    host.have("mine", owner=1000, multi_queue=True, users=3)
    host.have("ours", group=50)
    host.have("anybodys")
    host.have("br0", "bridge")
    ports = [
        {"tap": "mine", "bridge": "br0", "queue-pairs": 2},
        {"tap": "ours"},
        {"tap": "anybodys"},
        {"socket-path": str(tmp_path / "a"), "mac": "02:00:00:00:00:01"},
        {"connect": "/s", "mac": "02:00:00:00:00:02"},
    ]
    assert checked(*ports, control=tmp_path / "control") == []


@pytest.mark.parametrize(
    ("port", "text"),
    [
        ({"tap": "new"}, "tap: no right to make new: run as root, or give the program CAP_NET"),
        ({"tap": "new", "queue-pairs": 2}, "mode tap user 1000 vnet_hdr multi_queue && ip link"),
        ({"tap": "other"}, "tap: no right to use other, which is not made for this user: run as"),
        ({"tap": "theirs"}, "tap: no right to use theirs, which is not made for this user"),
        ({"tap": "tun"}, "tap: tun is a TUN device, which carries packets, not frames"),
        ({"tap": "eth0"}, "tap: eth0 is an interface of the hardware: choose a name that is free"),
        ({"tap": "mine", "queue-pairs": 2}, "tap: mine was made with one queue, not with 2"),
        ({"tap": "mine", "bridge": "br1"}, "tap: there is no bridge br1: make it first: ip link"),
        ({"tap": "mine", "bridge": "eth0"}, "tap: eth0 is an interface of the hardware, not a br"),
    ],
)
def test_a_tap_that_the_host_would_refuse_fails_the_check(host, port, text, monkeypatch):
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # nobody has a name
    host.have("mine", owner=1000)
    host.have("other", owner=1001)
    host.have("theirs", group=7)
    host.have("tun", tap=False)
    host.have("eth0", "")
    (line,) = checked(port)
    assert text in line


def test_what_does_not_go_together_fails_the_check(host):
    host.have("mine", owner=1000)
    table = [
        ({"tap": "mine"}, ""),
        ({"tap": "mine"}, "p1: tap: mine is the TAP device of port 'p0', too: choose another"),
        ({"socket-path": "/no/such/s"}, "p2: socket-path: there is no folder /no/such"),
        ({"id": "p0", "connect": "/s"}, "p0: id: another port is called p0: choose another"),
        ({"mac": "02:00:00:00:00:01"}, ""),
        (
            {"mac": "02:00:00:00:00:01"},
            "p5: mac: port 'p4' has the same address: each needs its own",
        ),
    ]
    found = checked(*(port for port, _ in table))
    for _, text in table:
        assert any(text in line for line in found), (text, found)
    assert len(found) == sum(bool(text) for _, text in table)


def test_who_administers_networks_may_make_any_tap(host, tmp_path):
    (tmp_path / "status").write_text("CapEff:\t000001ffffffffff\n")
    assert checked({"tap": "new"}) == []


def test_a_host_without_the_driver_fails_the_check(host, monkeypatch, tmp_path):
    monkeypatch.setattr(tap_check, "TUN_NODE", tmp_path / "missing")
    (line,) = checked({"tap": "new"})
    assert "load its driver (modprobe tun)" in line
