"""THE message table: one row for each message, and nothing about messages listed anywhere else.

Numbers, names, payloads, fds, replies, gates and legal states stand here; dispatch, the decoder,
the fuzzers' dictionaries and the reference page are derived. The rows of the RFC dialects that
differ stand in `dialect`. Specification: vhost-user, "Front-end message types" and "Back-end
message types".
"""

from protocol.vhost_user import formats as f
from protocol.vhost_user import messages as m
from protocol.vhost_user.features import ProtocolFeature
from protocol.vhost_user.rows import Channel, MessageRow, ReplyKind, ReplyRule
from protocol.vhost_user.states import DeviceEvent, PostcopyEvent, RingEvent
from protocol.virtio.features import VirtioFeature

__all__ = ["ACK", "BACK_END_ROWS", "FRONT_END_ROWS"]


def _one(_: m.Message | None) -> m.U64:
    return m.U64(value=1)


def _no_channel(_: m.Message | None) -> m.U64:
    return m.U64(value=0x101)  # bits 0-7: error; bit 8: no fd comes along


ACK = ReplyRule(kind=ReplyKind.NONE, message=m.U64, payload=f.U64, failure=_one)
"""The acknowledgement of any message without a reply of its own, given if asked for."""

_NUMBER = ReplyRule(kind=ReplyKind.PAYLOAD, message=m.U64, payload=f.U64)
_RESULT = ReplyRule(kind=ReplyKind.PAYLOAD, message=m.U64, payload=f.U64, failure=_one)
_STATE = ReplyRule(kind=ReplyKind.PAYLOAD, message=m.VringState, payload=f.VRING_STATE)
_LOG_DONE = ReplyRule(kind=ReplyKind.EMPTY, message=m.LogBaseReply, payload=f.LOG_REPLY)
_CONFIG = ReplyRule(
    kind=ReplyKind.PAYLOAD,
    message=m.ConfigReply,
    payload=f.CONFIG_REPLY,
    failure=lambda _: m.ConfigReply(),
)
_SESSION = ReplyRule(
    kind=ReplyKind.PAYLOAD,
    message=m.CryptoSession,
    payload=f.CRYPTO_SESSION,
    failure=m.CryptoSession.failed,
)
_BASES = ReplyRule(kind=ReplyKind.POSTCOPY, message=m.MemTableReply, payload=f.MEM_TABLE)
_BASE = ReplyRule(kind=ReplyKind.POSTCOPY, message=m.MemRegReply, payload=f.MEM_REGION)
_USERFAULT = ReplyRule(kind=ReplyKind.EMPTY_AND_FD, fds=(1, 1))
_INFLIGHT = ReplyRule(
    kind=ReplyKind.PAYLOAD_AND_FD,
    message=m.Inflight,
    payload=f.INFLIGHT,
    fds=(0, 1),
    failure=lambda _: m.Inflight(),
)
_OBJECT = ReplyRule(
    kind=ReplyKind.PAYLOAD_AND_FD,
    message=m.SharedObjectReply,
    payload=f.SHARED_OBJECT_REPLY,
    fds=(0, 1),
    failure=lambda _: m.SharedObjectReply(),
)
_CHANNEL = ReplyRule(
    kind=ReplyKind.PAYLOAD_AND_FD,
    message=m.U64,
    payload=f.U64,
    fds=(0, 1),
    failure=_no_channel,
)
_FOUND = ReplyRule(
    kind=ReplyKind.PAYLOAD_AND_FD, message=m.U64, payload=f.U64, fds=(0, 1), failure=_one
)
_SHMEM = ReplyRule(kind=ReplyKind.PAYLOAD, message=m.ShmemConfig, payload=f.SHMEM_CONFIG)

_P = ProtocolFeature
_R = RingEvent
_ONE = (1, 1)
_MAYBE = (0, 1)
_Row = MessageRow

