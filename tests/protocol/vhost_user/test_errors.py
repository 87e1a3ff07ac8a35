"""An error is one log line that names message, field, value, rule and section."""

from __future__ import annotations

import pytest

from protocol import vhost_user as v
from protocol.vhost_user.errors import show_value


def test_the_text_of_an_error_names_everything_on_one_line() -> None:
    error = v.RemoteProtocolError(
        "a ring has 1 to 32768 entries",
        message="SET_VRING_NUM",
        field="num",
        value=0,
        section="Front-end message types, VHOST_USER_SET_VRING_NUM",
    )
    assert str(error) == (
        'message=SET_VRING_NUM field=num value=0 rule="a ring has 1 to 32768 entries" '
        'section="Front-end message types, VHOST_USER_SET_VRING_NUM"'
    )
    assert error.answer is None


def test_what_is_not_known_is_shown_as_a_dash() -> None:
    assert str(v.LocalProtocolError("be kind")) == (
        'message=- field=- value=- rule="be kind" section="-"'
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (4095, "4095"),
        (4096, "0x1000"),
        (True, "true"),
        (b"", "empty"),
        (b"\x01\x02", "0102"),
        (bytes(17), "00" * 16 + "..."),
        ("two words", "two_words"),
    ],
)
def test_a_value_is_shown_without_blanks_and_bounded(value: object, text: str) -> None:
    assert show_value(value) == text


def test_local_and_remote_errors_are_one_family_and_not_each_other() -> None:
    assert issubclass(v.LocalProtocolError, v.ProtocolError)
    assert issubclass(v.RemoteProtocolError, v.ProtocolError)
    assert not issubclass(v.RemoteProtocolError, v.LocalProtocolError)
