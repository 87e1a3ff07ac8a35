"""The words of the page that no figure changes."""

from __future__ import annotations

__all__ = ["INTRODUCTION", "METHOD"]

INTRODUCTION = """\
# Benchmarks

Written by `make bench` from [benchmarks.json](benchmarks.json), which holds every run; do not edit.

The same load generator ran against this back-end and against its peer, in turns: ours, peer, ours,
peer. The peer of disks is QEMU's storage daemon, that of the switch DPDK's vhost. Ratios compare
medians. Where it took part, an *ideal* back-end shows what the load generator can reach at all: it
gives every request back as it finds it, without a look at what was asked, and every frame's
descriptors without the frame.
"""

METHOD = """\
## How it was measured

- One run is a fresh back-end, a fresh client and half a second of measuring (a second for O_DIRECT)
  after 0.2 s of running in: random requests of 4 KiB, a closed loop of QD requests, one queue of
  256 descriptors. The back-end has processor 0, the client processor 1.
- The client uses libblkio and polls, but for the row that says that it sleeps. libblkio knows split
  rings only: packed rings and indirect descriptors are measured by a client on the engine's own
  driver side, which also drives split rings, the ideal back-end and the peer for comparison.
- Peer: one I/O thread, its polling as it comes, io_uring; for O_DIRECT also Linux AIO, and the
  better one counts. Ours: the defaults of all options.
- Raw: fio with io_uring on the same file, where the back-end would be. The client's processor is
  idle then and serves the disk's interrupts; "raw, busy" keeps it as busy as a client that polls.
- Virtual processors were seen to be near each other (a cache line there and back in less than
  170 ns) or far (above 250 ns), changing every few seconds. A probe stands before and after each
  run. Runs count where both say near; if the machine was hardly ever near, those where both say
  far; the others are dropped. Where it was hardly ever either, all count, and the state reads
  "changing": such ratios are worth little. State and dropped runs stand with the figures. Rows of
  O_DIRECT are not gated: a disk is far slower than that. Nowhere counts a run in which the client,
  which polls, had less than nine tenths of its processor (half of it, where the disk interrupts
  it): somebody else was at work.
- A run that crashed, ended with an error or completed nothing makes `make bench` fail; it is no
  figure.
- "Cost" compares time per request (one divided by the rate); "worst to best" sets the extremes
  against each other: the slowest run of one against the fastest of the other.
- Switch: frames of 64 or 1518 bytes by DPDK's virtio_user (mergeable receive buffers, rings of
  1024, bursts of 32), built before; one client process has both guests, and processor 1 for itself.
  The peer is testpmd with net_vhost: one thread, on processor 0, that takes frames of one port into
  buffers of its own and gives them to the next port, or drops them (sink), or makes them (source);
  it has no table of addresses. Ours is `vhostuser net` with the defaults of all options. What is
  counted is frames that arrived; of a sink, that were taken. A round trip is one frame at a time.
- "Busy" time per frame is what the back-end counts itself, in runs of their own, because counting
  costs some: of DPDK its cycles per packet, of ours the time of passes that had work. Both by the
  clock, and both divided by the frames that were taken from senders. With both guests on one
  processor the client is the bottleneck at 64 B; this is what the back-end itself costs.
- "Other client" has rings of its own (256 descriptors, on the engine's driver side), because
  virtio_user cannot ask for everything: a header and a frame in a chain or an indirect table, as
  Linux sends them, small receive buffers, TCP to be segmented, many ports and queue pairs. "Plain"
  is one descriptor.
- What an idle port adds is the difference of round trips' medians, divided by the ports.
- Control plane: the front-end is the project's own and plays QEMU's messages with two queues.
- Hand-over: the device is a simulated disk (`vhostuser simulate blk`) on the null store, a process
  on processor 0; the back-end is `vhostuser accel`. One driver, a loop in C, takes turns: *passed*,
  it stores into the device's page, which the back-end handed over; *straight*, it has mapped that
  page from the device itself, and no back-end is there; *relayed*, its kicks go through the
  back-end.
  "Busy" is about the back-end, not about the device. Where both sleep, the driver waits for the
  device's interrupt, and the device, which is software and cannot be woken by a store, looks at its
  page every 100 µs: this is most of the latency there.
- A million requests: counted is all that the scheduler saw of our process (`schedstat` of each
  thread) from before the first request until after the last one; at least a thousand doorbells and
  interrupts must have been among them.
- Relay: the engine's own thread on processor 0, alone in its process but for the thread that kicks.
- vfio-user: "blocking client, our device" is our client for threads at the simulated disk. The
  server "C" is an echo of 40 lines that knows nothing of devices; "C, C" is that echo at the other
  end of a loop in C. The promise is about the client: the other end is the same echo. Our device
  answers from trio, which is most of what a round trip to it takes. On two processors most of any
  round trip is the waking up of one that sleeps, and nothing is promised; on one, nothing overlaps,
  and the Python of the client counts in full. The promise there is about the cost of a round trip,
  one divided by the rate; by the median of single round trips the ratio is larger, see the table.
"""
