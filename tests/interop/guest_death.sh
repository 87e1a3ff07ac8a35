# A guest that writes and compares, piece by piece, while its accelerator dies.
at=0
try() { # eight blocks there and back, one after the other
    dd if=/dev/urandom of=/tmp/load bs=32k count=1 2>/dev/null
    dd if=/tmp/load of=$disk bs=4k seek=$((at * 8)) oflag=direct conv=notrunc 2>/dev/null &&
        dd if=$disk bs=4k skip=$((at * 8)) count=8 iflag=direct 2>/dev/null | cmp - /tmp/load ||
        return 1
    cat /tmp/load >>/tmp/all
    at=$((at + 1))
}
load() {
    : >/tmp/all
    until [ -e /tmp/enough ] && [ $at -gt "$(cat /tmp/enough)" ]; do
        if ! try; then check "load FAILED at $at"; return; fi
        echo $at >/tmp/at
    done
    check "load ok $(sha256sum </tmp/all | cut -d' ' -f1)"
    check "pieces $at"
}
# Whether the load has come no further for a second, and waits for the disk.
stuck() {
    before=$(cat /tmp/at)
    usleep 1000000
    [ "$(cat /tmp/at)" = "$before" ] && grep -q ' D ' /proc/[0-9]*/stat 2>/dev/null
}

echo 0 >/tmp/at
load &
until [ "$(cat /tmp/at)" -gt 5 ]; do usleep 10000; done
pause loaded
# As many again when the test has done its part.
echo $(($(cat /tmp/at) + 30)) >/tmp/more
mv /tmp/more /tmp/enough
while kill -0 $! 2>/dev/null; do
    if stuck; then pause stuck; fi
done
check "end"
