"""The session: what a front-end's requests mean for a device, without doing any of it.

`begin` turns a request into a plan; the server carries the plan out; `finish` (or `refuse`) settles
it and gives what goes on the wire. The state is replaced only when a plan succeeded, so that
nothing is acknowledged before it happened and a plan that failed has changed nothing. No I/O: a
fuzzer drives both halves without a socket.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.vhost_user import ConfigChange, ProtocolFeatures, RemoteProtocolError
from vhostuser.session.handlers import HANDLERS
from vhostuser.session.refusal import Refusal
from vhostuser.session.state import SessionState, Vring

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vhost_user import Connection, Message, Outgoing, ProtocolError, Request
    from vhostuser.devices import DeviceProfile
    from vhostuser.session.plan import Plan, Result

__all__ = ["Session"]


class Session:
    """One front-end's session with a device.

    Args:
        connection: the front-end channel, in the back-end's role.
        profile: what the device offers.
    """

    def __init__(self, connection: Connection, profile: DeviceProfile) -> None:
        self.connection = connection
        self.profile = profile
        self.state = SessionState(vrings=tuple(Vring() for _ in range(profile.queues)))

    def begin(self, request: Request) -> Plan:
        """Say what a request needs done. Changes nothing; the request's fds stay the caller's.

        Raises:
            RemoteProtocolError: it cannot be accepted; pass the error to `refuse`.
        """
        try:
            return self._plan(request)
        except Refusal as refusal:
            raise RemoteProtocolError(
                refusal.rule,
                message=request.row.name,
                field=refusal.field,
                value=refusal.value,
                section=request.row.section,
            ) from None

    def _plan(self, request: Request) -> Plan:
        handler = HANDLERS.get(type(request.message))
        if handler is None:
            rule = f"a {self.profile.kind} device does not serve this message"
            raise Refusal("request", request.row.number, rule)
        return handler(self.profile, self.state, request.message, request.fds)

    def finish(self, request: Request, plan: Plan, results: Sequence[Result]) -> Outgoing | None:
        """Settle a plan that was carried out.

        Args:
            request: the request that `begin` planned.
            plan: its plan.
            results: what each step returned, in order.

        Returns:
            What goes on the wire; None when the protocol wants no answer.
        """
        self.state, answer = plan.settle(results)
        return self.connection.accept(request, answer)

    def refuse(self, request: Request, error: ProtocolError | OSError) -> Outgoing | None:
        """Settle a request that was refused or whose plan failed; the state stays as it was.

        Returns:
            A non-zero acknowledgement. None when the protocol has none for this request: the
            connection is closed then.
        """
        return self.connection.refuse(request, error)

    def ring_broken(self, index: int) -> None:
        """Note that the engine stopped a ring which broke a rule; it can be started anew."""
        vring = replace(self.state.vrings[index], broken=True)
        self.state = self.state.with_vring(index, vring)
        self.connection.ring_broken(index)

    def ring_failed(self, index: int) -> None:
        """Note that what served a ring is gone: the device needs a reset, and says so."""
        self.ring_broken(index)
        self.state = replace(self.state, needs_reset=True)

    def config_changed(self) -> Message | None:
        """Return what tells the front-end to read the configuration again, if it can be told."""
        told = self.state.backend_channel
        told = told and ProtocolFeatures.CONFIG in self.state.protocol_features
        return ConfigChange() if told else None
