"""Tools for tests, ours and yours: joined connections, counting fds, leak checks, a raw peer."""

from vhostuser.testing.fds import CountingFd, Held, held, open_fds
from vhostuser.testing.pair import ConnectionPair, deliver
from vhostuser.testing.raw import NEED_REPLY, VERSION, RawFrontend, RawReply, raw_message

__all__ = [
    "NEED_REPLY",
    "VERSION",
    "ConnectionPair",
    "CountingFd",
    "Held",
    "RawFrontend",
    "RawReply",
    "deliver",
    "held",
    "open_fds",
    "raw_message",
]
