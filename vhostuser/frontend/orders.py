"""The orders in which real front-ends send their messages, as data.

A back-end must serve all of them; a client that can play each lets a test prove it without the
peer. `FrontendClient` knows how to do a step; only the sequence is here. Specification: none
prescribes an order, these were seen on the wire.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["LIBBLKIO", "QEMU", "VIRTIO_USER", "Order", "Step"]


class Step(enum.Enum):
    """One thing a front-end does. The second group is done for one ring."""

    GET_FEATURES = "get features"
    SET_FEATURES = "set features"
    GET_PROTOCOL_FEATURES = "get protocol features"
    SET_PROTOCOL_FEATURES = "set protocol features"
    GET_QUEUE_NUM = "get queue num"
    GET_MAX_MEM_SLOTS = "get max mem slots"
    OPEN_BACKEND_CHANNEL = "open back-end channel"
    SET_OWNER = "set owner"
    GET_CONFIG = "get config"
    ADD_MEMORY = "add memory regions that the back-end does not know yet"
    SET_MEMORY = "set the whole memory table"
    STATUS_READY = "set status: acknowledge, driver, features ok"
    STATUS_RUNNING = "set status: driver ok"
    STATUS_RESET = "set status: 0"

    EARLY_CALL = "set a call fd that is replaced later"
    EARLY_ERR = "set the err fd before the ring is known"
    NUM = "set vring num"
    BASE = "set vring base"
    ADDR = "set vring addr"
    KICK = "set vring kick"
    CALL = "set vring call"
    ERR = "set vring err"
    ENABLE = "enable vring"
    DISABLE = "disable vring"
    GET_BASE = "get vring base: stop the ring"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A front-end's habits. A tuple inside a sequence is done whole for each ring in turn.

    Attributes:
        name: whose habits.
        connect: until the device's features and configuration are known.
        start: until the rings run.
        stop: until they have stopped.
        acknowledge: whether it asks for an acknowledgement wherever that was negotiated.
        first_packed_base: what SET_VRING_BASE carries for a packed ring that starts anew.
    """

    name: str
    connect: tuple[Step | tuple[Step, ...], ...]
    start: tuple[Step | tuple[Step, ...], ...]
    stop: tuple[Step | tuple[Step, ...], ...]
    acknowledge: bool = True
    first_packed_base: int = 0x8000_8000


QEMU = Order(
    name="QEMU",
    connect=(
        Step.GET_FEATURES,
        Step.GET_PROTOCOL_FEATURES,
        Step.SET_PROTOCOL_FEATURES,
        Step.GET_QUEUE_NUM,
        Step.GET_MAX_MEM_SLOTS,
        Step.OPEN_BACKEND_CHANNEL,
        Step.SET_OWNER,
        Step.GET_FEATURES,
        (Step.EARLY_CALL, Step.EARLY_ERR),
        Step.GET_CONFIG,
    ),
    start=(
        Step.SET_FEATURES,
        (Step.CALL,),
        Step.SET_FEATURES,
        Step.ADD_MEMORY,
        (Step.NUM, Step.BASE, Step.ADDR, Step.KICK, Step.ERR),
        (Step.ENABLE,),
        Step.STATUS_RUNNING,
    ),
    stop=((Step.DISABLE,), (Step.GET_BASE,)),
)
"""QEMU's vhost-user-blk; ERR comes once more than there, because each start here has its own."""

LIBBLKIO = Order(
    name="libblkio",
    connect=(
        Step.SET_OWNER,
        Step.GET_FEATURES,
        Step.SET_FEATURES,
        Step.GET_PROTOCOL_FEATURES,
        Step.SET_PROTOCOL_FEATURES,
        Step.GET_QUEUE_NUM,
        Step.GET_MAX_MEM_SLOTS,
        Step.GET_CONFIG,
    ),
    start=(
        Step.ADD_MEMORY,
        (Step.NUM, Step.BASE, Step.ADDR, Step.KICK, Step.CALL, Step.ERR, Step.ENABLE),
    ),
    stop=((Step.GET_BASE,),),
)
"""libblkio's virtio-blk-vhost-user; it never stops a ring, so `stop` is the shortest."""

VIRTIO_USER = Order(
    name="virtio-user",
    connect=(
        Step.SET_OWNER,
        Step.GET_FEATURES,
        Step.GET_PROTOCOL_FEATURES,
        Step.SET_PROTOCOL_FEATURES,
    ),
    start=(
        (Step.CALL,),
        Step.SET_FEATURES,
        Step.STATUS_READY,
        Step.SET_MEMORY,
        (Step.NUM, Step.BASE, Step.ADDR, Step.KICK, Step.ERR),
        (Step.ENABLE,),
        Step.STATUS_RUNNING,
    ),
    stop=((Step.DISABLE,), (Step.GET_BASE,), Step.STATUS_RESET),
    acknowledge=False,
    first_packed_base=0x8000,
)
"""DPDK's virtio-user: the whole memory table, no configuration, device status."""
