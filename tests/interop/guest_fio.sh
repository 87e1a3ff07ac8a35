# fio, from /more with its own loader and libraries, on all queues; `seconds` is set before. Its report
# goes to the console as it is.
check "queues $(ls /sys/block/vda/mq | wc -l)"
check "discard $(($(cat /sys/block/vda/queue/discard_max_bytes) > 0))"
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
DISK=$disk SECONDS_LONG=$seconds /more/loader --library-path /more /more/fio /more/verify.fio \
    --output-format=json --output=/tmp/report >/tmp/said 2>&1
check "status $?"
cat /tmp/said
echo "REPORT"
cat /tmp/report
echo "REPORTED"
pause reported
