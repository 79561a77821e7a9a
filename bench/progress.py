"""How far a run is: a line that is written over on a terminal, and a plain one a suite elsewhere."""

import sys
import time
from dataclasses import dataclass

ANEW = "\r\033[K"  # the line begins anew, empty


@dataclass
class Part:
    """A suite. guess_s: how long one of its measurements may take, before the first one has."""
    name: str
    count: int
    guess_s: float
    done: int = 0
    spent_s: float = 0.0

    def left_s(self, pace):
        return (self.count - self.done) * (self.spent_s / self.done if self.done else self.guess_s * pace)


def left_s(parts):
    """Suites that have begun go on as they did; the others are as far from their guesses as all until now."""
    guessed = sum(part.done * part.guess_s for part in parts)
    pace = sum(part.spent_s for part in parts) / guessed if guessed else 1.0
    return sum(part.left_s(pace) for part in parts)


def duration(seconds):
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Progress:
    def __init__(self, parts, stream=None):
        self.parts, self.stream = parts, stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self.number = 0
        self.started = 0.0

    @property
    def part(self):
        return self.parts[self.number - 1]

    def say(self, text):
        """A line that stays."""
        print(f"{ANEW if self.is_terminal else ''}{text}", file=self.stream, flush=True)

    def begin(self, number):
        self.number = number
        if not self.is_terminal:
            self.say(f"{self._where()}, about {duration(left_s(self.parts))} left")

    def _where(self):
        return f"suite {self.number} of {len(self.parts)}: {self.part.name}"

    def measures(self, peer, number, rounds):
        """number: 0 for the reference before the first round."""
        self.started = time.monotonic()
        if self.is_terminal:
            when = f"round {number} of {rounds}" if number else "reference"
            print(f"{ANEW}{self._where()}, {peer}, {when}, about {duration(left_s(self.parts))} left",
                  end="", file=self.stream, flush=True)

    def measured(self, number):
        """The reference is not one of the counted ones."""
        if number:
            self.part.done += 1
            self.part.spent_s += time.monotonic() - self.started

    def end(self):
        """Also of a suite that was left out."""
        self.part.count = self.part.done
        if self.is_terminal:
            print(ANEW, end="", file=self.stream, flush=True)
