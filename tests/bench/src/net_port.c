/* SPDX-License-Identifier: Apache-2.0
 *
 * Network cards for load generators, on the engine's driver side.
 */
#include "net_port.h"

#include <errno.h>
#include <string.h>

#include "frames.h"
#include "load.h"

enum {
    HEADER_BYTES = 12,
    HEADER_PLACE = 64, /* apart from the next one's */
    LINE = 64,
    CONTROL_MQ = 4,
    CONTROL_TRIES = 10 * 1000 * 1000,
    HELLO_NS = 1000 * 1000 * 1000,
    NEEDS_CSUM = 1,
    GSO_TCPV4 = 1,
    TCP_CHECKSUM = 16, /* where in TCP's header */
    STOPS = ETHERNET_BYTES + IP_BYTES + TCP_BYTES,
};

#define F_CSUM BIT(0)
#define F_GUEST_CSUM BIT(1)
#define F_GUEST_TSO4 BIT(7)
#define F_HOST_TSO4 BIT(11)
#define F_MRG_RXBUF BIT(15)
#define F_CTRL_VQ BIT(17)
#define F_MQ BIT(22)

struct net_header {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};

static uint32_t rounded(uint32_t bytes, uint32_t to)
{
    return (bytes + to - 1) / to * to;
}

static uint64_t features_of(const struct port_options *options)
{
    uint64_t features = F_PROTOCOL_FEATURES | F_VERSION_1 | F_EVENT_IDX | F_MRG_RXBUF;

    if (options->packed)
        features |= F_RING_PACKED;
    if (options->shape == INDIRECT)
        features |= F_INDIRECT;
    if (options->segment)
        features |= F_CSUM | F_GUEST_CSUM | F_HOST_TSO4 | F_GUEST_TSO4;
    if (options->pairs > 1)
        features |= F_CTRL_VQ | F_MQ;
    return features;
}

static uint32_t parts_of(const struct port_options *options)
{
    return options->shape == PLAIN ? 1 : 1 + (options->bytes + GUEST_PAGE - 1) / GUEST_PAGE;
}

/* Bytes from the header of one frame to the next one's. */
static uint32_t stride_of(const struct port_options *options)
{
    return rounded(HEADER_PLACE + options->bytes, LINE);
}

static uint32_t buffer_of(const struct port_options *options)
{
    return options->buffer ? options->buffer : rounded(HEADER_BYTES + options->bytes, LINE);
}

/* Half as many as the neighbour's ring has room for: what is sent while it is looked at finds a buffer, too. */
static uint32_t places_of(const struct port_options *options)
{
    uint32_t room = NET_RING / (rounded(HEADER_BYTES + options->bytes, buffer_of(options)) /
                                buffer_of(options));
    uint32_t most = options->shape == CHAINED ? NET_RING / parts_of(options) : NET_RING;
    uint32_t places = room / 2 < most ? room / 2 : most;

    return places ? places : 1;
}

static uint64_t memory_of(const struct port_options *options)
{
    uint64_t frames = (uint64_t)places_of(options) * stride_of(options);
    uint64_t buffers = (uint64_t)NET_RING * buffer_of(options);
    uint64_t tables = (uint64_t)NET_RING * parts_of(options) * 16;

    return options->pairs * (frames + buffers + tables + 16 * GUEST_PAGE) + 16 * GUEST_PAGE;
}

/* The frame ends where the place ends; a plain one has its header right before it. */
static void write_place(const struct port *port, const struct port_options *options, uint32_t pair,
                        char *place, struct vhu_buffer *parts)
{
    uint8_t *frame = (uint8_t *)place + HEADER_PLACE;
    struct net_header header = {0};

    if (options->segment)
        header = (struct net_header){NEEDS_CSUM,        GSO_TCPV4,
                                     STOPS,             (uint16_t)options->segment,
                                     STOPS - TCP_BYTES, TCP_CHECKSUM,
                                     0};
    frame_write_flow(frame, options->bytes, port->number, (uint16_t)pair, options->segment != 0);
    memcpy(frame - HEADER_BYTES, &header, sizeof(header));
    uint64_t gpa = guest_gpa(&port->guest, frame);
    if (options->shape == PLAIN) {
        *parts = (struct vhu_buffer){gpa - HEADER_BYTES, HEADER_BYTES + options->bytes, 0};
        return;
    }
    *parts++ = (struct vhu_buffer){gpa - HEADER_BYTES, HEADER_BYTES, 0};
    for (uint32_t left = options->bytes; left > 0; parts++) {
        uint32_t length = left < GUEST_PAGE ? left : GUEST_PAGE;

        *parts = (struct vhu_buffer){gpa, length, 0};
        gpa += length;
        left -= length;
    }
}

