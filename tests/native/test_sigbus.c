/* SPDX-License-Identifier: Apache-2.0
 *
 * Files of guest memory that are truncated: the region is lost, nothing else is, and every other
 * SIGBUS goes where it went before.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "sigbus.h"
#include "vhu.h"

enum { PAGE = 4096, SIZE = 16 * PAGE, LARGE = 16 << 20, MANY = 600, THREADS = 4, ROUNDS = 200 };
enum { SEEN = 42 }; /* a child's exit status: all went as it should */

/* One file, all of it mapped. */
struct file {
    int fd;
    struct vhu_region *region;
    struct vhu_mem *mem;
    volatile uint8_t *bytes;
};

static void open_file(struct file *file, unsigned flags, size_t size)
{
    file->fd = memfd_create("memory", MFD_CLOEXEC | flags);
    CHECK_EQUAL(ftruncate(file->fd, (off_t)size), 0);
    CHECK_EQUAL(vhu_region_map(file->fd, 0, 0, size, 0, &file->region), 0);
    CHECK_EQUAL(vhu_mem_create(&file->region, 1, &file->mem), 0);
    file->bytes = vhu_region_hva(file->region);
}

static bool is_lost(const struct vhu_mem *mem)
{
    uint64_t ignored;

    return vhu_mem_faulted(mem, &ignored);
}

static void close_file(struct file *file)
{
    vhu_mem_unref(file->mem);
    vhu_region_unref(file->region);
    close(file->fd);
}

/* Memory that nobody guards, gone from under its mapping. */
static volatile uint8_t *foreign_bytes(void)
{
    int fd = memfd_create("foreign", MFD_CLOEXEC);

    CHECK_EQUAL(ftruncate(fd, PAGE), 0);
    void *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK_EQUAL(ftruncate(fd, 0), 0);
    close(fd);
    return map;
}

/* Run `body` in a process of its own. Returns its exit status, or -1 when a signal ended it (or,
 * where there is one, a sanitizer that stands in for the signal's default). */
static int outcome_of(void (*body)(void))
{
    int status = 0;

    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO); /* a sanitizer's report */
        body();
        _exit(0);
    }
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status))
        return -1;
    return WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == SEEN ? WEXITSTATUS(status) : -1;
}

static void what_is_gone_reads_as_zero_and_is_reported(void)
{
    const size_t left[] = {0, PAGE, SIZE / 2, SIZE - PAGE};

    for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
        uint32_t before = vhu_sigbus_count();
        struct file file, other;

        open_file(&file, 0, SIZE);
        open_file(&other, 0, SIZE);
        memset((void *)file.bytes, 0xaa, SIZE);
        memset((void *)other.bytes, 0xbb, SIZE);
        CHECK_EQUAL(ftruncate(file.fd, (off_t)left[i]), 0);
        CHECK(!is_lost(file.mem)); /* nobody looked yet */
        CHECK_EQUAL(file.bytes[SIZE - 1], 0);
        CHECK_EQUAL(file.bytes[0], 0); /* all of the region, also what there still is */
        CHECK(is_lost(file.mem));
        CHECK_EQUAL(vhu_sigbus_count(), before + 1);
        file.bytes[SIZE / 2] = 1;
        CHECK_EQUAL(file.bytes[SIZE / 2], 1);
        CHECK_EQUAL(vhu_sigbus_count(), before + 1);
        CHECK(!is_lost(other.mem));
        CHECK_EQUAL(other.bytes[SIZE - 1], 0xbb);
        close_file(&file);
        close_file(&other);
    }
}

static void what_is_left_of_the_file_is_not_touched_any_more(void)
{
    struct file file;
    uint8_t byte = 0;

    open_file(&file, 0, SIZE);
    file.bytes[0] = 0xaa;
    CHECK_EQUAL(ftruncate(file.fd, PAGE), 0);
    file.bytes[PAGE] = 0xbb;
    file.bytes[0] = 0xbb;
    CHECK_EQUAL(pread(file.fd, &byte, 1, 0), 1);
    CHECK_EQUAL(byte, 0xaa);
    close_file(&file);
}

static void a_snapshot_is_lost_with_one_of_its_regions_and_the_next_is_not(void)
{
    struct vhu_region *regions[2];
    struct vhu_mem *both, *rest;
    int fds[2];

    for (int i = 0; i < 2; i++) {
        fds[i] = memfd_create("memory", MFD_CLOEXEC);
        CHECK_EQUAL(ftruncate(fds[i], SIZE), 0);
        CHECK_EQUAL(vhu_region_map(fds[i], (uint64_t)i * SIZE, (uint64_t)i * SIZE, SIZE, 0,
                                   &regions[i]),
                    0);
    }
    CHECK_EQUAL(vhu_mem_create(regions, 2, &both), 0);
    CHECK_EQUAL(ftruncate(fds[1], 0), 0);
    *(volatile uint8_t *)vhu_region_hva(regions[1]) = 1;
    uint64_t gpa = UINT64_MAX;
    CHECK(vhu_mem_faulted(both, &gpa));
    CHECK_EQUAL(gpa, SIZE);
    vhu_region_unref(regions[1]);
    CHECK_EQUAL(vhu_mem_create(&regions[0], 1, &rest), 0);
    CHECK(!is_lost(rest));
    vhu_mem_unref(both);
    vhu_mem_unref(rest);
    vhu_region_unref(regions[0]);
    for (int i = 0; i < 2; i++)
        close(fds[i]);
}

