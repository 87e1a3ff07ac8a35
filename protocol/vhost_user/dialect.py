"""The dialects: the current specification and the two RFCs of 2017 and 2018.

A dialect is chosen by the user and never detected: the same numbers mean different things in them.
The RFCs speak of a master (now front-end) and a slave (now back-end); those words appear in this
module alone. They added a protocol feature VFIO on a bit that something else holds today, and two
slave messages on numbers that other messages hold today; the messages of the displaced features do
not exist in the RFC dialects. Specification: "[PATCH v2 6/6] vhost-user: add VFIO based
accelerators support" (March 2018) and its first version (December 2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from protocol.vhost_user import formats as f
from protocol.vhost_user import messages as m
from protocol.vhost_user.features import (
    ProtocolFeature,
    ProtocolFeatures,
    Rfc1Feature,
    Rfc2Feature,
)
from protocol.vhost_user.rows import Channel, MessageRow
from protocol.vhost_user.table import BACK_END_ROWS, FRONT_END_ROWS
from protocol.virtio.features import VirtioFeature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["CURRENT", "DIALECTS", "RFC_V1", "RFC_V2", "Dialect"]

_ALL_ROWS = FRONT_END_ROWS + BACK_END_ROWS


@final
class Dialect:
    """A message table with its feature names, ready for look-ups.

    Args:
        name: How the user chooses it.
        summary: One line for the documentation.
        replaced: Rows that take the place of those with their channel and number.
        feature: The protocol feature that displaces another one, if any.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        *,
        replaced: tuple[MessageRow, ...] = (),
        feature: Rfc1Feature | Rfc2Feature | None = None,
    ) -> None:
        self.name = name
        self.summary = summary
        self.replaced = replaced
        self.feature = feature
        names = {each.value: each.name for each in ProtocolFeature}
        displaced: ProtocolFeature | None = None
        if feature is not None:
            displaced = ProtocolFeature(feature.value)
            names[feature.value] = feature.name
        self.feature_names: Mapping[int, str] = names
        self._by_number = {
            (row.channel, row.number): row
            for row in _ALL_ROWS
            if displaced is None or row.feature is not displaced
        }
        self._by_number.update({(row.channel, row.number): row for row in replaced})
        self._by_message = {row.message: row for row in self._by_number.values()}

    def __repr__(self) -> str:
        return f"Dialect({self.name!r})"

    @property
    def hand_over_features(self) -> ProtocolFeatures:
        """The protocol features by which a back-end may hand over notify areas."""
        if self.feature is not None:
            return ProtocolFeatures(1 << self.feature.value)
        return ProtocolFeatures.BACKEND_SEND_FD | ProtocolFeatures.HOST_NOTIFIER

    def row(self, channel: Channel, number: int) -> MessageRow | None:
        """Return the row of a number on a channel, None for an unknown number."""
        return self._by_number.get((channel, number))

    def row_of(self, message: type[m.Message]) -> MessageRow | None:
        """Return the row of a message's class, None if it is no request of this dialect."""
        return self._by_message.get(message)

    def rows(self, channel: Channel | None = None) -> Iterator[MessageRow]:
        """Yield all rows, or those of one channel, by channel and number."""
        for key in sorted(self._by_number, key=lambda key: (key[0] is Channel.BACK_END, key[1])):
            if channel in (None, key[0]):
                yield self._by_number[key]


def _rfc_rows(
    first: int, feature: Rfc1Feature | Rfc2Feature, source: str, names: tuple[str, str]
) -> tuple[MessageRow, ...]:
    group, area = names
    return (
        MessageRow(
            first,
            group,
            m.VringVfioGroup,
            f.VRING_FD,
            (0, 1),
            feature=feature,
            since=source,
            channel=Channel.BACK_END,
            source=source,
        ),
        MessageRow(
            first + 1,
            area,
            m.VringNotifyArea,
            f.VRING_AREA,
            (0, 1),
            feature=feature,
            since=source,
            channel=Channel.BACK_END,
            source=source,
            needs=(VirtioFeature.VERSION_1,),
        ),
    )


CURRENT = Dialect("current", "The specification as QEMU's source has it today.")

RFC_V2 = Dialect(
    "rfc-v2",
    "VFIO based accelerators, second version (19 March 2018).",
    replaced=_rfc_rows(
        3,
        Rfc2Feature.VFIO,
        "RFC v2 of 2018",
        ("SLAVE_VRING_VFIO_GROUP_MSG", "SLAVE_VRING_NOTIFY_AREA_MSG"),
    ),
    feature=Rfc2Feature.VFIO,
)

RFC_V1 = Dialect(
    "rfc-v1",
    "VFIO based accelerators, first version (December 2017).",
    replaced=_rfc_rows(
        2,
        Rfc1Feature.VFIO,
        "RFC v1 of 2017",
        ("SLAVE_SET_VRING_GROUP_FD", "SLAVE_SET_VRING_NOTIFY_AREA"),
    ),
    feature=Rfc1Feature.VFIO,
)

DIALECTS: Mapping[str, Dialect] = {each.name: each for each in (CURRENT, RFC_V2, RFC_V1)}
"""All dialects, by the name that the user chooses."""
