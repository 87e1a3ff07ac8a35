"""Accelerator drivers: what a guest's rings can be handed to instead of the software engine.

- `accel.pci`: a PCI device in reach of this process, however it is reached.
- `accel.vfio`: the kernel's VFIO; `accel.vfio_user`: the same by a socket, client and server.
- `accel.virtio_pci`: drives any virtio PCI device, which makes it an accelerator.
- `accel.simulator`: virtio devices in software, served over vfio-user, to try all that without any.
- `accel.cli`: the commands `accel` and `simulate`.

What a driver does is `vhostuser.datapath.Accelerator`. It registers a factory in the entry-point
group `vhostuser.accelerators`, and commands in `vhostuser.commands`; `vhostuser` finds both there
and never imports this package. Imports point one way only: accel -> vhostuser -> protocol.
"""

__all__: list[str] = []
