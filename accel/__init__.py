"""Accelerator drivers: what a guest's rings can be handed to instead of the software engine.

Nothing lives here yet but the contract. A driver implements `vhostuser.datapath.Accelerator` (see
docs/explanation/architecture.md, "The seam") and registers a factory in the entry-point group
`vhostuser.accelerators`; `vhostuser` finds it there and never imports this package. Imports point
one way only: accel -> vhostuser -> protocol.
"""

__all__: list[str] = []
