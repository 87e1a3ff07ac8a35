"""What the protocols' errors share: the one line that they print as, and misuse by our own side.

Each error names message, field, value, rule and specification section. Each protocol has a
`RemoteProtocolError` of its own for what its peer sent; errors of the environment (OSError and its
kin) do not belong here.
"""

from __future__ import annotations

__all__ = ["LocalProtocolError", "ProtocolError", "show_value"]

_HEX_FROM = 4096
_BYTES_SHOWN = 16


class ProtocolError(Exception):
    """A rule of the protocol was broken.

    Attributes:
        message: Name of the message concerned, "" if there is none.
        field: The field that broke the rule, "" if it was the message as a whole.
        value: What the field held, None if there is nothing to show.
        rule: The rule, worded so that the reader knows what to send instead.
        section: Section of the specification.
    """

    def __init__(
        self,
        rule: str,
        *,
        message: str = "",
        field: str = "",
        value: object = None,
        section: str = "",
    ) -> None:
        super().__init__(rule)
        self.rule = rule
        self.message = message
        self.field = field
        self.value = value
        self.section = section

    def __str__(self) -> str:
        return (
            f"message={self.message or '-'} field={self.field or '-'} "
            f'value={show_value(self.value)} rule="{self.rule}" section="{self.section or "-"}"'
        )


class LocalProtocolError(ProtocolError):
    """Our own side was about to break a rule; nothing was sent and nothing has changed."""


def show_value(value: object) -> str:
    """Return a field's value as it stands in a log line: no blanks, bounded length."""
    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
        case int() if abs(value) >= _HEX_FROM:
            return hex(value)
        case int():
            return str(int(value))
        case bytes():
            tail = "..." if len(value) > _BYTES_SHOWN else ""
            return f"{value[:_BYTES_SHOWN].hex() or 'empty'}{tail}"
        case _:
            return str(value).replace(" ", "_")
