"""What is printed: sections with settings and notes, for the server's half and the client's."""

import re
import textwrap

from .keys import printable

WIDTH = 110
BARE_WORD = re.compile(r"[A-Za-z_/.][\w./:@*-]*|-?\d{1,18}", re.A)
ADDRESS = re.compile(r"(\[[\da-fA-F:.]+(%[\w.-]+)?\]|[\w.-]+):\d+(-\d+)?", re.A)
NAME_LIST = re.compile(r"[\w.*-]+(, [\w.*-]+)*", re.A)


def quoted(text):
    """A TOML basic string, which our INI files may have as values and names."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(
        escapes.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'


def value_text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if isinstance(value, int) or (ADDRESS.fullmatch(text) and not text.isdigit()):
        return text
    if re.fullmatch(r"[\d-].*", text, re.S):  # digits of a token, which are no number, or a date
        return quoted(text)
    is_bare = BARE_WORD.fullmatch(text) or NAME_LIST.fullmatch(text)
    return text if is_bare else quoted(text)


def name_text(name):
    return name if re.fullmatch(r"[\w-]+", name, re.A) else quoted(name)


def host_port(host, port):
    host = host.strip("[]")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Note:
    """What happens to some keys of one table. is_lost: they have no counterpart. place: the table, where
    the section that the note stands in does not say it."""

    def __init__(self, file, place, names, text, is_lost):
        self.file, self.place, self.names = file, place, names
        self.text, self.is_lost = text, is_lost

    def words(self, place=""):
        names = ", ".join(self.names)
        if place:
            names = f"{place}: {names}" if names else place
        verb = " have no counterpart" if len(self.names) > 1 else " has no counterpart"
        head = names + (verb if self.is_lost else "")
        return f"{head}: {self.text}" if head else self.text


class Section:
    """rows: settings as texts, and Notes. is_needed: printed even if it is empty."""

    def __init__(self, side, name):
        self.side, self.name, self.rows, self.is_needed = side, name, [], False

    def settings(self):
        return [row for row in self.rows if isinstance(row, str)]

    def set(self, key, value):
        """Nothing for a value of None."""
        if value is not None:
            self.rows.append(f"{key} = {value_text(value)}")

    def note(self, note):
        self.rows.append(note)


class Document:
    def __init__(self, origin, halves):
        self.origin, self.halves = origin, halves
        self.sections = {}

    def section(self, side, name):
        return self.sections.setdefault((side, name), Section(side, name))

    def has(self, side, name):
        return (side, name) in self.sections

    def service(self, side, name):
        return self.section(side, f"{side}.services.{name_text(name)}")

    # Notes. Each says what becomes of the keys that it names.

    def note(self, section, keys, paths, text, is_lost=False):
        section.note(Note(keys.file, keys.place, keys.use_up(paths), text, is_lost))

    def note_taken(self, section, keys, path, text):
        """About a key that is carried over, perhaps changed, or that the file should have had."""
        names = [keys.shown[path.lower()]] if path and keys.has(path) else []
        section.note(Note(keys.file, keys.place, names, text, False))

    def note_table(self, section, keys, text):
        """A whole table that is left out."""
        names = keys.use_up(list(keys.pending))
        whole = keys.place + (f" ({', '.join(names)})" if names else "")
        section.note(Note(keys.file, "", [printable(whole)], text, True))

    def note_rest(self, section, keys, table, unknown):
        """All keys that are left, those with the same reason in one note. table: [(patterns, text)]"""
        for patterns, text in table:
            paths = keys.matching(patterns)
            if paths:
                self.note(section, keys, paths, text, is_lost=True)
        if keys.pending:
            self.note(section, keys, list(keys.pending), unknown, is_lost=True)

    # Printing

    def printed(self):
        return [section for side in ("server", "client") for section in self.sections.values()
                if section.side == side and side in self.halves and (section.rows or section.is_needed)]

    def notes(self):
        return [row for section in self.printed() for row in section.rows if isinstance(row, Note)]

    def comment(self, text):
        return textwrap.wrap(text, WIDTH, initial_indent="; ", subsequent_indent=";   ",
                             break_long_words=False, break_on_hyphens=False)

    def lines(self, head):
        lines = [line for text in head for line in self.comment(text)]
        for section in self.printed():
            lines += ["", f"[{section.name}]"]
            for row in section.rows:
                lines += self.comment(f"{self.origin}: {row.words()}") if isinstance(row, Note) else [row]
        return lines

    def summary(self):
        """A line for each note."""
        return [f"{printable(note.file)}: {note.words(printable(note.place))}" for note in self.notes()]
