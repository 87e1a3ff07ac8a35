"""A TAP device that cannot be had: the error says why, and what to do."""

from __future__ import annotations

import errno
import json
import re

import pytest
from namespaces import namespace
from parts.require import require
from tap_rig import started

from vhostuser.devices.tap_device import TapOptions, open_tap
from vhostuser.errors import TapError

pytestmark = pytest.mark.interop

_MAKE = r"ip tuntap add dev {} mode tap user {} vnet_hdr{} && ip link set dev {} up"
_RIGHTS = "run as root, or give the program CAP_NET_ADMIN, or have root make the device: "
_CHANGE = (
    "no right to change the interface: run as root, or give the program CAP_NET_ADMIN, or have "
    "root do it first: "
)
_OTHER = "choose a name that is free, or a TAP device's"
_UNPRIVILEGED = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
_NODE = "mknod -m {} /dev/net/tun c 10 200"
_NO_NODE = "true"


def _with_node(make, command):
    """The words before a program that has another /dev/net than all others."""
    text = f'mount -t tmpfs none /dev/net && {make} && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", text, "sh", *command]


@pytest.fixture
def home():
    require("namespaces")
    with namespace() as home:
        yield home


def _interfaces(home):
    return {link["ifname"] for link in json.loads(home.run("ip", "-j", "link"))}


@pytest.mark.parametrize(
    ("there", "options", "number", "text"),
    [
        (
            "link add other type bridge",
            {"name": "other"},
            errno.EINVAL,
            f"other is an interface of the kind bridge: {_OTHER}",
        ),
        (
            "link set dev lo up",
            {"name": "lo"},
            errno.EINVAL,
            f"lo is an interface of the hardware: {_OTHER}",
        ),
        (
            "tuntap add dev packets mode tun",
            {"name": "packets"},
            errno.EINVAL,
            f"packets is a TUN device, which carries packets, not frames: {_OTHER}",
        ),
        (
            "tuntap add dev single mode tap",
            {"name": "single", "queues": 3},
            errno.EINVAL,
            "single was made with one queue, not with 3: ask for one, or have it made anew: "
            "ip tuntap del dev single mode tap && "
            + _MAKE.format("single", "root", " multi_queue", "single"),
        ),
        (
            "link set dev lo up",
            {"name": "tap0", "bridge": "br0"},
            errno.ENODEV,
            (
                "there is no bridge br0: make it first: "
                "ip link add br0 type bridge && ip link set dev br0 up"
            ),
        ),
        (
            "tuntap add dev other mode tap",
            {"name": "tap0", "bridge": "other"},
            errno.EINVAL,
            (
                "other is a TAP device, not a bridge: name one, or make one: "
                "ip link add br0 type bridge && ip link set dev br0 up"
            ),
        ),
    ],
    ids=["bridge", "hardware", "tun", "single", "no-bridge", "other-bridge"],
)
def test_root_is_told_what_is_wrong_with_what_is_there(home, there, options, number, text):
    home.ip(there)
    before = _interfaces(home)
    with pytest.raises(TapError, match=f"^{re.escape(f'[Errno {number}] {text}')}$"):
        home.call(lambda: open_tap(TapOptions(**options)))
    assert _interfaces(home) == before


@pytest.mark.parametrize("queues", [1, 2])
def test_a_device_in_use_is_left_alone(home, queues):
    options = TapOptions(name="tap0", queues=queues)
    text = "tap0 is in use: end the program that has it, or choose another name"
    with (
        home.call(lambda: open_tap(options)) as tap,
        pytest.raises(TapError, match=f"^{re.escape(f'[Errno {errno.EBUSY}] {text}')}$"),
    ):
        home.call(lambda: open_tap(options))
    assert tap.name == "tap0"
    assert _interfaces(home) == {"lo"}


@pytest.mark.parametrize(
    ("there", "wrap", "options", "text"),
    [
        (
            [],
            _UNPRIVILEGED,
            {"name": "new"},
            f"no right to make new: {_RIGHTS}" + _MAKE.format("new", "root", "", "new"),
        ),
        (
            [],
            _UNPRIVILEGED,
            {"queues": 2},
            f"no right to make a TAP device: {_RIGHTS}"
            + _MAKE.format("tap0", "root", " multi_queue", "tap0"),
        ),
        (
            ["tuntap add dev theirs mode tap user 1 vnet_hdr"],
            _UNPRIVILEGED,
            {"name": "theirs"},
            "no right to use theirs, which is not made for this user: run as root, or have root "
            "make it anew: ip tuntap del dev theirs mode tap && "
            + _MAKE.format("theirs", "root", "", "theirs"),
        ),
        (
            [],
            _with_node(_NO_NODE, []),
            {"name": "tap0"},
            (
                "/dev/net/tun is not there: load its driver (modprobe tun), or pass it to the "
                "container"
            ),
        ),
        (
            [],
            _with_node(_NODE.format("600"), _NOBODY),
            {"name": "tap0"},
            (
                "no right to open /dev/net/tun: run as root, or have root let this user open it, "
                "as is usual: chmod 0666 /dev/net/tun (a container must be given it)"
            ),
        ),
        (
            ["tuntap add dev ours mode tap user 65534 vnet_hdr"],
            _with_node(_NODE.format("666"), _NOBODY),
            {"name": "ours"},
            f"{_CHANGE}ip link set dev ours up",
        ),
        (
            ["tuntap add dev ours mode tap user 65534 vnet_hdr", "link add br0 type bridge"],
            _with_node(_NODE.format("666"), _NOBODY),
            {"name": "ours", "bridge": "br0", "mtu": 1400},
            f"{_CHANGE}ip link set dev ours mtu 1400",
        ),
    ],
    ids=["new", "no-name", "theirs", "no-node", "no-right-to-node", "down", "mtu"],
)
def test_who_has_no_right_is_told_how_to_get_it(home, there, wrap, options, text):
    for words in there:
        home.ip(words)
    switch = started(home, {"taps": [options]}, wrap)
    with switch.process:
        assert switch.hear() == {"error": text}
        switch.process.communicate()
    assert switch.process.returncode == 1


def test_a_user_needs_no_right_for_what_root_has_made_as_the_text_says(home):
    for words in _MAKE.format("ours", "nobody", " multi_queue", "ours").split(" && "):
        home.ip(words.removeprefix("ip "))
    wanted = {"taps": [{"name": "ours", "queues": 2}]}
    switch = started(home, wanted, _with_node(_NODE.format("666"), _NOBODY))
    with switch.process:
        assert [tap["name"] for tap in switch.hear()["taps"]] == ["ours"]
        switch.end()
