/* SPDX-License-Identifier: Apache-2.0
 *
 * vhu.h - the one public header of the engine: guest memory, virtqueues (device and driver side),
 * workers, the block device, a network switch, relays. The C compiler reads all of it, cffi what follows the marker.
 *
 * Guest memory is hostile and changes while it is looked at: every field is read once into a local,
 * checked, and only the local is used. No function here touches a byte outside the regions it was given.
 *
 * Conventions: functions that can fail return 0 or a negative errno; results come last, as `ret`.
 * A create/destroy or map/unref pair stands together. An fd that a function takes over is closed by
 * the engine from then on, also when the call fails, unless its comment says "borrowed".
 */
#ifndef VHU_H
#define VHU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* cffi reads from here */

/* ---- Guest memory ------------------------------------------------------------------------------ */

/* One mapping of a front-end's memory fd. Reference counted: unmapped with the last reference. */
struct vhu_region;

/* Map `size` bytes at `offset` of `fd` (borrowed), shared and writable, not populated, not inherited by
 * a fork. Mapping and unmapping are rounded to the page size of the file (hugetlbfs). When the file is
 * truncated later, the first access to what is gone (SIGBUS, which this takes over) puts empty memory in
 * place of all of the region; it counts as lost from then on, see vhu_mem_faulted.
 * -EINVAL: size 0, an address or the offset not a multiple of 4096, or a sum that wraps;
 * -ERANGE: offset + size lies beyond the end of the file; -EOPNOTSUPP: the file is of FUSE or virtiofs;
 * -EBADF/-EACCES/-ENODEV/-ENOMEM from mmap. */
int vhu_region_map(int fd, uint64_t gpa, uint64_t uva, uint64_t size, uint64_t offset,
                   struct vhu_region **ret);
void vhu_region_unref(struct vhu_region *region);
void *vhu_region_hva(const struct vhu_region *region);

/* An immutable, reference-counted snapshot of the whole table. */
struct vhu_mem;

/* Takes its own reference on each region. -EEXIST: two regions overlap by gpa or by uva. */
int vhu_mem_create(struct vhu_region *const *regions, size_t count, struct vhu_mem **ret);
void vhu_mem_ref(struct vhu_mem *mem);
void vhu_mem_unref(struct vhu_mem *mem);
/* References besides the creator's: 0 means that no ring and no request uses the snapshot any more. */
uint32_t vhu_mem_pins(const struct vhu_mem *mem);
/* Whether a file that holds some of it was truncated, and then the missing part was used. `gpa`: where
 * the region begins that is lost. Any thread. */
bool vhu_mem_faulted(const struct vhu_mem *mem, uint64_t *gpa);

/* Host address of [address, address + length), or NULL unless all of it lies in one region. */
void *vhu_mem_gpa_to_hva(const struct vhu_mem *mem, uint64_t gpa, uint64_t length);
void *vhu_mem_uva_to_hva(const struct vhu_mem *mem, uint64_t uva, uint64_t length);

/* ---- Virtqueues -------------------------------------------------------------------------------- */

