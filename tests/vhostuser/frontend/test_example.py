"""The sample of the page on the hand-over: a back-end's own code against our front-end."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from protocol.vhost_user import CURRENT, Negotiated, ProtocolFeatures

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[3] / "docs"
SCRIPT = DOCS / "examples" / "offer_area.py"


@pytest.fixture
def sample() -> Any:
    spec = importlib.util.spec_from_file_location("offer_area", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_sample_hands_a_page_over_and_sees_every_kick_there(
    sample: Any, handing: Callable[..., Any]
) -> None:
    needed = CURRENT.hand_over_features | ProtocolFeatures.BACKEND_REQ | ProtocolFeatures.REPLY_ACK
    async with handing() as (client, backend):
        with sample.new_doorbell() as page:
            channel = backend.socket()
            for index in (1, 0):
                accepted = await trio.to_thread.run_sync(
                    sample.hand_over, channel, Negotiated(protocol_features=needed), index, page
                )
                assert accepted
                assert not sample.was_rung(page)
                client.queues[index].notify()
                assert sample.was_rung(page)
                assert not sample.was_rung(page)
            refused = await trio.to_thread.run_sync(
                sample.hand_over, channel, Negotiated(protocol_features=needed), 7, page
            )
            assert not refused
            channel.close()


def test_the_page_shows_the_sample() -> None:
    page = (DOCS / "explanation" / "hand-over.md").read_text(encoding="utf-8")
    assert "(../examples/offer_area.py)" in page
