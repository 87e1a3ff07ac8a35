/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

int check_failures;

int check_run(const struct test *tests, size_t count)
{
    int failed = 0;

    for (size_t i = 0; i < count; i++) {
        check_failures = 0;
        tests[i].body();
        printf("%s %s\n", check_failures ? "FAIL" : "ok  ", tests[i].sentence);
        failed += check_failures > 0;
    }
    fflush(stdout);
    return failed;
}