/* Why a ring was stopped. Stable numbers: Python names them and gives the rule of each. */
enum vhu_fault {
    VHU_FAULT_NONE = 0,
    VHU_FAULT_AVAIL_JUMP = 1,          /* more entries made available than the ring has */
    VHU_FAULT_HEAD = 2,                /* head index >= ring size */
    VHU_FAULT_NEXT = 3,                /* next index >= table size */
    VHU_FAULT_CHAIN_LENGTH = 4,        /* chain longer than its table: a loop */
    VHU_FAULT_DIRECTION = 5,           /* device-readable buffer after a device-writable one */
    VHU_FAULT_ADDRESS = 6,             /* a buffer does not lie inside guest memory */
    VHU_FAULT_INDIRECT_FEATURE = 7,    /* indirect descriptor, feature not negotiated */
    VHU_FAULT_INDIRECT_NESTED = 8,     /* indirect descriptor inside an indirect table */
    VHU_FAULT_INDIRECT_NEXT = 9,       /* indirect descriptor with the NEXT flag */
    VHU_FAULT_INDIRECT_SIZE = 10,      /* table length 0, not a multiple of 16, or too long */
    VHU_FAULT_INDIRECT_ADDRESS = 11,   /* the table does not lie inside one region */
    VHU_FAULT_ID = 12,                 /* packed buffer id >= ring size */
    VHU_FAULT_IN_FLIGHT = 13,          /* head or id made available again before it was used */
    VHU_FAULT_FRAGMENTED = 14,         /* chain crosses more region edges than the engine follows */
    VHU_FAULT_RING_ADDRESS = 15,       /* the memory table no longer holds the ring itself */
    VHU_FAULT_MEMORY = 16,             /* a file that holds guest memory was truncated */
};

/* What a front-end may send as a ring's position, and what it gets back when the ring stops: for a split
 * ring the next available index (used: the next used index); for a packed ring 15-bit offsets with their
 * wrap counters. Plain data; it re-enters only through a create or start, which checks it. */
struct vhu_ring_state {
    uint16_t avail;
    uint16_t used;
    uint8_t avail_wrap;
    uint8_t used_wrap;
};

struct vhu_ring_config {
    uint64_t features; /* negotiated virtio features: 28 INDIRECT_DESC, 29 EVENT_IDX, 34 RING_PACKED, 35 IN_ORDER */
    uint32_t num;      /* ring size in descriptors: 1..32768, a power of two for split rings */
    void *desc;        /* host addresses of the three areas, each checked to lie in guest memory */
    void *driver;      /* split: available ring; packed: driver event suppression */
    void *device;      /* split: used ring; packed: device event suppression */
    struct vhu_ring_state state;
};

/* Bytes of each area for `num` descriptors, and its alignment; area 0 desc, 1 driver, 2 device. */
uint64_t vhu_ring_area_size(uint64_t features, uint32_t num, int area);
uint32_t vhu_ring_area_alignment(uint64_t features, int area);

/* A popped chain. `iov` holds the readable parts, then the writable ones; a buffer that crosses from one
 * region into the adjacent one takes two entries; buffers of length 0 take none. */
struct vhu_chain {
    uint16_t id;           /* split: head index; packed: buffer id */
    uint16_t slots;        /* ring slots that it occupies (packed: how far used advances) */
    uint32_t readable;     /* iov entries the device may read ... */
    uint32_t writable;     /* ... and, after them, entries it may write */
    uint64_t readable_bytes;
    uint64_t writable_bytes;
    struct iovec *iov;
};

/* The device side of a ring. Owns no thread; not thread-safe. */
struct vhu_ring;

/* Takes a reference on `mem`. -EINVAL: num, alignment or state is not legal for the layout. */
int vhu_ring_create(struct vhu_mem *mem, const struct vhu_ring_config *config, struct vhu_ring **ret);
void vhu_ring_destroy(struct vhu_ring *ring);
/* The iov entries that `vhu_ring_pop` may need for one chain of this ring. */
uint32_t vhu_ring_iov_limit(const struct vhu_ring *ring);
/* 1: a chain, its buffers in `iov` (room for vhu_ring_iov_limit entries); 0: empty;
 * -EPROTO: the ring broke a rule, see vhu_ring_fault; it stays broken. */
int vhu_ring_pop(struct vhu_ring *ring, struct iovec *iov, struct vhu_chain *ret);
/* Give a popped chain back, `written` bytes of its writable part filled. Not visible until published.
 * With IN_ORDER, chains are pushed in the order they were popped. -EINVAL: not in flight (our bug). */
