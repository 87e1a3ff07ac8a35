"""Our own requests by their ids: those that wait for an answer, and those that do so no more.

Ids are given out in turn. Answers to requests that were forgotten are dropped when they come, and
so are answers to posted requests, which some peers send although they should not. Specification:
vfio-user, "Header", message id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.vfio_user.errors import LocalProtocolError

if TYPE_CHECKING:
    from protocol.vfio_user.exchange import Pending

__all__ = ["Outstanding"]

_IDS = 1 << 16


class Outstanding:
    """Requests that were sent.

    Args:
        most: How many may wait for their answer, forgotten ones included.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._next = 0
        # None: forgotten, the answer will be dropped.
        self._pending: dict[int, Pending | None] = {}
        self._waiting = 0
        self._posted = bytearray(_IDS)

    @property
    def count(self) -> int:
        """Number of requests that wait for their answer."""
        return self._waiting

    @property
    def forgotten(self) -> int:
        """Number of requests that are not waited for, but were not answered either."""
        return len(self._pending) - self._waiting

    def next(self) -> int:
        """Return the id that the next request will get."""
        number = self._next
        while number in self._pending:
            number = (number + 1) % _IDS
        return number

    def add(self, pending: Pending | None) -> int:
        """Give a request its id.

        Args:
            pending: The request; None if it is posted.

        Raises:
            LocalProtocolError: Too many wait for their answer.
        """
        if pending is not None and len(self._pending) >= self._most:
            raise LocalProtocolError(
                f"at most {self._most} requests wait for their answers, forgotten ones included",
                field="id",
                value=len(self._pending),
            )
        number = self.next()
        self._next = (number + 1) % _IDS
        self._posted[number] = pending is None
        if pending is not None:
            self._pending[number] = pending
            self._waiting += 1
        return number

    def settle(self, number: int) -> Pending | None:
        """Return the request that an answer belongs to; None: the answer is to be dropped.

        Raises:
            LocalProtocolError: There is no such request.
        """
        if number in self._pending:
            pending = self._pending.pop(number)
            self._waiting -= pending is not None
            return pending
        if self._posted[number]:
            self._posted[number] = False
            return None
        raise LocalProtocolError(
            "a reply has the id of a request that waits for it", field="id", value=number
        )

    def forget(self, number: int) -> None:
        """Wait no more for an answer."""
        if self._pending.get(number) is not None:
            self._pending[number] = None
            self._waiting -= 1

    def clear(self) -> None:
        """Forget everything."""
        self._pending.clear()
        self._waiting = 0