/* Also where the file is as long as ever, and the host has no huge page to give. */
static void huge_pages_are_guarded_all_of_them(void)
{
    const size_t size = 4 << 20;
    struct file file;

    open_file(&file, MFD_HUGETLB, size);
    CHECK_EQUAL(ftruncate(file.fd, 0), 0);
    file.bytes[size - 1] = 1;
    file.bytes[0] = 1;
    CHECK(is_lost(file.mem));
    close_file(&file);
}

static void more_regions_are_guarded_than_one_block_holds(void)
{
    static struct file files[MANY];

    for (int i = 0; i < MANY; i++)
        open_file(&files[i], 0, PAGE);
    for (int i = 0; i < MANY; i += 2)
        CHECK_EQUAL(ftruncate(files[i].fd, 0), 0);
    for (int i = 0; i < MANY; i++)
        files[i].bytes[0] = 1;
    for (int i = 0; i < MANY; i++) {
        CHECK_EQUAL(is_lost(files[i].mem), i % 2 == 0);
        close_file(&files[i]);
    }
}

static void *touch(void *argument)
{
    volatile uint8_t *bytes = argument;

    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = 1;
    return NULL;
}

static void threads_that_meet_the_same_fault_all_go_on(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t threads[THREADS];
        struct file file;

        open_file(&file, 0, SIZE * THREADS);
        CHECK_EQUAL(ftruncate(file.fd, 0), 0);
        for (int i = 0; i < THREADS; i++)
            CHECK_EQUAL(pthread_create(&threads[i], NULL, touch, (void *)(file.bytes + i * SIZE)),
                        0);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        CHECK(is_lost(file.mem));
        close_file(&file);
    }
}

static void *map_and_unmap(void *argument)
{
    (void)argument;
    for (int round = 0; round < ROUNDS * 10; round++) {
        struct file file;

        open_file(&file, 0, SIZE);
        file.bytes[0] = 1;
        if (is_lost(file.mem))
            return "a region was lost that nobody truncated";
        close_file(&file);
    }
    return NULL;
}

static void regions_come_and_go_while_others_fault(void)
{
    pthread_t thread;
    void *complaint;

    CHECK_EQUAL(pthread_create(&thread, NULL, map_and_unmap, NULL), 0);
    for (int round = 0; round < ROUNDS * 5; round++) {
        struct file file;

        open_file(&file, 0, SIZE);
        CHECK_EQUAL(ftruncate(file.fd, 0), 0);
        touch((void *)file.bytes);
        CHECK(is_lost(file.mem));
        close_file(&file);
    }
    pthread_join(thread, &complaint);
    CHECK(complaint == NULL);
}

static void fault_elsewhere(void)
{
    *foreign_bytes() = 1;
}

static void send_ourselves_the_signal(void)
{
    raise(SIGBUS);
}

static void fault_where_a_region_was(void)
{
    int fd = memfd_create("foreign", MFD_CLOEXEC);
    struct file file;

    open_file(&file, 0, PAGE);
    volatile uint8_t *bytes = file.bytes;
    close_file(&file);
    if (mmap((void *)bytes, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != bytes)
        _exit(0);
    *bytes = 1;
}

/* Python's way: say something, put the former handler back, and let that one end the process. */
static struct sigaction former;

static void say_and_step_aside(int number)
{
    const char byte = '!';

    if (write(STDOUT_FILENO, &byte, 1) == 1)
        sigaction(number, &former, NULL);
    raise(number);
}

static void step_in(void)
{
    struct sigaction action = {.sa_handler = say_and_step_aside, .sa_flags = SA_NODEFER};

    sigaction(SIGBUS, &action, &former);
}

static void guard_something(void)
{
    struct file file;

    open_file(&file, 0, PAGE);
    CHECK_EQUAL(ftruncate(file.fd, 0), 0);
    file.bytes[0] = 1;
    if (!is_lost(file.mem))
        _exit(1);
    close_file(&file);
}

/* Runs in a child. Exits with SEEN when what it then did was announced exactly once. */
static void expect_one_announcement(void (*body)(void))
{
    char bytes[8];
    int ends[2];

    if (pipe(ends) < 0)
        return;
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        body();
        _exit(0);
    }
    close(ends[1]);
    int status = 0;
    waitpid(child, &status, 0);
    bool died = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    _exit(died && read(ends[0], bytes, sizeof(bytes)) == 1 ? SEEN : 0);
}

/* Bytes of private memory that this process has, as RLIMIT_DATA counts them. */
static rlim_t private_bytes(void)
{
    FILE *status = fopen("/proc/self/status", "re");
    unsigned long kib = 0;
    char line[256];

    while (status && kib == 0 && fgets(line, sizeof(line), status))
        (void)sscanf(line, "VmData: %lu", &kib);
    if (status)
        fclose(status);
    return (rlim_t)kib * 1024;
}

