"""The client: orders, refusals, the back-end channel between requests, and its end."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import trio
import trio.testing

from protocol.vhost_user import (
    Channel,
    ConfigChange,
    Connection,
    LocalProtocolError,
    Negotiated,
    Role,
    SetOwner,
    SetVringBase,
    SetVringNum,
)
from protocol.virtio import VirtioFeatures
from vhostuser.frontend import (
    LIBBLKIO,
    PROTOCOL_FEATURES,
    QEMU,
    TRANSPORT_FEATURES,
    VIRTIO_USER,
    BackendClosedError,
    FrontendClient,
    GuestMemory,
    MessageChannel,
    Order,
    RequestRefusedError,
    RingError,
)
from vhostuser.testing import held

STARTS = {
    QEMU: """GetFeatures GetProtocolFeatures SetProtocolFeatures GetQueueNum GetMaxMemSlots
        SetBackendReqFd SetOwner GetFeatures SetVringCall:0 SetVringErr:0 SetVringCall:1
        SetVringErr:1 GetConfig SetFeatures SetVringCall:0 SetVringCall:1 SetFeatures AddMemReg
        SetVringNum:0 SetVringBase:0 SetVringAddr:0 SetVringKick:0 SetVringErr:0
        SetVringNum:1 SetVringBase:1 SetVringAddr:1 SetVringKick:1 SetVringErr:1
        SetVringEnable:0 SetVringEnable:1 SetStatus SetVringEnable:0 SetVringEnable:1
        GetVringBase:0 GetVringBase:1""",
    LIBBLKIO: """SetOwner GetFeatures SetFeatures GetProtocolFeatures SetProtocolFeatures
        GetQueueNum GetMaxMemSlots GetConfig AddMemReg
        SetVringNum:0 SetVringBase:0 SetVringAddr:0 SetVringKick:0 SetVringCall:0 SetVringErr:0
        SetVringEnable:0
        SetVringNum:1 SetVringBase:1 SetVringAddr:1 SetVringKick:1 SetVringCall:1 SetVringErr:1
        SetVringEnable:1 GetVringBase:0 GetVringBase:1""",
    VIRTIO_USER: """SetOwner GetFeatures GetProtocolFeatures SetProtocolFeatures
        SetVringCall:0 SetVringCall:1 SetFeatures SetStatus SetMemTable
        SetVringNum:0 SetVringBase:0 SetVringAddr:0 SetVringKick:0 SetVringErr:0
        SetVringNum:1 SetVringBase:1 SetVringAddr:1 SetVringKick:1 SetVringErr:1
        SetVringEnable:0 SetVringEnable:1 SetStatus SetVringEnable:0 SetVringEnable:1
        GetVringBase:0 GetVringBase:1 SetStatus""",
}


@pytest.mark.parametrize("order", STARTS, ids=lambda order: order.name)
async def test_the_messages_come_in_the_order_of_the_front_end_played(
    order: Order, memory: GuestMemory, join: Any
) -> None:
    async with join(memory, order) as (client, backend):
        await client.negotiate(queues=2)
        for index in range(2):
            client.setup_queue(index, num=8)
        await client.start()
        await client.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert [name.replace(" ", ":") for name in backend.names()] == STARTS[order].split()
        asked = any(backend.need_reply)
        assert asked is order.acknowledge


async def test_a_restart_sends_neither_the_memory_again_nor_another_position(
    memory: GuestMemory, join: Any
) -> None:
    async with join(memory) as (client, backend):
        await client.negotiate()
        client.setup_queue(0, num=8)
        await client.start()
        await client.stop()
        backend.messages.clear()
        await client.start()
        assert "AddMemReg" not in backend.names()
        assert SetVringBase(index=0, base=0x1234) in backend.messages


@pytest.mark.parametrize(
    ("order", "base"), [(QEMU, 0x8000_8000), (VIRTIO_USER, 0x8000)], ids=["QEMU", "virtio-user"]
)
async def test_a_fresh_packed_ring_starts_at_the_base_that_its_front_end_would_send(
    order: Order, base: int, memory: GuestMemory, join: Any
) -> None:
    async with join(memory, order) as (client, backend):
        await client.negotiate(features=TRANSPORT_FEATURES | VirtioFeatures.RING_PACKED)
        client.setup_queue(0, num=6)
        await client.start()
        await trio.testing.wait_all_tasks_blocked()
        assert SetVringBase(index=0, base=base) in backend.messages
        assert SetVringNum(index=0, num=6) in backend.messages


async def test_what_was_negotiated_is_what_both_sides_know(memory: GuestMemory, join: Any) -> None:
    async with join(memory) as (client, _):
        await client.negotiate()
        assert client.features == TRANSPORT_FEATURES
        assert (client.queue_num, client.max_mem_slots) == (2, 509)
        assert client.config == b"c" * 60
        assert await client.get_config(4, 8) == b"c" * 8


async def test_a_refused_request_raises_with_its_name_and_the_connection_goes_on(
    memory: GuestMemory, join: Any
) -> None:
    async with join(memory) as (client, backend):
        await client.negotiate()
        backend.refused.add(SetVringNum)
        with pytest.raises(RequestRefusedError, match=r"^SetVringNum was refused: .* 0x1"):
            await client.request(SetVringNum(index=0, num=8))
        await client.request(SetOwner())


async def test_an_error_in_the_form_of_a_configuration_of_no_bytes_is_a_refusal(
    memory: GuestMemory, join: Any
) -> None:
    async with join(memory) as (client, backend):
        await client.negotiate()
        backend.refused = {type(backend.messages[-1])}
        with pytest.raises(RequestRefusedError, match=r"^GetConfig was refused"):
            await client.get_config(0, 8)


async def test_a_back_end_that_closes_instead_of_answering_is_named_with_the_request(
    memory: GuestMemory, join: Any
) -> None:
    async with join(memory) as (client, backend):
        await client.negotiate()
        backend.leave_at = {SetOwner}
        with pytest.raises(BackendClosedError, match=r"instead of answering SetOwner"):
            await client.request(SetOwner())


async def test_the_back_end_is_answered_between_our_requests_and_never_during_one(
    memory: GuestMemory, join: Any
) -> None:
    order: list[str] = []
    async with join(memory) as (client, backend):
        await client.negotiate()
        theirs = socket.socket(fileno=backend.backend_socket.detach())
        agreed = Negotiated(TRANSPORT_FEATURES, PROTOCOL_FEATURES)
        connection = Connection(Role.BACK_END, Channel.BACK_END, negotiated=agreed)
        channel = MessageChannel(trio.socket.from_stdlib_socket(theirs), connection)
        backend.backend_socket = None

        async def ask_upward() -> None:
            await channel.request(ConfigChange(), need_reply=True)
            order.append("the back-end got its answer")

        async def hold_back(_: Any) -> None:
            nursery.start_soon(ask_upward)
            await trio.testing.wait_all_tasks_blocked()
            order.append("the back-end answers")

        async with trio.open_nursery() as nursery:
            backend.before_answer = hold_back
            await client.request(SetOwner())
            backend.before_answer = None
        channel.close()
    assert order == ["the back-end answers", "the back-end got its answer"]


async def test_a_ring_that_the_back_end_reports_broken_fails_whoever_waits_for_it(
    memory: GuestMemory, join: Any
) -> None:
    async with join(memory) as (client, _):
        await client.negotiate()
        queue = client.setup_queue(0, num=8)
        await client.start()
        buffer = memory.alloc(16)

        async def report() -> None:
            await trio.testing.wait_all_tasks_blocked()
            os.eventfd_write(queue.err.fileno(), 1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(report)
            with pytest.raises(RingError, match=r"^ring 0: the back-end reported"):
                await queue.transfer([buffer], [])


async def test_a_cancelled_request_closes_the_connection_and_leaves_nothing_open(
    memory: GuestMemory, join: Any
) -> None:
    before = held()
    async with join(memory) as (client, backend):
        await client.negotiate()
        client.setup_queue(0, num=8)
        await client.start()
        answering = trio.Event()
        backend.before_answer = lambda _: answering.wait()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.request, SetOwner())
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        with pytest.raises(LocalProtocolError, match=r"a closed connection"):
            await client.request(SetOwner())
        backend.gone = True
        answering.set()
    assert not held().more_than(before)


async def test_nobody_listening_is_an_os_error_and_leaves_nothing_open(
    memory: GuestMemory, tmp_path: Any
) -> None:
    before = held()
    with pytest.raises(FileNotFoundError):
        async with FrontendClient.connect(tmp_path / "nobody", memory):
            pass
    assert not held().more_than(before)
