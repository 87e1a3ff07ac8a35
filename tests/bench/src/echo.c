/* SPDX-License-Identifier: Apache-2.0
 *
 * echo SOCKET - sends every vfio-user message back as its own answer: nobody can be quicker.
 *
 * A REGION_READ grows by what it asks for. VERSION answers itself: who proposes something agrees with it.
 */
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "load.h"
#include "region.h"

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    static struct region_message message;
    ssize_t got;

    if (argc != 2) {
        fprintf(stderr, "usage: echo SOCKET\n");
        return 2;
    }
    strncpy(address.sun_path, argv[1], sizeof(address.sun_path) - 1);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(listener, 1) < 0)
        die("listen");
    for (int peer; (peer = accept(listener, NULL, NULL)) >= 0; close(peer)) {
        while ((got = recv(peer, &message, sizeof(message), 0)) > 0) {
            message.flags |= FLAG_ANSWER;
            if (message.command == REGION_READ)
                message.size = (uint32_t)got + message.count;
            if (message.size > sizeof(message) || send(peer, &message, message.size, 0) < 0)
                break;
        }
    }
    die("accept");
}
