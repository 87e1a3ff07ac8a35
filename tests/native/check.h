/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine's test harness: a program is a table of tests, its exit status the number that failed.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct test {
    const char *sentence; /* what holds when the test passes */
    void (*body)(void);
};

extern int check_failures; /* of the running test */

static inline void check_report(const char *file, int line, const char *what, uint64_t got,
                                uint64_t want)
{
    check_failures++;
    fprintf(stderr, "%s:%d: %s: got %#llx, want %#llx\n", file, line, what, (unsigned long long)got,
            (unsigned long long)want);
}

#define CHECK_EQUAL(got, want)                                                        \
    do {                                                                              \
        uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want);                    \
        if (got_ != want_)                                                            \
            check_report(__FILE__, __LINE__, #got, got_, want_);                      \
    } while (0)
#define CHECK(condition) CHECK_EQUAL(!!(condition), true)

int check_run(const struct test *tests, size_t count);

#define CHECK_MAIN(tests)                                                             \
    int main(void)                                                                    \
    {                                                                                 \
        return check_run(tests, sizeof(tests) / sizeof((tests)[0]));                  \
    }

#endif
