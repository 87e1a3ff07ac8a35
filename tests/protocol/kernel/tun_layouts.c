/* Prints what <linux/if_tun.h> says: numbers as decimals, a structure with known values as hex. */
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/if_tun.h>

#define NUMBER(name) printf(#name " %llu\n", (unsigned long long)(name))

/* Numbers of newer kernels than the header is of: as they were settled. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

int main(void)
{
    struct ifreq request;
    const unsigned char *bytes = (const unsigned char *)&request;

    NUMBER(TUNSETIFF);
    NUMBER(TUNSETOFFLOAD);
    NUMBER(TUNSETVNETHDRSZ);
    NUMBER(TUNSETVNETLE);
    NUMBER(TUNSETCARRIER);
    NUMBER(IFF_TUN);
    NUMBER(IFF_TAP);
    NUMBER(IFF_MULTI_QUEUE);
    NUMBER(IFF_NO_PI);
    NUMBER(IFF_VNET_HDR);
    NUMBER(TUN_F_CSUM);
    NUMBER(TUN_F_TSO4);
    NUMBER(TUN_F_TSO6);
    NUMBER(TUN_F_TSO_ECN);
    NUMBER(TUN_F_USO4);
    NUMBER(TUN_F_USO6);
    NUMBER(IFNAMSIZ);
    memset(&request, 0, sizeof(request));
    strcpy(request.ifr_name, "tap7");
    request.ifr_flags = IFF_TAP | IFF_VNET_HDR;
    printf("request ");
    for (size_t i = 0; i < sizeof(request); i++)
        printf("%02x", bytes[i]);
    putchar('\n');
    return 0;
}
