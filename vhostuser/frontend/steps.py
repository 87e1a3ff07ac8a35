"""How each step of an order is done: the messages, and what the client remembers of the answers.

Sequences are in `orders`; what belongs to no particular message is in `client`. Steps whose feature
was not negotiated do nothing, as with the real front-ends.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import trio

from protocol.addresses import Gpa
from protocol.vhost_user import (
    Channel,
    Connection,
    GetFeatures,
    GetMaxMemSlots,
    GetProtocolFeatures,
    GetQueueNum,
    ProtocolFeatures,
    Role,
    SetBackendReqFd,
    SetFeatures,
    SetMemTable,
    SetOwner,
    SetProtocolFeatures,
    SetStatus,
    SetVringAddr,
    SetVringBase,
    SetVringCall,
    SetVringEnable,
    SetVringErr,
    SetVringKick,
    SetVringNum,
)
from protocol.virtio import VirtioFeatures
from vhostuser.fds import OwnedFd
from vhostuser.frontend.channel import MessageChannel
from vhostuser.frontend.orders import Step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from vhostuser.frontend.client import FrontendClient

__all__ = ["REQUEST_STEPS", "RING_STEPS"]

_STATUS_READY = 0x0B  # ACKNOWLEDGE, DRIVER, FEATURES_OK
_STATUS_RUNNING = 0x0F  # and DRIVER_OK


async def _get_features(client: FrontendClient) -> None:
    client.offered = VirtioFeatures(await client.ask(GetFeatures()))


async def _set_features(client: FrontendClient) -> None:
    client.features = client.offered & client.wanted
    await client.request(SetFeatures(features=client.features))


async def _get_protocol_features(client: FrontendClient) -> None:
    if VirtioFeatures.PROTOCOL_FEATURES in client.offered:
        bits = await client.ask(GetProtocolFeatures())
        client.offered_protocol = ProtocolFeatures(bits)


async def _set_protocol_features(client: FrontendClient) -> None:
    if VirtioFeatures.PROTOCOL_FEATURES in client.offered:
        features = client.offered_protocol & client.wanted_protocol
        await client.request(SetProtocolFeatures(features=features))


async def _get_queue_num(client: FrontendClient) -> None:
    if client.has(ProtocolFeatures.MQ):
        client.queue_num = await client.ask(GetQueueNum())


async def _get_max_mem_slots(client: FrontendClient) -> None:
    if client.has(ProtocolFeatures.CONFIGURE_MEM_SLOTS):
        client.max_mem_slots = await client.ask(GetMaxMemSlots())


async def _open_backend_channel(client: FrontendClient) -> None:
    if not client.has(ProtocolFeatures.BACKEND_REQ):
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with OwnedFd(theirs.detach()) as fd:
        connection = Connection(
            Role.FRONT_END,
            Channel.BACK_END,
            dialect=client.connection.dialect,
            negotiated=client.connection.negotiated,
        )
        client.serve(MessageChannel(trio.socket.from_stdlib_socket(ours), connection))
        await client.request(SetBackendReqFd(), [fd])


async def _set_owner(client: FrontendClient) -> None:
    await client.request(SetOwner())


async def _get_config(client: FrontendClient) -> None:
    if client.has(ProtocolFeatures.CONFIG):
        client.config = await client.get_config(0, client.config_size)


async def _add_memory(client: FrontendClient) -> None:
    if not client.has(ProtocolFeatures.CONFIGURE_MEM_SLOTS):
        await _set_memory(client)
        return
    for region in client.memory.regions:
        if region not in client.shared:
            await client.add_region(region)


async def _set_memory(client: FrontendClient) -> None:
    regions = client.memory.regions
    message = SetMemTable(regions=tuple(region.description for region in regions))
    await client.request(message, [region.fd for region in regions])
    client.shared = list(regions)


async def _set_status(client: FrontendClient, status: int) -> None:
    if client.has(ProtocolFeatures.STATUS):
        await client.request(SetStatus(status=status))


async def _status_ready(client: FrontendClient) -> None:
    await _set_status(client, _STATUS_READY)


async def _status_running(client: FrontendClient) -> None:
    await _set_status(client, _STATUS_RUNNING)


async def _status_reset(client: FrontendClient) -> None:
    await _set_status(client, 0)


REQUEST_STEPS: Mapping[Step, Callable[[FrontendClient], Awaitable[None]]] = {
    Step.GET_FEATURES: _get_features,
    Step.SET_FEATURES: _set_features,
    Step.GET_PROTOCOL_FEATURES: _get_protocol_features,
    Step.SET_PROTOCOL_FEATURES: _set_protocol_features,
    Step.GET_QUEUE_NUM: _get_queue_num,
    Step.GET_MAX_MEM_SLOTS: _get_max_mem_slots,
    Step.OPEN_BACKEND_CHANNEL: _open_backend_channel,
    Step.SET_OWNER: _set_owner,
    Step.GET_CONFIG: _get_config,
    Step.ADD_MEMORY: _add_memory,
    Step.SET_MEMORY: _set_memory,
    Step.STATUS_READY: _status_ready,
    Step.STATUS_RUNNING: _status_running,
    Step.STATUS_RESET: _status_reset,
}
"""Steps that concern the whole device."""


async def _early_call(client: FrontendClient, index: int) -> None:
    with OwnedFd(os.eventfd(0, os.EFD_CLOEXEC)) as fd:
        await client.request(SetVringCall(index=index), [fd])


async def _early_err(client: FrontendClient, index: int) -> None:
    with OwnedFd(os.eventfd(0, os.EFD_CLOEXEC)) as fd:
        await client.request(SetVringErr(index=index), [fd])


async def _num(client: FrontendClient, index: int) -> None:
    await client.request(SetVringNum(index=index, num=client.queues[index].num))


async def _base(client: FrontendClient, index: int) -> None:
    await client.request(SetVringBase(index=index, base=client.bases[index]))


async def _addr(client: FrontendClient, index: int) -> None:
    areas, uva = client.queues[index].areas, client.memory.uva
    message = SetVringAddr(
        index=index,
        flags=0,
        desc=uva(areas.desc.gpa, areas.desc.length),
        avail=uva(areas.driver.gpa, areas.driver.length),
        used=uva(areas.device.gpa, areas.device.length),
        log=Gpa(0),
    )
    await client.request(message)


async def _kick(client: FrontendClient, index: int) -> None:
    await client.request(SetVringKick(index=index), [client.queues[index].kick])


async def _call(client: FrontendClient, index: int) -> None:
    queue = client.queues[index]
    if queue.poll:
        await client.request(SetVringCall(index=index, no_fd=True))
    else:
        await client.request(SetVringCall(index=index), [queue.call])


async def _err(client: FrontendClient, index: int) -> None:
    await client.request(SetVringErr(index=index), [client.queues[index].err])


async def _enable(client: FrontendClient, index: int) -> None:
    if VirtioFeatures.PROTOCOL_FEATURES in client.offered:
        await client.request(SetVringEnable(index=index, enable=1))


async def _disable(client: FrontendClient, index: int) -> None:
    if VirtioFeatures.PROTOCOL_FEATURES in client.offered:
        await client.request(SetVringEnable(index=index, enable=0))


async def _get_base(client: FrontendClient, index: int) -> None:
    client.bases[index] = await client.get_vring_base(index)


RING_STEPS: Mapping[Step, Callable[[FrontendClient, int], Awaitable[None]]] = {
    Step.EARLY_CALL: _early_call,
    Step.EARLY_ERR: _early_err,
    Step.NUM: _num,
    Step.BASE: _base,
    Step.ADDR: _addr,
    Step.KICK: _kick,
    Step.CALL: _call,
    Step.ERR: _err,
    Step.ENABLE: _enable,
    Step.DISABLE: _disable,
    Step.GET_BASE: _get_base,
}
"""Steps that concern one ring."""
