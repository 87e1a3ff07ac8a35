"""Item 93 of the catalogue: front-ends that misuse the back-end channel while an area is offered.

The accelerator is one of this process. Whatever becomes of the channel, the ring is served by
relayed kicks, and the next front-end finds everything as it was.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from accelerators import entropy

from protocol.vhost_user import SetBackendReqFd
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import AcceleratorNews
from vhostuser.devices import AcceleratedDevice
from vhostuser.fds import OwnedFd
from vhostuser.frontend import FrontendClient, GuestMemory
from vhostuser.server.channel import BackendChannel
from vhostuser.session import AreaState
from vhostuser.stream import MessageStream
from vhostuser.testing import held, raw_message, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

AREA, CONFIG_CHANGE = 3, 2
REPLY = 0x5
WANTED = VirtioFeatures.PROTOCOL_FEATURES | VirtioFeatures.VERSION_1
PATIENCE = 30
Case = "Callable[[Attack], Awaitable[None]]"


class Attack:
    """A front-end with one running ring, whose end of the back-end channel the case has."""

    def __init__(self, client: FrontendClient, sock: Any, server: Any, accelerator: Any) -> None:
        self.client = client
        self.server = server
        self.accelerator = accelerator
        self.sock = sock

    async def offered(self) -> None:
        """Read the offer of the area, and let go of its fd."""
        stream = MessageStream(self.sock, seconds=PATIENCE)
        header, fds = await stream.receive(12, begun=False)
        for fd in fds:
            fd.close()
        assert struct.unpack("=III", header) == (AREA, 0x9, 24)
        assert len(fds) == 1
        await stream.receive(24, begun=True)

    async def taken_back(self) -> None:
        """Read that the area ends."""
        stream = MessageStream(self.sock, seconds=PATIENCE)
        data, _ = await stream.receive(36, begun=False)
        assert struct.unpack("=IIIQ", data[:20]) == (AREA, 0x9, 24, 0x100)

    async def say(self, data: bytes, fds: list[OwnedFd] | None = None) -> None:
        """Send bytes on the back-end channel, if it is still there."""
        numbers = [struct.pack("=i", fd.fileno()) for fd in fds or []]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(numbers))] if numbers else []
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self.sock.sendmsg([data], rights)

    async def is_closed(self) -> None:
        """The back-end has closed the channel."""
        with contextlib.suppress(ConnectionResetError):
            while await self.sock.recv(4096):
                pass

    async def refused(self) -> None:
        """The back-end goes on as after a refusal."""
        offers = self.server.connection.areas
        while offers.states[0] is not AreaState.REFUSED:
            await trio.lowlevel.checkpoint()

    async def works(self) -> None:
        """The ring is served."""
        buffer = self.client.memory.alloc(64)
        assert await self.client.queues[0].transfer([], [buffer]) == 64
        self.client.memory.free(buffer)


@contextlib.asynccontextmanager
async def attacking(tmp_path: Any, accelerator: Any, server: Any) -> AsyncIterator[Attack]:
    """Connect, keep the back-end channel back from the client, and start a ring."""
    channels: list[Any] = []
    async with contextlib.AsyncExitStack() as stack:
        memory = stack.enter_context(GuestMemory())
        client = await stack.enter_async_context(
            FrontendClient.connect(tmp_path / "socket", memory)
        )
        client.serve = channels.append
        await client.negotiate(features=WANTED)
        (channel,) = channels
        stack.callback(channel.close)
        client.setup_queue(0, num=64)
        await client.start()
        yield Attack(client, channel._stream._socket, server, accelerator)


def answer(number: int = AREA, payload: bytes = bytes(8), **fields: Any) -> bytes:
    return raw_message(number, payload, flags=fields.pop("flags", REPLY), **fields)


def misuse(data: bytes, *, fds: int = 0) -> Case:
    """An answer that is none: the channel is closed, and nothing else."""

    async def case(attack: Attack) -> None:
        await attack.offered()
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(OwnedFd(os.eventfd(0, os.EFD_CLOEXEC))) for _ in range(fds)
            ]
            await attack.say(data, files)
        await attack.is_closed()
        await attack.refused()

    return case


def says_no(value: int) -> Case:
    async def case(attack: Attack) -> None:
        await attack.offered()
        await attack.say(answer(payload=struct.pack("=Q", value)))
        await attack.refused()

    return case


async def never_answers(attack: Attack) -> None:
    await attack.offered()
    for _ in range(3):
        await attack.works()
    assert attack.server.connection.areas.states[0] is AreaState.OFFERED


async def answers_too_late(attack: Attack) -> None:
    """The deadline was made short for this case."""
    await attack.offered()
    await attack.is_closed()
    await attack.refused()


async def answers_after_the_stop(attack: Attack) -> None:
    """A ring that is stopped takes no area, and what it took all the same is taken back."""
    await attack.offered()
    await attack.client.stop()
    await attack.say(answer())
    await attack.taken_back()
    await attack.say(answer())
    attack.client.setup_queue(0, num=64)
    await attack.client.start()
    await attack.offered()
    await attack.say(answer())
    while attack.server.connection.areas.states[0] is not AreaState.HANDED_OVER:
        await trio.lowlevel.checkpoint()


async def answers_twice(attack: Attack) -> None:
    await attack.offered()
    await attack.say(answer() + answer())
    await attack.is_closed()


async def answers_unasked(attack: Attack) -> None:
    await attack.offered()
    await attack.say(answer())
    await attack.works()
    await attack.say(answer())
    await attack.is_closed()


async def closes_it(attack: Attack) -> None:
    await attack.offered()
    attack.sock.close()
    await attack.refused()


async def closes_it_at_once(attack: Attack) -> None:
    attack.sock.close()
    await attack.refused()


async def half_closes_it(attack: Attack) -> None:
    await attack.offered()
    attack.sock.shutdown(socket.SHUT_WR)
    await attack.is_closed()
    await attack.refused()


async def replaces_it(attack: Attack) -> None:
    """What was asked on the old one is answered by nobody; the new one is used from then on."""
    await attack.offered()
    ours, theirs = socket.socketpair()
    with ours, OwnedFd(theirs.detach()) as fd:
        await attack.client.request(SetBackendReqFd(), [fd])
        await attack.is_closed()
        await attack.refused()
        attack.accelerator.say(AcceleratorNews.CONFIG_CHANGED)
        new = trio.socket.from_stdlib_socket(ours)
        assert struct.unpack("=III", await new.recv(12))[0] == CONFIG_CHANGE


async def replaces_it_again_and_again(attack: Attack) -> None:
    before = held()
    for _ in range(50):
        ours, theirs = socket.socketpair()
        with ours, OwnedFd(theirs.detach()) as fd:
            await attack.client.request(SetBackendReqFd(), [fd])
    assert held().fds.total() <= before.fds.total() + 1


async def floods_it(attack: Attack) -> None:
    await attack.offered()
    await attack.say(answer(9) * 20000)
    await attack.is_closed()


async def never_reads(attack: Attack) -> None:
    """News is kept for it up to a bound, and then dropped."""
    for _ in range(300):
        for _ in range(10):
            attack.accelerator.say(AcceleratorNews.CONFIG_CHANGED)
        await trio.testing.wait_all_tasks_blocked()
    await attack.works()


CASES = {
    "93-answer-missing": never_answers,
    "93-answer-too-late": answers_too_late,
    "93-answer-after-the-stop": answers_after_the_stop,
    "93-answer-wrong-number": misuse(answer(2)),
    "93-answer-unknown-number": misuse(answer(0xFFFF_FFFF)),
    "93-answer-4-bytes": misuse(answer(payload=bytes(4))),
    "93-answer-16-bytes": misuse(answer(payload=bytes(16))),
    "93-answer-empty": misuse(answer(payload=b"")),
    "93-answer-size-4-gib": misuse(answer(size=0xFFFF_FFFF)),
    "93-answer-with-an-fd": misuse(answer(), fds=1),
    "93-answer-with-64-fds": misuse(answer(), fds=64),
    "93-answer-without-the-reply-bit": misuse(answer(flags=1)),
    "93-answer-with-need-reply": misuse(answer(flags=0xD)),
    "93-answer-of-version-2": misuse(answer(flags=6)),
    "93-answer-of-noise": misuse(b"\xa5" * 64),
    "93-answer-no": says_no(1),
    "93-answer-no-in-the-high-half": says_no(1 << 63),
    "93-answer-twice": answers_twice,
    "93-answer-unasked": answers_unasked,
    "93-closed": closes_it,
    "93-closed-at-once": closes_it_at_once,
    "93-half-closed": half_closes_it,
    "93-replaced": replaces_it,
    "93-replaced-50-times": replaces_it_again_and_again,
    "93-flood": floods_it,
    "93-never-read": never_reads,
}


@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES)
async def hostile(
    name: str,
    case: Callable[[Attack], Awaitable[None]],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "93-answer-too-late":
        defaults = BackendChannel.__init__.__kwdefaults__
        monkeypatch.setitem(defaults, "answer_seconds", 0.05)
    before = held()
    with trio.fail_after(PATIENCE), entropy(area=True) as accelerator:
        async with (
            AcceleratedDevice.open(accelerator) as device,
            serving(tmp_path / "socket", device) as server,
        ):
            async with attacking(tmp_path, accelerator, server) as attack:
                await case(attack)
                await attack.works()
            while server.connection is not None:
                await trio.lowlevel.checkpoint()
            async with attacking(tmp_path, accelerator, server) as attack:
                await attack.offered()
                await attack.works()
    assert not held().more_than(before)