int vhu_ring_push(struct vhu_ring *ring, const struct vhu_chain *chain, uint32_t written);
/* Make pushed chains visible. True: the driver wants a call. */
bool vhu_ring_publish(struct vhu_ring *ring);
/* Ask the driver for kicks, or not to bother. enable: true when chains are already there: look again. */
bool vhu_ring_kick_enable(struct vhu_ring *ring);
void vhu_ring_kick_disable(struct vhu_ring *ring);
void vhu_ring_state(const struct vhu_ring *ring, struct vhu_ring_state *ret);
/* The fault that stopped the ring, and the value that broke the rule. */
enum vhu_fault vhu_ring_fault(const struct vhu_ring *ring, uint64_t *value);
/* Use another snapshot and other host addresses for the same ring (the memory table changed). */
int vhu_ring_move(struct vhu_ring *ring, struct vhu_mem *mem, void *desc, void *driver, void *device);

/* The driver side, for front-ends: tests, the demo, benchmarks, fuzzers. It owns its ring memory and so
 * trusts it, but believes nothing that the device wrote. Not thread-safe. */
struct vhu_driver;

struct vhu_buffer {
    uint64_t address; /* as the device shall see it (GPA) */
    uint32_t length;
    uint32_t writable;
};

struct vhu_driver_config {
    struct vhu_ring_config ring;
    uint16_t indirect_entries; /* entries of each indirect table, 0: no tables */
    uint64_t indirect_address; /* GPA of `num` tables of that size, one for each slot ... */
    void *indirect;            /* ... and where they lie here */
};

int vhu_driver_create(const struct vhu_driver_config *config, struct vhu_driver **ret);
void vhu_driver_destroy(struct vhu_driver *driver);
/* Put a chain (readable buffers first) into the ring, by an indirect table or not, `ret` its id.
 * -ENOSPC: no room now; -EINVAL: no buffer, wrong order, more than the ring or the table can ever hold,
 * or indirect without the feature or tables. */
int vhu_driver_add(struct vhu_driver *driver, const struct vhu_buffer *buffers, uint32_t count,
                   bool indirect, uint16_t *ret);
/* Make added chains visible. True: the device wants a kick. */
bool vhu_driver_publish(struct vhu_driver *driver);
/* 1: a used chain; 0: none; -EPROTO: the device returned an id that is not in flight; it stays so. */
int vhu_driver_pop(struct vhu_driver *driver, uint16_t *id, uint32_t *written);
bool vhu_driver_call_enable(struct vhu_driver *driver);
void vhu_driver_call_disable(struct vhu_driver *driver);
void vhu_driver_state(const struct vhu_driver *driver, struct vhu_ring_state *ret);

/* ---- Block store ------------------------------------------------------------------------------- */

/* One disk. Requests of any number of queues and workers may run on it at once. */
struct vhu_blk;

struct vhu_blk_config {
    int fd;                 /* taken over; -1: the null store, which completes and transfers nothing */
    int buffered_fd;        /* taken over; the same file through the page cache, for requests that the
                               alignment of a direct `fd` does not allow; -1 where fd is not direct */
    uint32_t alignment;     /* bytes; what a direct fd demands of address, offset and length; 1 otherwise */
    uint64_t sectors;       /* capacity in units of 512 bytes */
    uint32_t seg_max;       /* data buffers of a request; more is an I/O error (0: not checked) */
    uint32_t size_max;      /* bytes of a data buffer, where the driver negotiated SIZE_MAX (0: not checked) */
    uint32_t max_discard_sectors;
    uint32_t max_discard_segments;
    uint32_t max_write_zeroes_sectors;
    uint32_t max_write_zeroes_segments;
    uint8_t read_only;
    char serial[20];        /* GET_ID, padded with NUL */
};

int vhu_blk_create(const struct vhu_blk_config *config, struct vhu_blk **ret);
/* Set the capacity: what begins beyond it from now on is an I/O error. From any thread. -EINVAL: too large. */
int vhu_blk_resize(struct vhu_blk *blk, uint64_t sectors);
/* Whether a write may be complete before it is on the medium (true at first, where the driver can flush);
 * false: it may not. From any thread. */
