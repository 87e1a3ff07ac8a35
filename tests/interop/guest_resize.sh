# A guest whose disk changes its size under it; `old` and `new` are set before, in MiB.
queue() { cat /sys/block/vda/queue/$1; }
sectors() { cat /sys/block/vda/size; }
# The news of a size comes by an interrupt, a work queue of the driver takes it up.
until_size() { while [ "$(sectors)" != $(($1 * 2048)) ]; do sleep 0.1; done; }
try() { # NAME COMMAND…: whether it worked
    name=$1; shift
    if "$@" >/dev/null 2>&1; then check "$name done"; else check "$name error"; fi
}
write_at() { dd if=/tmp/data of=$disk bs=64k seek=$(($1 * 16)) oflag=direct conv=notrunc,fsync; }
read_at() { dd if=$disk bs=64k skip=$(($1 * 16)) count=16 iflag=direct; }

dd if=/dev/urandom of=/tmp/data bs=1M count=1 2>/dev/null
wanted=$(sha256sum </tmp/data | cut -d' ' -f1)
check "first-size $(sectors)"
try write-beyond-the-first-end write_at $old

pause larger
until_size $new
check "larger-size $(sectors)"
try write-beyond-the-old-end write_at $old
try write-at-the-new-end write_at $((new - 1))
same read-beyond-the-old-end "$wanted" "$(sum $old 1)"
same read-at-the-new-end "$wanted" "$(sum $((new - 1)) 1)"
try write-at-the-start write_at 0

# The image shrinks and nobody says so: the guest believes in the old size, the device does not.
pause truncated
check "size-not-told $(sectors)"
try read-what-was-cut-off read_at $old
same read-what-is-left "$wanted" "$(sum 0 1)"

pause smaller
until_size $old
check "smaller-size $(sectors)"
check "bytes-beyond-the-end $(read_at $old 2>/dev/null | wc -c)"
try write-beyond-the-end write_at $old
try write-at-the-last-end write_at $((old - 1))
same read-at-the-last-end "$wanted" "$(sum $((old - 1)) 1)"
check end
