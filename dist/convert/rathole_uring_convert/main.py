"""The command line. Exit codes: 0 printed, perhaps with notes; 1 a file that cannot be converted; 2 usage."""

import argparse
import os
import sys

from . import frp, rathole
from .keys import Unusable, printable

DESCRIPTION = """Prints a configuration of frp or rathole as one of rathole-uring. What has no counterpart
is noted, as a comment in the output and as a line on standard error. Give the files of both ends together:
frp's server learns its ports from the client's file."""


def arguments(argv):
    parser = argparse.ArgumentParser(prog="rathole-uring-convert", description=DESCRIPTION,
                                     allow_abbrev=False)
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--from-frp", nargs="+", metavar="FILE", help="frps's and frpc's: TOML, JSON or INI")
    origin.add_argument("--from-rathole", nargs="+", metavar="FILE", help="of rathole 0.5: TOML")
    parser.add_argument("--half", choices=("server", "client", "both"), default="both",
                        help="what to print; both (the default): one file, for rathole-uring --server FILE "
                        "and rathole-uring --client FILE")
    return parser.parse_args(argv)


def head_of(origin, files, halves):
    names = ", ".join(printable(file) for file in files)
    head = [f"From {origin}'s {names}. Comments are not kept."]
    if len(halves) == 2:
        head += ["Both halves: run it with --server on the one machine and with --client on the other, or "
                 "print each by itself with --half."]
    return head


def convert(options):
    origin, module, files = (("frp", frp, options.from_frp) if options.from_frp
                             else ("rathole", rathole, options.from_rathole))
    halves = ("server", "client") if options.half == "both" else (options.half,)
    document = module.convert(files, halves)
    printed = document.printed()
    if not printed:
        raise Unusable(files[0], f"nothing for the {options.half}: give the file of the other end too")
    sides = sorted({section.side for section in printed})
    return document.lines(head_of(origin, files, sides)), document.summary()


def write(lines):
    try:
        print("\n".join(lines), flush=True)
        return True
    except OSError as error:
        # The interpreter writes what is left once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"rathole-uring-convert: standard output: {error.strerror}", file=sys.stderr)
        return False


def main(argv):
    options = arguments(argv)
    try:
        lines, summary = convert(options)
    except Unusable as error:
        print(f"rathole-uring-convert: {error}", file=sys.stderr)
        return 1
    sys.stdout.reconfigure(encoding="utf-8")
    sys.stderr.reconfigure(errors="backslashreplace")
    if not write(lines):
        return 1
    for line in summary:
        print(line, file=sys.stderr)
    return 0