void vhu_blk_set_writeback(struct vhu_blk *blk, bool writeback);
/* Only after every queue on it was destroyed. */
void vhu_blk_destroy(struct vhu_blk *blk);

/* ---- Network switch ---------------------------------------------------------------------------- */

/* Ports and what goes between them: a learning switch (IEEE 802.1D, without spanning tree; VLAN tags pass
 * through). A frame is copied once for each receiver, straight from the sender's buffers into the
 * receiver's. Where a receiver has no buffer the frame is dropped for that receiver: nobody waits for
 * anybody. Where it did not negotiate what the sender used, the frame is cut into segments and has its
 * checksum computed on the way. */
struct vhu_net;

enum vhu_net_mode {
    VHU_NET_SWITCH = 0,
    VHU_NET_ECHO = 1,   /* each port gets back what it sends */
    VHU_NET_SINK = 2,   /* what is sent is counted and dropped */
    VHU_NET_SOURCE = 3, /* as sink, and receive buffers are filled as fast as they come */
};

struct vhu_net_config {
    enum vhu_net_mode mode;
    uint32_t ports;      /* most ports at a time: 1..1024 */
    uint32_t ageing_s;   /* how long an address is known that sends nothing; 0: 300 */
    uint32_t frame_size; /* bytes of a frame that VHU_NET_SOURCE makes: 14..1518; 0: 64 */
    bool shared;         /* whether its queues are on more than one worker */
};

int vhu_net_create(const struct vhu_net_config *config, struct vhu_net **ret);
/* Only after every queue on it was destroyed. */
void vhu_net_destroy(struct vhu_net *net);

struct vhu_net_port_config {
    uint32_t pairs;     /* of queues: 1..128 */
    uint32_t addresses; /* most addresses learned there; 0: 1024 */
    uint8_t mac[6];
    bool locked;        /* drop frames that come from another address than `mac` */
};

/* -EINVAL: not in range; -ENOSPC: there are as many ports as there may be. `ret`: its number. */
int vhu_net_port_add(struct vhu_net *net, const struct vhu_net_port_config *config, uint32_t *ret);
/* Only after its queues were destroyed. Its number may be another's next. */
void vhu_net_port_remove(struct vhu_net *net, uint32_t port);
/* Its driver was reset, or another may come: forget what was set by the control queue at the next start. */
void vhu_net_port_reset(struct vhu_net *net, uint32_t port);
/* A port whose link is down neither sends nor receives, and its addresses are forgotten. It is up at first. */
void vhu_net_port_set_link(struct vhu_net *net, uint32_t port, bool up);
/* Have the port's first queue tell the others where `mac` lives now: a broadcast RARP, as after a migration. */
void vhu_net_port_announce(struct vhu_net *net, uint32_t port, const uint8_t *mac);

enum vhu_net_drop {
    /* counted at the ring that sent */
    VHU_NET_DROP_LENGTH = 0,      /* less than a header and 14 bytes, or more than 65550 */
    VHU_NET_DROP_HEADER = 1,      /* an offload that was not negotiated, or that makes no sense */
    VHU_NET_DROP_SPOOFED = 2,     /* the port is locked to another address, or the source is none */
    VHU_NET_DROP_LINK = 3,        /* the sender's link is down */
    VHU_NET_DROP_NO_RECEIVER = 4, /* nobody is there to receive it */
    VHU_NET_DROP_SUNK = 5,        /* VHU_NET_SINK */
    /* counted at the ring that should have received */
    VHU_NET_DROP_NO_BUFFER = 6,   /* there was none, or the host's queue is full */
    VHU_NET_DROP_TOO_LARGE = 7,   /* the next buffers do not hold it */
    VHU_NET_DROP_FILTERED = 8,    /* the driver does not want it: its receive filter */
    VHU_NET_DROP_OFFLOAD = 9,     /* it cannot be segmented, or its checksum not computed */
};

