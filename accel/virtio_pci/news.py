"""What a device has to say, kept until somebody asks."""

from __future__ import annotations

import trio

from vhostuser.datapath import AcceleratorNews

__all__ = ["NewsBoard"]


class NewsBoard:
    """News as levels: said twice before anybody asked is said once. A failure comes first."""

    def __init__(self) -> None:
        self._pending: set[AcceleratorNews] = set()
        self._changed = trio.Event()

    def tell(self, news: AcceleratorNews) -> None:
        """Say something."""
        self._pending.add(news)
        self._changed.set()

    def take_back(self, news: AcceleratorNews) -> None:
        """Leave unsaid what is no longer true."""
        self._pending.discard(news)

    async def wait(self) -> AcceleratorNews:
        """Wait for news; each is given once. Cancellable."""
        while not self._pending:
            self._changed = trio.Event()
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        failed = AcceleratorNews.FAILED in self._pending
        news = AcceleratorNews.FAILED if failed else AcceleratorNews.CONFIG_CHANGED
        self._pending.discard(news)
        return news
