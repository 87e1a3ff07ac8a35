"""A switch and its ports, guests' and the host's: their options, and what serves them."""

from vhostuser.switch.check import check_ports
from vhostuser.switch.config import PortConfig, SwitchConfig
from vhostuser.switch.portset import Port, PortSet

__all__ = ["Port", "PortConfig", "PortSet", "SwitchConfig", "check_ports"]