enum { VHU_NET_DROPS = 10 };

struct vhu_net_counters {
    uint64_t frames;   /* a ring that sends: handed on to one receiver or more */
    uint64_t bytes;    /* of these frames, without their headers */
    uint64_t segments; /* a ring that receives: frames among them that were made here of larger ones */
    uint64_t drops[VHU_NET_DROPS];
};

/* Ring 2 * i of a port receives, 2 * i + 1 sends; a TAP's queue has both, too. From any thread. */
void vhu_net_counters(const struct vhu_net *net, uint32_t port, uint32_t ring,
                      struct vhu_net_counters *ret);

/* What a driver has set by its control queue: a command is answered when it can be seen here. From any thread. */
struct vhu_net_port_state {
    uint64_t changes;       /* how often anything here changed, after which the queue's event_fd is signalled */
    uint64_t announced;     /* announcements that the driver acknowledged; like `changes`, it never starts anew */
    uint64_t offloads;      /* bits of CTRL_GUEST_OFFLOADS; all of the features accepted at first */
    uint32_t pairs;         /* that get frames: 1 at first where MQ and CTRL_VQ were negotiated, else all */
    uint32_t unicast;       /* entries of the filter tables, or UINT32_MAX: too many, all pass */
    uint32_t multicast;
    uint32_t vlans;         /* that pass unless promiscuous; 4096 where there is no filter */
    uint8_t mac[6];
    bool promiscuous;       /* at first: until the driver says otherwise it gets everything */
    bool all_unicast, all_multicast, no_unicast, no_multicast, no_broadcast;
};

void vhu_net_port_state(const struct vhu_net *net, uint32_t port, struct vhu_net_port_state *ret);

struct vhu_net_address {
    uint8_t mac[6];
    uint16_t port;
    uint32_t age_s; /* since it was last heard of */
};

/* Write up to `room` of the addresses that are known. Returns how many. From any thread. */
size_t vhu_net_addresses(const struct vhu_net *net, struct vhu_net_address *ret, size_t room);

/* ---- Workers and queues ------------------------------------------------------------------------ */

/* A thread that serves rings: polls for a while, then sleeps until a kick or a completion. */
struct vhu_worker;

/* How a request waits for the store without keeping its worker. */
enum vhu_io {
    VHU_IO_AUTO = 0,    /* io_uring, or threads where the host refuses it */
    VHU_IO_URING = 1,
    VHU_IO_THREADS = 2, /* a few threads that wait in system calls */
};

struct vhu_worker_config {
    uint32_t poll_us; /* longest time to poll an idle ring before sleeping; 0: sleep at once */
    bool busy;        /* never sleep */
    enum vhu_io io;
    bool account;     /* measure the time spent in passes that had work, see vhu_worker_busy_ns */
    uint32_t nap_us;  /* how long to sleep at once while a ring has a notify page, which wakes nobody;
                         0: 100. After 64 naps without a kick they are ten times as long */
};

/* Whether io_uring can be used: 0; -ENOSYS: not built in, or not in this kernel; -EPERM: forbidden (sysctl
 * kernel.io_uring_disabled, or a sandbox); -ENOMEM and others as the kernel gives them. */
int vhu_io_uring_probe(void);

/* Errors also from vhu_io_uring_probe, where VHU_IO_URING is asked for. */
int vhu_worker_create(const struct vhu_worker_config *config, struct vhu_worker **ret);
/* Ends when what is in flight has completed; no further chain is popped. Joins the thread. Its queues must be destroyed afterwards. */
void vhu_worker_destroy(struct vhu_worker *worker);
/* As destroy, but waits at most `timeout_ms`: -ETIMEDOUT when the thread hangs in the store, in which case
 * nothing of it may be freed and the process should end with _exit. */
