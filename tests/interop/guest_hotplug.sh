# Memory that is plugged in while a disk runs: the kernel gives programs theirs from there first, so
# that the buffers of what follows lie there.
piece() { # NAME MIB: data in one buffer of 4 MiB, written and read back
    dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null
    dd if=/tmp/data of=$disk bs=4M count=1 seek=$(($2 / 4)) iflag=fullblock oflag=direct conv=notrunc 2>/dev/null
    if dd if=$disk bs=4M count=1 skip=$(($2 / 4)) iflag=direct 2>/dev/null | cmp - /tmp/data; then
        check "$1 ok"
    else
        check "$1 FAILED"
    fi
}
from_there() { awk '/^pgalloc_movable/ { print $2 }' /proc/vmstat; }
blocks=$(cat /sys/devices/system/memory/memory*/state | grep -c online)
piece before 4
pause running
while [ "$(cat /sys/devices/system/memory/memory*/state | grep -c online)" -le $blocks ]; do usleep 50000; done
begin=$(from_there)
piece plugged 8
[ $(($(from_there) - begin)) -gt 1024 ] && check "from-there ok"
check "end"
