"""Which function plans which request. Requests without one are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol import vhost_user as wire
from vhostuser.session.handlers import memory, negotiation, network, vring

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhostuser.session.plan import Plan

__all__ = ["HANDLERS"]

HANDLERS: dict[type[wire.Message], Callable[..., Plan]] = {
    wire.GetFeatures: negotiation.get_features,
    wire.SetFeatures: negotiation.set_features,
    wire.GetProtocolFeatures: negotiation.get_protocol_features,
    wire.SetProtocolFeatures: negotiation.set_protocol_features,
    wire.GetQueueNum: negotiation.get_queue_num,
    wire.GetMaxMemSlots: negotiation.get_max_mem_slots,
    wire.SetOwner: negotiation.set_owner,
    wire.ResetOwner: negotiation.reset_owner,
    wire.ResetDevice: negotiation.reset_device,
    wire.GetStatus: negotiation.get_status,
    wire.SetStatus: negotiation.set_status,
    wire.GetConfig: negotiation.get_config,
    wire.SetConfig: negotiation.set_config,
    wire.SetBackendReqFd: negotiation.set_backend_req_fd,
    wire.SendRarp: network.send_rarp,
    wire.NetSetMtu: network.set_mtu,
    wire.SetMemTable: memory.set_mem_table,
    wire.AddMemReg: memory.add_mem_reg,
    wire.RemMemReg: memory.rem_mem_reg,
    wire.SetVringNum: vring.set_num,
    wire.SetVringAddr: vring.set_addr,
    wire.SetVringBase: vring.set_base,
    wire.GetVringBase: vring.get_base,
    wire.SetVringKick: vring.set_kick,
    wire.SetVringCall: vring.set_call,
    wire.SetVringErr: vring.set_err,
    wire.SetVringEnable: vring.set_enable,
}