int vhu_worker_stop(struct vhu_worker *worker, uint32_t timeout_ms);
/* Nanoseconds that the thread spent in passes that had work; 0 where that is not measured. Any thread. */
uint64_t vhu_worker_busy_ns(const struct vhu_worker *worker);
/* What VHU_IO_AUTO became. */
enum vhu_io vhu_worker_io(const struct vhu_worker *worker);

/* A queue is one ring of one device on one worker. Python writes what it wants, the worker publishes what
 * is: both are levels, so a change can be repeated or overtaken by a later one without harm. */
struct vhu_queue;

enum vhu_queue_actual {
    VHU_QUEUE_STOPPED = 0,
    VHU_QUEUE_RUNNING = 1,
    VHU_QUEUE_STOPPING = 2, /* waits for requests in flight */
    VHU_QUEUE_BROKEN = 3,   /* a fault; the ring is left alone until it is stopped and started anew */
};

enum vhu_queue_stop {
    VHU_STOP_DRAIN = 0,   /* finish what was popped */
    VHU_STOP_ABANDON = 1, /* leave what is not finished unacknowledged */
};

struct vhu_queue_wanted {
    uint64_t start;                /* 0: stopped; else the number of the start: a new one starts the ring anew
                                      from config.state, the same one keeps its position */
    enum vhu_queue_stop how;       /* how to stop, while start is 0 */
    bool enabled;                  /* a started ring that is not enabled is left alone */
    struct vhu_mem *mem;           /* referenced by the engine while it is used */
    struct vhu_ring_config config; /* the used index of a split ring is read from the ring at its start */
    void *notify;                  /* NULL, or a page: a store into its first 4 bytes is a kick, too, while the
                                      ring is served. Stays mapped until another was applied, and whole: no
                                      peer may be able to truncate its file */
};

struct vhu_queue_status {
    uint64_t applied;              /* number of the last vhu_queue_want that was carried out */
    enum vhu_queue_actual actual;
    struct vhu_ring_state state;   /* meaningful unless RUNNING */
    enum vhu_fault fault;          /* why BROKEN ... */
    uint64_t fault_value;          /* ... and the value that broke the rule */
    /* counters since the queue was created */
    uint64_t requests;
    uint64_t errors;               /* requests that ended with a status other than OK */
    uint64_t bytes_read;           /* payload, guest's view */
    uint64_t bytes_written;
    uint64_t kicks;                /* wake-ups by the kick fd */
    uint64_t page_kicks;           /* stores into the notify page that were found, as a rule while it slept */
    uint64_t calls;                /* signals to the call fd */
    uint64_t calls_suppressed;     /* publishes after which the driver wanted none */
    uint64_t waits;                /* times that a request could not go on at once and waited for the store */
};

enum vhu_queue_fd { VHU_FD_KICK = 0, VHU_FD_CALL = 1, VHU_FD_ERR = 2 };

/* `event_fd` (borrowed, an eventfd) is signalled whenever the status changed. */
int vhu_queue_create(struct vhu_worker *worker, struct vhu_blk *blk, int event_fd, struct vhu_queue **ret);
/* Ring `ring` of a port, one queue each at a time: of pair i, 2 * i receives and 2 * i + 1 sends; the ring
 * after all pairs is the control queue. -EINVAL: there is no such port or ring; -EBUSY: it has a queue. */
int vhu_queue_create_net(struct vhu_worker *worker, struct vhu_net *net, uint32_t port, uint32_t ring,
                         int event_fd, struct vhu_queue **ret);
/* One queue of a TAP device as pair `pair` of a port. `fd` (taken over, non-blocking) has IFF_VNET_HDR with a
 * header of 12 bytes; `features`: the GUEST_* offloads that may be written to it. It is RUNNING soon,
 * and destroyed at any time; nothing can be wanted of it. When somebody removes the device it becomes BROKEN.
 * Errors as above. */
int vhu_queue_create_tap(struct vhu_worker *worker, struct vhu_net *net, uint32_t port, uint32_t pair, int fd,
                         uint64_t features, int event_fd, struct vhu_queue **ret);