static void fault_with_room_for_some_pages(void)
{
    struct file file;

    open_file(&file, 0, LARGE);
    CHECK_EQUAL(ftruncate(file.fd, 0), 0);
    struct rlimit limit = {private_bytes() + LARGE / 2, RLIM_INFINITY};
    setrlimit(RLIMIT_DATA, &limit);
    file.bytes[LARGE - 1] = 1;
    file.bytes[PAGE] = 1;
    _exit(is_lost(file.mem) && file.bytes[LARGE - 1] == 1 ? SEEN : 1);
}

static void fault_with_room_for_nothing(void)
{
    struct file file;

    open_file(&file, 0, SIZE);
    CHECK_EQUAL(ftruncate(file.fd, 0), 0);
    struct rlimit limit = {0, 0};
    setrlimit(RLIMIT_DATA, &limit);
    file.bytes[0] = 1;
}

static void where_memory_is_limited_pages_are_replaced_one_by_one(void)
{
    CHECK_EQUAL(outcome_of(fault_with_room_for_some_pages), SEEN);
    CHECK_EQUAL(outcome_of(fault_with_room_for_nothing), -1);
}

static void begin_anew(void)
{
    signal(SIGBUS, SIG_DFL);
}

static void another_came_first(void)
{
    begin_anew();
    step_in();
    guard_something();
    expect_one_announcement(fault_elsewhere);
}

static void another_came_later(void)
{
    begin_anew();
    guard_something();
    step_in();
    guard_something();
    expect_one_announcement(fault_elsewhere);
}

static void another_left_and_came_back(void)
{
    begin_anew();
    step_in();
    guard_something();
    begin_anew();
    step_in();
    guard_something();
    expect_one_announcement(fault_elsewhere);
}

static void another_came_later_and_gets_a_sent_signal(void)
{
    begin_anew();
    guard_something();
    step_in();
    guard_something();
    expect_one_announcement(send_ourselves_the_signal);
}

/* A library that guards memory of its own, as we do. */
static void *theirs;

static void mend(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    if (info->si_addr == theirs)
        mmap(theirs, PAGE, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    else
        _exit(1);
}

static void another_mends_what_is_its_own(void)
{
    struct sigaction action = {.sa_sigaction = mend, .sa_flags = SA_SIGINFO};

    for (int late = 0; late < 2; late++) {
        begin_anew();
        if (late)
            guard_something();
        sigaction(SIGBUS, &action, NULL);
        for (int i = 0; i < 3; i++) {
            guard_something();
            theirs = (void *)foreign_bytes();
            *(volatile uint8_t *)theirs = 1;
        }
    }
    guard_something();
    _exit(SEEN);
}

static struct file kept;

static void look_at_what_the_parent_guards(void)
{
    (void)kept.bytes[0];
}

static void every_other_sigbus_goes_where_it_went_before(void)
{
    CHECK_EQUAL(outcome_of(guard_something), 0);
    CHECK_EQUAL(outcome_of(fault_elsewhere), -1);
    CHECK_EQUAL(outcome_of(send_ourselves_the_signal), -1);
    CHECK_EQUAL(outcome_of(fault_where_a_region_was), -1);
    CHECK_EQUAL(outcome_of(another_came_first), SEEN);
    CHECK_EQUAL(outcome_of(another_came_later), SEEN);
    CHECK_EQUAL(outcome_of(another_left_and_came_back), SEEN);
    CHECK_EQUAL(outcome_of(another_came_later_and_gets_a_sent_signal), SEEN);
    CHECK_EQUAL(outcome_of(another_mends_what_is_its_own), SEEN);
}

static void what_replaced_a_region_is_not_inherited_either(void)
{
    open_file(&kept, 0, PAGE);
    CHECK_EQUAL(ftruncate(kept.fd, 0), 0);
    kept.bytes[0] = 1;
    CHECK_EQUAL(outcome_of(look_at_what_the_parent_guards), -1);
    close_file(&kept);
}

static const struct test tests[] = {
    {"what is gone reads as zero and is reported", what_is_gone_reads_as_zero_and_is_reported},
    {"what is left of the file is not touched any more",
     what_is_left_of_the_file_is_not_touched_any_more},
    {"a snapshot is lost with one of its regions and the next is not",
     a_snapshot_is_lost_with_one_of_its_regions_and_the_next_is_not},
    {"huge pages are guarded all of them", huge_pages_are_guarded_all_of_them},
    {"more regions are guarded than one block holds",
     more_regions_are_guarded_than_one_block_holds},
    {"threads that meet the same fault all go on", threads_that_meet_the_same_fault_all_go_on},
    {"regions come and go while others fault", regions_come_and_go_while_others_fault},
    {"where memory is limited pages are replaced one by one",
     where_memory_is_limited_pages_are_replaced_one_by_one},
    {"every other SIGBUS goes where it went before", every_other_sigbus_goes_where_it_went_before},
    {"what replaced a region is not inherited either",
     what_replaced_a_region_is_not_inherited_either},
};

CHECK_MAIN(tests)
