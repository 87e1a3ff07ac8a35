# Functions of all guests' scripts, for busybox's shell. The test reads the lines that begin with CHECK.
disk=/dev/vda
check() { echo "CHECK $*"; }
sum() { dd if=$disk bs=1M skip=$1 count=$2 iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1; }
same() { # NAME WANTED GOT
    if [ -n "$2" ] && [ "$2" = "$3" ]; then check "$1 ok $3"; else check "$1 FAILED $2 $3"; fi
}
bit() { cut -c$(($1 + 1)) /sys/block/vda/device/features; }
# Say a word, and wait until the test has done its part.
pause() { echo "PAUSE $1"; read -r _; }