/* Only when STOPPED, or after its worker was stopped. */
void vhu_queue_destroy(struct vhu_queue *queue);
/* Set the wanted state. Returns its number at once: it holds when status.applied reaches it. */
uint64_t vhu_queue_want(struct vhu_queue *queue, const struct vhu_queue_wanted *wanted);
/* Take over `fd` (an eventfd or a pipe end, set non-blocking here), or -1 for none: a started ring without
 * a kick fd is polled, one without a call fd is never signalled. The old fd is closed by the worker when it
 * no longer uses it. A call fd that arrives while the ring runs is signalled once, for a lost interrupt. */
int vhu_queue_set_fd(struct vhu_queue *queue, enum vhu_queue_fd which, int fd);
/* Interrupt the worker where a peer keeps it in a system call, by filling an eventfd between a look at it and
 * a write to it. Repeat until what was wanted is applied: one that comes too early is lost. Uses SIGURG. */
void vhu_queue_interrupt(struct vhu_queue *queue);
void vhu_queue_status(struct vhu_queue *queue, struct vhu_queue_status *ret);
/* Have the worker look at the ring soon, as after a kick that came another way. */
void vhu_queue_look(struct vhu_queue *queue);

/* What a broken device does. A testing aid for those who write drivers; never on by itself. */
enum vhu_mischief {
    VHU_MISCHIEF_STUCK = 0,      /* no chain is popped any more, as long as `times` is not 0 */
    VHU_MISCHIEF_LOST_CALLS = 1, /* so many of the next calls do not come */
    VHU_MISCHIEF_WRONG_IDS = 2,  /* so many of the next used entries have an id that is never in flight */
};

/* Misbehave from now on; 0 ends it. Any thread. */
void vhu_queue_misbehave(struct vhu_queue *queue, enum vhu_mischief what, uint32_t times);

/* ---- Relays ------------------------------------------------------------------------------------ */

/* A thread that sleeps until a signal comes in and passes it on: a guest's kicks to the doorbells of a
 * device, a device's interrupt to the call fds of several rings. For one peer: see vhu_queue_interrupt. */
struct vhu_relay;

/* One way of signals, from one source to one target. Its functions may be called from any thread. */
struct vhu_route;

/* Where signals go: a register, or fds. */
struct vhu_target {
    void *address;     /* mapped while the route uses it; NULL: fds are signalled */
    uint32_t width;    /* bytes stored at once: 2 or 4 */
    uint32_t value;    /* what is stored */
    const int *fds;    /* taken over; eventfds, pipes or sockets, set non-blocking here */
    uint32_t fd_count; /* 0: what comes in is counted, and goes nowhere */
};

int vhu_relay_create(struct vhu_relay **ret);
/* Joins the thread and frees all that is left, with their routes. */
void vhu_relay_destroy(struct vhu_relay *relay);
/* Pass the signals of `source` (taken over; an eventfd, pipe or socket) on to `target`. Those that come
 * before the thread looks are one. A source whose other end is gone is not looked at any more; a target
 * that is full has its signal already. -EINVAL: the target is none; -EPERM: the source cannot be waited for. */
int vhu_relay_add(struct vhu_relay *relay, int source, const struct vhu_target *target,
                  struct vhu_route **ret);
/* Use another target from now on; when this returns nobody uses the old one, and its fds are closed. What was
 * signalled just before may have gone there alone: ring. May wait a moment; so may the next one. */
int vhu_route_retarget(struct vhu_route *route, const struct vhu_target *target);
/* When this returns nobody uses the source's fd or the target any more, nor may the route be used. */
void vhu_route_remove(struct vhu_route *route);
/* Signal the target once, soon. Does not wait. */
void vhu_route_ring(struct vhu_route *route);
/* Signals that the source gave, without rings. */
uint64_t vhu_route_signals(const struct vhu_route *route);

#endif