FRONT_END_ROWS: tuple[MessageRow, ...] = (
    _Row(1, "GET_FEATURES", m.GetFeatures, f.NOTHING, reply=_NUMBER),
    _Row(2, "SET_FEATURES", m.SetFeatures, f.U64),
    _Row(3, "SET_OWNER", m.SetOwner, f.NOTHING),
    _Row(4, "RESET_OWNER", m.ResetOwner, f.NOTHING),
    _Row(5, "SET_MEM_TABLE", m.SetMemTable, f.MEM_TABLE, (0, f.MAX_REGIONS), _BASES),
    _Row(6, "SET_LOG_BASE", m.SetLogBase, f.LOG, _ONE, _LOG_DONE, _P.LOG_SHMFD),
    _Row(7, "SET_LOG_FD", m.SetLogFd, f.NOTHING, _ONE),
    _Row(8, "SET_VRING_NUM", m.SetVringNum, f.VRING_STATE, event=_R.CONFIGURE),
    _Row(9, "SET_VRING_ADDR", m.SetVringAddr, f.VRING_ADDRESS, event=_R.ADDRESS),
    _Row(10, "SET_VRING_BASE", m.SetVringBase, f.VRING_STATE, event=_R.CONFIGURE),
    _Row(11, "GET_VRING_BASE", m.GetVringBase, f.VRING_STATE, reply=_STATE, event=_R.STOP),
    _Row(12, "SET_VRING_KICK", m.SetVringKick, f.VRING_FD, _MAYBE, event=_R.START),
    _Row(13, "SET_VRING_CALL", m.SetVringCall, f.VRING_FD, _MAYBE),
    _Row(14, "SET_VRING_ERR", m.SetVringErr, f.VRING_FD, _MAYBE),
    _Row(15, "GET_PROTOCOL_FEATURES", m.GetProtocolFeatures, f.NOTHING, reply=_NUMBER, since="2.5"),
    _Row(16, "SET_PROTOCOL_FEATURES", m.SetProtocolFeatures, f.U64, since="2.5"),
    _Row(17, "GET_QUEUE_NUM", m.GetQueueNum, f.NOTHING, reply=_NUMBER, feature=_P.MQ, since="2.5"),
    _Row(18, "SET_VRING_ENABLE", m.SetVringEnable, f.VRING_STATE, event=_R.ENABLE, since="2.5"),
    _Row(19, "SEND_RARP", m.SendRarp, f.MAC, feature=_P.RARP, since="2.5"),
    _Row(20, "NET_SET_MTU", m.NetSetMtu, f.U64, feature=_P.MTU, since="2.9"),
    _Row(
        21,
        "SET_BACKEND_REQ_FD",
        m.SetBackendReqFd,
        f.NOTHING,
        _ONE,
        feature=_P.BACKEND_REQ,
        since="2.10",
    ),
    _Row(
        22,
        "IOTLB_MSG",
        m.IotlbMsg,
        f.IOTLB,
        reply=_RESULT,
        feature=VirtioFeature.ACCESS_PLATFORM,
        since="2.10",
    ),
    _Row(
        23,
        "SET_VRING_ENDIAN",
        m.SetVringEndian,
        f.VRING_STATE,
        feature=_P.CROSS_ENDIAN,
        event=_R.CONFIGURE,
        since="2.10",
    ),
    _Row(24, "GET_CONFIG", m.GetConfig, f.CONFIG, reply=_CONFIG, feature=_P.CONFIG, since="2.12"),
    _Row(25, "SET_CONFIG", m.SetConfig, f.CONFIG, feature=_P.CONFIG, since="2.12"),
    _Row(
        26,
        "CREATE_CRYPTO_SESSION",
        m.CreateCryptoSession,
        f.CRYPTO_SESSION,
        reply=_SESSION,
        feature=_P.CRYPTO_SESSION,
        since="2.12",
    ),
    _Row(
        27,
        "CLOSE_CRYPTO_SESSION",
        m.CloseCryptoSession,
        f.U64,
        feature=_P.CRYPTO_SESSION,
        since="2.12",
    ),
    _Row(
        28,
        "POSTCOPY_ADVISE",
        m.PostcopyAdvise,
        f.NOTHING,
        reply=_USERFAULT,
        feature=_P.PAGEFAULT,
        event=PostcopyEvent.ADVISE,
        since="2.12",
    ),
    _Row(
        29,
        "POSTCOPY_LISTEN",
        m.PostcopyListen,
        f.NOTHING,
        feature=_P.PAGEFAULT,
        event=PostcopyEvent.LISTEN,
        since="2.12",
    ),
    _Row(
        30,
        "POSTCOPY_END",
        m.PostcopyEnd,
        f.NOTHING,
        reply=_RESULT,
        feature=_P.PAGEFAULT,
        event=PostcopyEvent.END,
        since="2.12",
    ),
    _Row(
        31,
        "GET_INFLIGHT_FD",
        m.GetInflightFd,
        f.INFLIGHT,
        reply=_INFLIGHT,
        feature=_P.INFLIGHT_SHMFD,
        since="4.0",
    ),
    _Row(
        32,
        "SET_INFLIGHT_FD",
        m.SetInflightFd,
        f.INFLIGHT,
        _ONE,
        feature=_P.INFLIGHT_SHMFD,
        since="4.0",
    ),
    _Row(33, "GPU_SET_SOCKET", m.GpuSetSocket, f.NOTHING, _ONE, since="4.1"),
    _Row(
        34,
        "RESET_DEVICE",
        m.ResetDevice,
        f.NOTHING,
        feature=_P.RESET_DEVICE,
        event=DeviceEvent.RESET,
        since="4.2",
    ),
    _Row(
        35,
        "VRING_KICK",
        m.VringKick,
        f.VRING_STATE,
        feature=_P.INBAND_NOTIFICATIONS,
        event=_R.START,
        since="5.0",
    ),
    _Row(
        36,
        "GET_MAX_MEM_SLOTS",
        m.GetMaxMemSlots,
        f.NOTHING,
        reply=_NUMBER,
        feature=_P.CONFIGURE_MEM_SLOTS,
        since="5.1",
    ),
    _Row(
        37,
        "ADD_MEM_REG",
        m.AddMemReg,
        f.MEM_REGION,
        _ONE,
        _BASE,
        _P.CONFIGURE_MEM_SLOTS,
        since="5.1",
    ),
    _Row(
        38,
        "REM_MEM_REG",
        m.RemMemReg,
        f.MEM_REGION,
        _MAYBE,
        feature=_P.CONFIGURE_MEM_SLOTS,
        since="5.1",
        drop_fds=True,
    ),
    _Row(39, "SET_STATUS", m.SetStatus, f.U64, feature=_P.STATUS, since="5.2"),
    _Row(40, "GET_STATUS", m.GetStatus, f.NOTHING, reply=_NUMBER, feature=_P.STATUS, since="5.2"),
    _Row(
        41,
        "GET_SHARED_OBJECT",
        m.GetSharedObject,
        f.SHARED_OBJECT,
        reply=_OBJECT,
        feature=_P.SHARED_OBJECT,
        since="8.2",
    ),
    _Row(
        42,
        "SET_DEVICE_STATE_FD",
        m.SetDeviceStateFd,
        f.DEVICE_STATE,
        _ONE,
        _CHANNEL,
        _P.DEVICE_STATE,
        DeviceEvent.TRANSFER,
        "8.2",
    ),
    _Row(
        43,
        "CHECK_DEVICE_STATE",
        m.CheckDeviceState,
        f.NOTHING,
        reply=_RESULT,
        feature=_P.DEVICE_STATE,
        event=DeviceEvent.TRANSFER,
        since="8.2",
    ),
    _Row(
        44,
        "GET_SHMEM_CONFIG",
        m.GetShmemConfig,
        f.NOTHING,
        reply=_SHMEM,
        feature=_P.SHMEM,
        since="11.1",
    ),
    _Row(
        45,
        "GET_VRING_BASE_SKIP_DRAIN",
        m.GetVringBaseSkipDrain,
        f.VRING_STATE,
        reply=_STATE,
        feature=_P.GET_VRING_BASE_SKIP_DRAIN,
        event=_R.STOP,
        since="after 11.1; number not settled",
    ),
)
"""The front-end's messages."""

