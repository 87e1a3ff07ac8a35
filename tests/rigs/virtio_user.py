"""DPDK's virtio-user as a front-end: our program on top of it, which checks every frame that comes.

What the program does is in tests/interop/virtio_user/verify.c; it is compiled against the part
`dpdk`. A poll-mode driver keeps a processor busy, so runs are short.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["PATHS", "DriverPath", "Figures", "VirtioUser", "compile_verifier"]

_SOURCES = Path(__file__).parents[1] / "interop" / "virtio_user"
_PATIENCE = 90
_MIB = 192
"""Memory of a driver without huge pages, which cannot grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverPath:
    """One of the ways in which the driver serves its rings.

    Attributes:
        devargs: what makes it take that way.
        sends: what it says of itself then.
        receives: the same for the other direction.
        sums: whether it writes the checksum's place into the header of every frame.
    """

    devargs: str
    sends: str
    receives: str
    sums: bool = True


_PACKED_VECTORS = (
    "packed ring vectorized"
    if "avx512f" in Path("/proc/cpuinfo").read_text().split()
    else "packed ring standard"
)
"""The driver has its packed ring by vectors for AVX-512 alone, and takes the usual way without."""

PATHS = {
    "split-merged": DriverPath(
        devargs="packed_vq=0,mrg_rxbuf=1,in_order=0", sends="standard", receives="mergeable buffer"
    ),
    "split": DriverPath(
        devargs="packed_vq=0,mrg_rxbuf=0,in_order=0", sends="standard", receives="standard"
    ),
    "split-in-order": DriverPath(
        devargs="packed_vq=0,mrg_rxbuf=1,in_order=1", sends="inorder", receives="inorder"
    ),
    "split-vectors": DriverPath(
        devargs="packed_vq=0,mrg_rxbuf=0,in_order=0,vectorized=1",
        sends="standard",
        receives="vectorized",
    ),
    "packed-merged": DriverPath(
        devargs="packed_vq=1,mrg_rxbuf=1,in_order=0",
        sends="packed ring standard",
        receives="packed ring mergeable buffer",
    ),
    "packed": DriverPath(
        devargs="packed_vq=1,mrg_rxbuf=0,in_order=0",
        sends="packed ring standard",
        receives="packed ring standard",
    ),
    "packed-in-order": DriverPath(
        devargs="packed_vq=1,mrg_rxbuf=1,in_order=1",
        sends="packed ring standard",
        receives="packed ring mergeable buffer",
    ),
    # It writes the headers of four frames at a time into the wrong place when it has to compute
    # checksums (DPDK 22.11 to 26.07).
    "packed-vectors": DriverPath(
        devargs="packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1",
        sends=_PACKED_VECTORS,
        receives=_PACKED_VECTORS,
        sums=False,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run came to.

    Attributes:
        frames: that were sent by all queues.
        lost: that were on their way when the driver disabled its rings, and did not come.
        received: that came, segments of larger ones counted singly.
        bytes: of payload that were checked.
        grown: how often memory was added.
        shrunk: how often it was taken away.
        queues: frames that came by each receive queue.
    """

    frames: int
    lost: int
    received: int
    bytes: int
    grown: int
    shrunk: int
    queues: list[int]


def compile_verifier(dpdk: Path, folder: Path) -> Path:
    """Compile the program in `folder`; return where it is."""
    program = folder / "verify"
    flags = ["-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror"]
    sources = [str(path) for path in sorted(_SOURCES.glob("*.c"))]
    subprocess.run([str(dpdk / "dpdk-cc"), *flags, "-o", str(program), *sources], check=True)
    return program


class VirtioUser:
    """A run of the program. Make it with `with VirtioUser.started(...)`.

    Args:
        process: as which it runs.
        log: what DPDK says.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    @classmethod
    @contextlib.contextmanager
    def started(  # noqa: PLR0913 - what there is to say of a driver
        cls,
        program: Path,
        sockets: Sequence[Path],
        devargs: str,
        options: Mapping[str, int],
        *,
        folder: Path,
        huge_pages: bool = False,
    ) -> Iterator[VirtioUser]:
        """Start it with a port at each socket; it has ended when the block ends.

        Args:
            program: from `compile_verifier`.
            sockets: one or two.
            devargs: of the driver.
            options: of the program; see verify.c.
            folder: where its log goes.
            huge_pages: whether its memory comes from huge pages, and grows while it runs.
        """
        processors = ",".join(str(each) for each in sorted(os.sched_getaffinity(0)))
        words = [str(program), "--lcores", f"0@({processors})", "--no-pci", "--no-telemetry"]
        words += ["--iova-mode=va", "--force-max-simd-bitwidth=512"]
        words += ["--log-level=pmd.net.virtio.init:info"]
        if huge_pages:
            words += ["--in-memory", "--single-file-segments"]
        else:
            words += ["--no-huge", "--no-shconf", "-m", str(_MIB)]
        queues, size = options.get("queues", 1), options.get("size", 256)
        for number, path in enumerate(sockets):
            device = f"net_virtio_user{number},path={path},queues={queues},queue_size={size}"
            words += ["--vdev", f"{device},{devargs}"]
        words += ["--", *(f"{name}={value}" for name, value in options.items())]
        log = folder / "dpdk.log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # Where others than root have the files of a run.
                env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
            )
        with process:
            try:
                yield cls(process, log)
            finally:
                process.kill()

    def wait_for(self, word: str) -> None:
        """Wait until it says that it has come so far."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        assert said == word, f"it said {said!r} instead of {word!r}: {self.log.read_text()}"

    def die(self) -> None:
        """End it in the middle of everything."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(_PATIENCE)

    def figures(self) -> Figures:
        """Wait until it has ended, without finding any fault."""
        said, _ = self.process.communicate(timeout=_PATIENCE)
        assert self.process.returncode == 0, self.log.read_text()
        return Figures(**json.loads(said.splitlines()[-1]))

    def took(self, path: DriverPath) -> bool:
        """Tell whether its ports serve their rings in that way."""
        log = self.log.read_text()
        return f"using {path.sends} Tx path" in log and f"using {path.receives} Rx path" in log
