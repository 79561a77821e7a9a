"""What the soak judges, and the smallest drift that counts, with its reason.

A window of an hour, the second half of a run of two, finds the floors; a shorter run finds `step` in its
window, which it says in its summary.
"""

from judge import Figure

# Slabs take memory in chunks of 16 KiB and keep them, as malloc keeps its pages: a burst that is larger
# than all before it adds some to each worker. 1 KiB a minute is four chunks an hour, and 1.4 MiB a day. Per
# process.
MEMORY = Figure("anonymous memory", "KiB", floor=1, step=64)
# With the pages of programs and libraries, which the kernel takes away and brings back as it likes.
RSS = Figure("RSS", "KiB", floor=1, step=128)
# Without sockets and pipes: nothing of a connection's own. Three an hour.
DESCRIPTORS = Figure("descriptors but sockets", "descriptors", floor=0.05, step=3, reduce=min)
# Without those of open visitors, which are counted a moment later: the least of each block. Parked channels
# come and go with bursts.
SOCKETS = Figure("sockets but visitors'", "descriptors", floor=0.1, step=6, reduce=min)
# Free ones are kept for the next burst, up to a bound (LIMIT_PIPES).
PIPES = Figure("ends of pipes", "descriptors", floor=0.2, step=12, reduce=min)
# No thread is ever started under load, but those that look names up.
THREADS = Figure("threads", "threads", floor=0.05, step=3, reduce=min)
# Of the tunnel alone: a connection beside it, to the same two programs, is subtracted. What programs beside
# the soak take from both is not quite the same: half of the level, or 100 us.
LATENCY_P50 = Figure("latency, p50", "us", floor=1, step=100, relative=0.5)
# Of a block of some hundred questions it is the slowest but few: as large again as it was, or 5 ms.
LATENCY_P99 = Figure("latency, p99", "us", floor=10, step=5000, relative=1)

OF_PROCESSES = {"anon_kib": MEMORY, "rss_kib": RSS, "fds_other": DESCRIPTORS, "sockets_own": SOCKETS,
                "pipes": PIPES, "threads": THREADS}
