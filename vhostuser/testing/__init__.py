"""Tools for tests, ours and yours: joined connections, leak checks, fakes, a server in-process."""

from vhostuser.testing.datapath import FakeDatapath, FakeDevice, fake_profile
from vhostuser.testing.fds import CountingFd, Held, held, open_fds
from vhostuser.testing.pair import ConnectionPair, deliver
from vhostuser.testing.raw import NEED_REPLY, VERSION, RawFrontend, RawReply, raw_message
from vhostuser.testing.serving import serving

__all__ = [
    "NEED_REPLY",
    "VERSION",
    "ConnectionPair",
    "CountingFd",
    "FakeDatapath",
    "FakeDevice",
    "Held",
    "RawFrontend",
    "RawReply",
    "deliver",
    "fake_profile",
    "held",
    "open_fds",
    "raw_message",
    "serving",
]
