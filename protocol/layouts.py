"""A payload's byte layout, declared once with construct; the protocols' own stand in their formats.

Each layout ends in `Terminated`: surplus bytes are an error, never dropped. A layout of fixed size
gets a precompiled `struct` twin, derived from the same declaration; tests hold the two equal.
Parsing yields plain dictionaries: no construct object comes out of here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import construct as c

from protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Format"]


class Format:
    """One payload layout: parse and build it, and tell its sizes.

    Args:
        name: The specification's name of the payload.
        layout: The construct declaration, ended by `Terminated`.
        sizes: Smallest and largest size in bytes; None if the declaration has a fixed size.
        may_be_empty: Whether a payload of no bytes at all is legal too (parsed as no fields).
    """

    def __init__(
        self,
        name: str,
        layout: c.Struct,
        *,
        sizes: tuple[int, int] | None = None,
        may_be_empty: bool = False,
    ) -> None:
        self.name = name
        self.layout = layout
        self.may_be_empty = may_be_empty
        self.twin: struct.Struct | None = None
        self._names: tuple[str, ...] = ()
        if sizes is None:
            self.twin, self._names = _derive_twin(layout)
            sizes = (self.twin.size, self.twin.size)
        self.min_size, self.max_size = sizes

    def __repr__(self) -> str:
        return f"Format({self.name!r})"

    def accepts(self, size: int) -> bool:
        """Return whether a payload can have this size, in bytes."""
        if size == 0 and self.may_be_empty:
            return True
        return self.min_size <= size <= self.max_size

    @property
    def size_rule(self) -> str:
        """The rule on the payload's size, in words."""
        low, high = self.min_size, self.max_size
        sizes = f"{low}" if low == high else f"{low} to {high}"
        return f"the payload ({self.name}) is {sizes} bytes long"

    def parse(self, data: bytes) -> dict[str, Any]:
        """Return the payload's fields, by name.

        Raises:
            LocalProtocolError: The bytes do not have this layout.
        """
        if not data and self.may_be_empty:
            return {}
        if self.twin is not None and len(data) == self.twin.size:
            return dict(zip(self._names, self.twin.unpack(data), strict=True))
        return self.parse_slowly(data)

    def parse_slowly(self, data: bytes) -> dict[str, Any]:
        """Return the same as `parse`, always by way of construct.

        Raises:
            LocalProtocolError: The bytes do not have this layout.
        """
        try:
            parsed = self.layout.parse(data)
        except c.ConstructError as error:
            raise self._misfit(len(data), error) from error
        plain: dict[str, Any] = _plain(parsed)
        return plain

    def build(self, fields: Mapping[str, Any]) -> bytes:
        """Return the payload's bytes.

        Raises:
            LocalProtocolError: A value does not fit its field.
        """
        if not fields and self.may_be_empty:
            return b""
        if self.twin is not None:
            try:
                return self.twin.pack(*(fields[name] for name in self._names))
            except struct.error as error:
                raise LocalProtocolError(
                    f"each value fits its field: {error}", field=self.name, value=dict(fields)
                ) from error
        return self.build_slowly(fields)

    def build_slowly(self, fields: Mapping[str, Any]) -> bytes:
        """Return the same as `build`, always by way of construct.

        Raises:
            LocalProtocolError: A value does not fit its field.
        """
        try:
            built: bytes = self.layout.build(dict(fields))
        except (c.ConstructError, struct.error) as error:
            raise LocalProtocolError(
                f"each value fits its field: {_one_line(error)}",
                field=self.name,
                value=dict(fields),
            ) from error
        return built

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield name and size (in words) of each field, in order, padding included."""
        for part in self.layout.subcons:
            if part is not c.Terminated:
                yield part.name or "(padding)", _size_in_words(part)

    def _misfit(self, size: int, error: c.ConstructError) -> LocalProtocolError:
        where = str(error.path or "").rpartition(" -> ")[2] or "size"
        return LocalProtocolError(
            f"{self.size_rule} and holds its fields exactly", field=where, value=size
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _size_in_words(part: Any) -> str:  # noqa: ANN401 - construct has no types
    try:
        return str(part.sizeof())
    except c.SizeofError:
        return "rest"


def _plain(value: Any) -> Any:  # noqa: ANN401 - construct has no types
    if isinstance(value, c.Container):
        return {name: _plain(item) for name, item in value.items() if not name.startswith("_")}
    if isinstance(value, c.ListContainer):
        return tuple(_plain(item) for item in value)
    return value


def _derive_twin(layout: c.Struct) -> tuple[struct.Struct, tuple[str, ...]]:
    codes: list[str] = []
    names: list[str] = []
    for part in layout.subcons:
        inner = part.subcon if isinstance(part, c.Renamed) else part
        if inner is c.Terminated:
            continue
        if isinstance(inner, c.FormatField):
            codes.append(inner.fmtstr.lstrip("=<>@"))
        elif isinstance(inner, c.Bytes):
            codes.append(f"{inner.sizeof()}s")
        else:
            codes.append(f"{inner.sizeof()}x")
            continue
        names.append(part.name)
    return struct.Struct("=" + "".join(codes)), tuple(names)