_B = Channel.BACK_END

BACK_END_ROWS: tuple[MessageRow, ...] = (
    _Row(
        1,
        "BACKEND_IOTLB_MSG",
        m.BackendIotlbMsg,
        f.IOTLB,
        feature=VirtioFeature.ACCESS_PLATFORM,
        since="2.10",
        channel=_B,
    ),
    _Row(
        2,
        "BACKEND_CONFIG_CHANGE_MSG",
        m.ConfigChange,
        f.NOTHING,
        feature=_P.CONFIG,
        since="2.12",
        channel=_B,
    ),
    _Row(
        3,
        "BACKEND_VRING_HOST_NOTIFIER_MSG",
        m.VringHostNotifier,
        f.VRING_AREA,
        _MAYBE,
        feature=_P.HOST_NOTIFIER,
        since="3.0",
        channel=_B,
    ),
    _Row(
        4,
        "BACKEND_VRING_CALL",
        m.BackendVringCall,
        f.VRING_STATE,
        feature=_P.INBAND_NOTIFICATIONS,
        since="5.0",
        channel=_B,
    ),
    _Row(
        5,
        "BACKEND_VRING_ERR",
        m.BackendVringErr,
        f.VRING_STATE,
        feature=_P.INBAND_NOTIFICATIONS,
        since="5.0",
        channel=_B,
    ),
    _Row(
        6,
        "BACKEND_SHARED_OBJECT_ADD",
        m.SharedObjectAdd,
        f.SHARED_OBJECT,
        feature=_P.SHARED_OBJECT,
        since="8.2",
        channel=_B,
    ),
    _Row(
        7,
        "BACKEND_SHARED_OBJECT_REMOVE",
        m.SharedObjectRemove,
        f.SHARED_OBJECT,
        feature=_P.SHARED_OBJECT,
        since="8.2",
        channel=_B,
    ),
    _Row(
        8,
        "BACKEND_SHARED_OBJECT_LOOKUP",
        m.SharedObjectLookup,
        f.SHARED_OBJECT,
        reply=_FOUND,
        feature=_P.SHARED_OBJECT,
        since="8.2",
        channel=_B,
    ),
    _Row(
        9,
        "BACKEND_SHMEM_MAP",
        m.ShmemMap,
        f.SHMEM_MAP,
        _ONE,
        feature=_P.SHMEM,
        since="11.1",
        channel=_B,
    ),
    _Row(
        10,
        "BACKEND_SHMEM_UNMAP",
        m.ShmemUnmap,
        f.SHMEM_MAP,
        feature=_P.SHMEM,
        since="11.1",
        channel=_B,
    ),
)
"""The back-end's messages."""
