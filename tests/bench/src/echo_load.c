/* SPDX-License-Identifier: Apache-2.0
 *
 * echo_load --socket PATH - reads 4 bytes of a region again and again, one message at a time.
 */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "load.h"
#include "region.h"

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    if (peer < 0 || connect(peer, (struct sockaddr *)&address, sizeof(address)) < 0)
        die("connect");
    return peer;
}

/* A device wants to hear which version we speak, before all else. */
static void agree(int peer)
{
    struct region_message answer, message = {.command = VERSION, .size = VERSION_SIZE};

    message.offset = (uint64_t)VERSION_MINOR << 16;
    if (send(peer, &message, VERSION_SIZE, 0) != VERSION_SIZE)
        die("send");
    if (recv(peer, &answer, sizeof(answer), 0) < VERSION_SIZE)
        die("receive");
}

int main(int argc, char **argv)
{
    struct load_options options;
    struct load_figures figures;

    load_parse(argc, argv, &options);
    int peer = connect_to(options.sockets[0]);
    agree(peer);
    load_begin(&figures, &options);
    for (uint16_t id = 0; load_tick(&figures, now_ns()); id++) {
        struct region_message answer,
            message = {.id = id, .command = REGION_READ, .size = REGION_HEAD, .count = 4};
        uint64_t start = now_ns();

        if (send(peer, &message, REGION_HEAD, 0) != REGION_HEAD)
            die("send");
        if (recv(peer, &answer, sizeof(answer), 0) != REGION_HEAD + 4)
            die("receive");
        load_count(&figures, start, now_ns(), answer.id != id || answer.error != 0);
    }
    return load_print(&figures);
}
