"""Accelerator drivers: what a guest's rings can be handed to instead of the software engine.

Nothing lives here yet but the contract. A driver serves the rings of one device. Its operations are
those of a vDPA driver: identity, features, configuration space, status, number and sizes of queues,
queue groups and address spaces, map and unmap, a queue's addresses, state and readiness, its notify
area, its interrupt eventfd, suspend and resume, dirty tracking, device state, reset. Each one is
mandatory or has a documented fallback, and the driver's capabilities say which it has. All are
async; whatever may be slow runs in a thread.

A driver registers a factory in the entry-point group `vhostuser.accelerators`, and commands in
`vhostuser.commands`; `vhostuser` finds both there and never imports this package. Imports point one
way only: accel -> vhostuser -> protocol.
"""

__all__: list[str] = []