static void start_sender(struct port *port, uint32_t pair, const struct vhu_ring_config *config,
                         const struct port_options *options)
{
    struct sender *sender = &port->senders[pair];
    uint32_t places = places_of(options), stride = stride_of(options);
    char *frames = guest_take(&port->guest, (uint64_t)places * stride);
    struct indirect_tables tables = {.entries = 0};

    sender->parts = parts_of(options);
    sender->indirect = options->shape == INDIRECT;
    sender->buffers = calloc((size_t)places * sender->parts, sizeof(*sender->buffers));
    if (!sender->buffers)
        die("allocate");
    for (uint32_t i = 0; i < places; i++) {
        write_place(port, options, pair, frames + (size_t)i * stride,
                    &sender->buffers[i * sender->parts]);
        sender->free[sender->free_count++] = (uint16_t)(places - 1 - i);
    }
    sender->first = (uint8_t *)frames + HEADER_PLACE;
    if (sender->indirect) {
        uint64_t size = (uint64_t)NET_RING * sender->parts * 16;

        tables = (struct indirect_tables){guest_take(&port->guest, size), (uint16_t)sender->parts};
    }
    front_end_start(port->socket, &port->guest, 2 * pair + 1, config, &tables, &sender->ring);
}

static void provide(struct receiver *receiver, uint16_t place)
{
    const struct vhu_buffer buffer = {receiver->gpa + (uint64_t)place * receiver->length,
                                      receiver->length, 1};
    uint16_t id;

    errno = -vhu_driver_add(receiver->ring.driver, &buffer, 1, false, &id);
    if (errno)
        die("provide a receive buffer");
    receiver->place_of[id] = place;
}

static void start_receiver(struct port *port, uint32_t pair, const struct vhu_ring_config *config,
                           const struct port_options *options)
{
    struct receiver *receiver = &port->receivers[pair];

    receiver->length = buffer_of(options);
    receiver->expected = HEADER_BYTES + options->bytes;
    receiver->buffers = guest_take(&port->guest, (uint64_t)NET_RING * receiver->length);
    receiver->gpa = guest_gpa(&port->guest, receiver->buffers);
    front_end_start(port->socket, &port->guest, 2 * pair, config, NULL, &receiver->ring);
    for (uint16_t place = 0; place < NET_RING; place++)
        provide(receiver, place);
    ring_publish(&receiver->ring);
}

/* Have the device use all pairs. */
static void set_pairs(struct port *port, const struct vhu_ring_config *config)
{
    struct {
        uint8_t class, command;
        uint16_t pairs;
        uint8_t ack;
    } *control = (void *)guest_take(&port->guest, sizeof(*control));
    uint64_t gpa = guest_gpa(&port->guest, control);
    const struct vhu_buffer buffers[] = {{gpa, 2, 0}, {gpa + 2, 2, 0}, {gpa + 4, 1, 1}};
    struct ring_ends ring;
    uint32_t written;
    uint16_t id;

    front_end_start(port->socket, &port->guest, 2 * port->pairs, config, NULL, &ring);
    control->class = CONTROL_MQ;
    control->command = 0;
    control->pairs = (uint16_t)port->pairs;
    control->ack = 0xFF;
    errno = -vhu_driver_add(ring.driver, buffers, 3, false, &id);
    if (errno)
        die("add a command");
    ring_publish(&ring);
    for (int i = 0; i < CONTROL_TRIES && vhu_driver_pop(ring.driver, &id, &written) == 0; i++)
        ;
    if (control->ack != 0) {
        fprintf(stderr, "the device did not take %u queue pairs\n", port->pairs);
        exit(1);
    }
}

