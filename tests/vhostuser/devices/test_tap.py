"""Options of a TAP device; what it does is in tests/interop/test_tap.py."""

from __future__ import annotations

import re

import pytest

from vhostuser.devices.tap import TapOptions
from vhostuser.errors import UsageError


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"name": "sixteen-letters!"},
            "tap: 'sixteen-letters!' is too long: interfaces have up to 15 bytes",
        ),
        ({"name": "ä" * 8}, f"tap: {'ä' * 8!r} is too long: interfaces have up to 15 bytes"),
        *[
            (
                {"name": name},
                f"tap: {name!r} is not a name that an interface can have: no spaces, '/', ':', '%'",
            )
            for name in (".", "..", "a/b", "a b", "a:b", "tap%d", "a\0b", "a\n")
        ],
        (
            {"bridge": ""},
            "bridge: '' is not a name that an interface can have: no spaces, '/', ':', '%'",
        ),
        ({"queues": 0}, "queues: a number from 1 to 128, not 0"),
        ({"queues": 129}, "queues: a number from 1 to 128, not 129"),
        ({"mtu": 67}, "mtu: a number from 68 to 65521, not 67"),
        ({"mtu": 65522}, "mtu: a number from 68 to 65521, not 65522"),
    ],
)
def test_an_option_out_of_range_is_refused_in_words(options, text):
    with pytest.raises(UsageError, match=f"^{re.escape(text)}$"):
        TapOptions(**options)


@pytest.mark.parametrize(
    "options",
    [{}, {"name": "fifteen-letters"}, {"queues": 128}, {"mtu": 68}, {"mtu": 65521, "bridge": "b"}],
)
def test_options_in_range_are_taken(options):
    assert TapOptions(**options)
