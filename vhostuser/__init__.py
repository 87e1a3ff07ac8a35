"""A vhost-user back-end: sessions, memory, rings, devices and the server that carries them.

The front-end library is `vhostuser.frontend`, tools for tests are in `vhostuser.testing`.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