void port_open(struct port *port, int number, const char *path, const struct port_options *options)
{
    const struct vhu_ring_config config = {
        .features = features_of(options), .num = NET_RING, .state = {0, 0, 1, 1}};

    *port = (struct port){.number = number, .pairs = options->pairs};
    port->senders = calloc(options->pairs, sizeof(*port->senders));
    port->receivers = calloc(options->pairs, sizeof(*port->receivers));
    if (!port->senders || !port->receivers)
        die("allocate");
    port->socket = front_end_connect(path);
    front_end_negotiate(port->socket, config.features, P_MQ | P_REPLY_ACK | P_CONFIGURE_MEM_SLOTS);
    guest_make(&port->guest, memory_of(options));
    guest_share(&port->guest, port->socket);
    for (uint32_t pair = 0; pair < options->pairs; pair++) {
        start_receiver(port, pair, &config, options);
        start_sender(port, pair, &config, options);
    }
    if (options->pairs > 1)
        set_pairs(port, &config);
}

static void reclaim(struct sender *sender)
{
    uint32_t written;
    uint16_t id;
    int found;

    while ((found = vhu_driver_pop(sender->ring.driver, &id, &written)) == 1)
        sender->free[sender->free_count++] = sender->place_of[id];
    if (found < 0) {
        fprintf(stderr, "the back-end returned a frame that it does not have\n");
        exit(1);
    }
}

uint32_t sender_send(struct sender *sender, uint32_t most)
{
    uint32_t sent = 0;
    uint16_t id;

    reclaim(sender);
    for (; sent < most && sender->free_count > 0; sent++) {
        uint16_t place = sender->free[sender->free_count - 1];
        const struct vhu_buffer *parts = &sender->buffers[(size_t)place * sender->parts];
        int code = vhu_driver_add(sender->ring.driver, parts, sender->parts, sender->indirect, &id);

        if (code == -ENOSPC)
            break;
        errno = -code;
        if (errno)
            die("send a frame");
        sender->free_count--;
        sender->place_of[id] = place;
    }
    if (sent > 0)
        ring_publish(&sender->ring);
    return sent;
}

uint32_t receiver_receive(struct receiver *receiver, uint64_t *errors)
{
    uint32_t frames = 0, buffers = 0, written;
    uint16_t id;
    int found;

    while ((found = vhu_driver_pop(receiver->ring.driver, &id, &written)) == 1) {
        uint16_t place = receiver->place_of[id];

        if (receiver->missing == 0) {
            const char *at = receiver->buffers + (size_t)place * receiver->length;

            receiver->missing = ((const struct net_header *)at)->num_buffers;
            receiver->got = 0;
        }
        receiver->got += written;
        if (receiver->missing <= 1) { /* 0 makes no sense; it is an error, too, by the bytes or here */
            *errors += receiver->got != receiver->expected || receiver->missing == 0;
            receiver->missing = 1;
            frames++;
        }
        receiver->missing--;
        provide(receiver, place);
        buffers++;
    }
    if (found < 0) {
        fprintf(stderr, "the back-end returned a buffer that it does not have\n");
        exit(1);
    }
    if (buffers > 0)
        ring_publish(&receiver->ring);
    return frames;
}

void port_say_hello(struct port *port)
{
    struct sender *sender = &port->senders[0];
    uint16_t all = sender->free_count;
    uint8_t address[ADDRESS_BYTES];

    memcpy(address, sender->first, ADDRESS_BYTES);
    memset(sender->first, 0xFF, ADDRESS_BYTES);
    uint64_t end = now_ns() + HELLO_NS;
    sender_send(sender, 1);
    while (sender->free_count < all) {
        reclaim(sender);
        if (now_ns() > end) {
            fprintf(stderr, "nobody takes a frame from port %d\n", port->number);
            exit(1);
        }
    }
    memcpy(sender->first, address, ADDRESS_BYTES);
}
