"""Guest memory is the kernel's: no process of a peer may answer our page faults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fuse_file import fuse_file
from parts.require import require

from protocol.vhost_user import Gpa, MemRegion, Uva
from vhostuser.errors import RequestError
from vhostuser.fds import OwnedFd
from vhostuser.memory import MemoryTable

PAGE = 4096


@pytest.mark.interop
@pytest.mark.parametrize(
    "prepare",
    [
        MemoryTable.prepare_add,
        lambda table, region, fd: table.prepare_replace([(region, fd)]),
    ],
    ids=["add", "replace"],
)
def test_guest_memory_on_fuse_is_refused_before_it_is_mapped(tmp_path, prepare):
    require("fuse")
    region = MemRegion(gpa=Gpa(0), size=PAGE, uva=Uva(0x7000_0000))
    table = MemoryTable()
    with fuse_file(tmp_path, PAGE) as number, OwnedFd(os.dup(number)) as fd:
        with pytest.raises(RequestError, match="memory-backend-memfd,share=on"):
            prepare(table, region, fd)
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert table.snapshot.regions == ()
    table.close()
