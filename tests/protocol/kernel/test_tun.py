"""TUN and TAP as data: numbers and structures are the header's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from protocol.kernel import tun

_NAMES = {
    tun.Request: "TUN{}",
    tun.InterfaceFlags: "IFF_{}",
    tun.Offloads: "TUN_F_{}",
}
_NUMBERS = [
    (template.format(member.name), member) for kind, template in _NAMES.items() for member in kind
] + [("IFNAMSIZ", tun.NAME_BYTES + 1)]


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    """What <linux/if_tun.h> says: by name."""
    program = tmp_path_factory.mktemp("tun") / "layouts"
    source = Path(__file__).with_name("tun_layouts.c")
    subprocess.run(["gcc", "-Wall", "-Werror", source, "-o", program], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return dict(line.split() for line in lines.splitlines())


@pytest.mark.parametrize(("name", "number"), _NUMBERS, ids=[name for name, _ in _NUMBERS])
def test_a_number_is_the_headers(name, number, header):
    assert int(header[name]) == number


def test_the_argument_is_the_headers_structure(header):
    flags = tun.InterfaceFlags.TAP | tun.InterfaceFlags.VNET_HDR
    assert tun.interface_request("tap7", flags).hex() == header["request"]


@pytest.mark.parametrize("name", ["", "t", "a" * tun.NAME_BYTES])
def test_a_name_comes_back(name):
    assert tun.interface_name(tun.interface_request(name, tun.InterfaceFlags.TAP)) == name
