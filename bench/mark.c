/* Marks for callgrind: what runs between begin and end is counted, and dumped under a name. Called through
 * ctypes by bench/harness.py; outside valgrind both do nothing. */
#include <valgrind/callgrind.h>

void mark_begin(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void mark_end(const char *name)
{
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}
