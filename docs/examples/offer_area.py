"""A back-end hands the notify area of a vring to its front-end: the whole exchange, and no more.

`doorbell` is a page that this back-end polls itself. One with a device passes the device's
descriptor, and the offset of the vring's doorbell in it, and polls nothing.
"""

import os
import socket

from protocol.vhost_user import (
    U64,
    Channel,
    Connection,
    Negotiated,
    Outgoing,
    Reply,
    Role,
    VringHostNotifier,
)
from vhostuser.fds import OwnedFd

PAGE = os.sysconf("SC_PAGESIZE")
NOT_RUNG = b"\xff\xff\xff\xff"  # a driver stores the vring's index, and that may be 0


def new_doorbell() -> OwnedFd:
    """Make a page that nobody has rung yet, of a file that cannot shrink under its reader."""
    doorbell = OwnedFd(os.memfd_create("doorbell", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    os.ftruncate(doorbell.fileno(), PAGE)
    os.pwrite(doorbell.fileno(), NOT_RUNG, 0)
    return doorbell


def hand_over(
    channel: socket.socket, negotiated: Negotiated, index: int, doorbell: OwnedFd
) -> bool:
    """Offer a started vring's page. Whether the answer is yes or no, keep serving the kick fd.

    Args:
        channel: what SET_BACKEND_REQ_FD brought.
        negotiated: features: HOST_NOTIFIER, BACKEND_SEND_FD, BACKEND_REQ and REPLY_ACK.
        index: a vring after its SET_VRING_KICK.
        doorbell: stays the caller's.
    """
    connection = Connection(Role.BACK_END, Channel.BACK_END, negotiated=negotiated)
    offer = VringHostNotifier(index=index, size=PAGE, offset=0)
    send(channel, connection.request(offer, fds=[doorbell], need_reply=True), [doorbell])
    # Here the answer is waited for. Never do that while the front-end waits for you.
    answer = None
    while not isinstance(answer, Reply):
        answer = connection.receive(channel.recv(connection.wanted, socket.MSG_WAITALL))
    return answer.message == U64(value=0)


def send(channel: socket.socket, outgoing: Outgoing, fds: list[OwnedFd]) -> None:
    """Put a message on the wire with its file descriptors."""
    socket.send_fds(channel, [outgoing.data], [fd.fileno() for fd in fds])


def was_rung(doorbell: OwnedFd) -> bool:
    """Look for a kick, and be ready for the next. Look at the vring after this, not before."""
    rung = os.pread(doorbell.fileno(), 4, 0) != NOT_RUNG
    if rung:
        os.pwrite(doorbell.fileno(), NOT_RUNG, 0)
    return rung
