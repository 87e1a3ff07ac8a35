"""The wire formats of vhost-user, virtio and shared memory, as pure data.

Here live bytes, typed messages and state tables. No socket, no os, no mmap, no trio, no threads and
no clocks: whoever uses this layer brings the input and output. The parts are the sub-packages;
nothing is re-exported here.
"""

__all__: list[str] = []
