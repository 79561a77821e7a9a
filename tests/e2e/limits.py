"""Times of the program that tests wait for (include/base/limits.h), shortened where the build allows it.

    LIMITS = Limits(visitor_wait=1)     # seconds; in the program LIMIT_VISITOR_WAIT_MS
    tunnel(services, limits=LIMITS)     # the tunnel starts our program with these
    LIMITS.visitor_wait                 # the time in force: 1, or the program's own 10
    LIMITS.login                        # a limit that was not shortened

A release build does not read the variable, and full-size runs (E2E_FULL) do not set it: both keep the
program's own times, so a test has to hold with either. E2E_SLOW stretches the shortened times for
sanitizer builds.
"""

import re

import harness

VARIABLE = "RATHOLE_URING_LIMITS"
_HEADER = harness.ROOT / "include" / "base" / "limits.h"


def _constants():
    """{name: seconds} of all limits that are times."""
    found = re.findall(r"^\s*LIMIT_([A-Z0-9_]+)_MS\s*=\s*(\d+)", _HEADER.read_text(), re.M)
    return {name.lower(): int(ms) / 1000 for name, ms in found}


REAL = _constants()
ARE_ADJUSTABLE = not harness.FULL and harness.contains(harness.OURS, VARIABLE.encode())


class Limits:
    def __init__(self, **shorter):
        assert shorter.keys() <= REAL.keys(), shorter
        self._shorter = {}
        if ARE_ADJUSTABLE:
            self._shorter = {name: min(REAL[name], seconds * harness.SLOW)
                             for name, seconds in shorter.items()}

    def __getattr__(self, name):
        try:
            return self._shorter.get(name, REAL[name])
        except KeyError:
            raise AttributeError(name) from None

    def environment(self):
        text = ",".join(f"{name}_ms={round(1000 * seconds)}"
                        for name, seconds in self._shorter.items())
        return {VARIABLE: text} if text else {}


REAL_ONES = Limits()
