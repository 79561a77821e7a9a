/* Static trace points (USDT) of provider rathole_uring, for perf, bpftrace and SystemTap. The table
 * in docs/debugging.md names each with its arguments, and a test compares it with the program.
 *
 * A point is one nop in the code and a note that the process never loads. Its arguments are where
 * the compiler has them anyway, so take values that are at hand: what has to be fetched for a point
 * is fetched whether anybody looks or not. They have no side effects, since without sys/sdt.h
 * (meson -Dusdt=...) nothing of this is compiled. Not for what happens with each message. */
#pragma once

#ifdef WITH_USDT
#include <sys/sdt.h>

#define PROBE2(name, a, b)          STAP_PROBE2(rathole_uring, name, a, b)
#define PROBE3(name, a, b, c)       STAP_PROBE3(rathole_uring, name, a, b, c)
#define PROBE4(name, a, b, c, d)    STAP_PROBE4(rathole_uring, name, a, b, c, d)
#define PROBE5(name, a, b, c, d, e) STAP_PROBE5(rathole_uring, name, a, b, c, d, e)
#else
#define PROBE2(name, a, b)          ((void)sizeof(a), (void)sizeof(b))
#define PROBE3(name, a, b, c)       (PROBE2(name, a, b), (void)sizeof(c))
#define PROBE4(name, a, b, c, d)    (PROBE3(name, a, b, c), (void)sizeof(d))
#define PROBE5(name, a, b, c, d, e) (PROBE4(name, a, b, c, d), (void)sizeof(e))
#endif
