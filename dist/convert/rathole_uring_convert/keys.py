"""Tables of the input, in which each key is accounted for."""

import fnmatch


class Unusable(Exception):
    """A file that cannot be converted. The text never quotes a value: it may be a secret."""

    def __init__(self, file, message, line=None):
        where = printable(file) if line is None else f"{printable(file)}:{line}"
        super().__init__(f"{where}: {message}")


def printable(text):
    """On one line, and without the control characters that a name may contain."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
                   for c in str(text))


class Keys:
    """One table. A key is known by a path of the words, in small letters, that frp's TOML files have for
    it (frp ignores case), and is shown as the file has it."""

    def __init__(self, file, place=""):
        self.file, self.place = file, place
        self.values, self.shown, self.pending = {}, {}, []

    def add(self, path, shown, value):
        path = path.lower()
        while path in self.values:  # the second of two is for nobody to take, and so is noted
            path += "'"
        self.values[path], self.shown[path] = value, printable(shown)
        self.pending.append(path)

    def add_table(self, table, prefix=""):
        """Adds what is in a table and in those below it, as dotted paths."""
        for key, value in table.items():
            if isinstance(value, dict) and value:
                self.add_table(value, f"{prefix}{key}.")
            else:
                self.add(prefix + key, prefix + key, value)

    def path_of(self, shown):
        return printable(f"{self.place}.{shown}" if self.place else shown)

    # Reading. peek leaves a key to be accounted for, the others take it.

    def peek(self, path, default=None):
        value = self.values.get(path.lower())
        return default if value in (None, "") else value

    def has(self, path):
        return path.lower() in self.values

    def take(self, path, default=None):
        if path.lower() in self.pending:
            self.pending.remove(path.lower())
        return self.peek(path, default)

    def wrong(self, path, expected):
        return Unusable(self.file, f"{self.path_of(self.shown[path.lower()])}: expected {expected}")

    def text(self, path, default=None):
        value = self.take(path, default)
        if value is not default and not isinstance(value, str):
            raise self.wrong(path, "a text in quotes")
        return value

    def number(self, path, default=None):
        value = self.take(path, default)
        if value is default:
            return default
        try:
            if isinstance(value, (bool, float)):
                raise ValueError
            return int(value)
        except (TypeError, ValueError):
            raise self.wrong(path, "a number") from None

    def port(self, path, default=None):
        value = self.number(path, default)
        if value is not None and not 0 <= value <= 65535:
            raise self.wrong(path, "a port")
        return value

    def flag(self, path, default=None):
        value = self.take(path, default)
        words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
        if value is default or isinstance(value, bool):
            return value
        if not isinstance(value, str) or value.lower() not in words:
            raise self.wrong(path, "true or false")
        return words[value.lower()]

    def words(self, path):
        """A list of texts; INI files have commas between them."""
        value = self.take(path, [])
        if isinstance(value, str):
            value = [word.strip() for word in value.split(",")]
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.wrong(path, "a list of texts")
        return [word for word in value if word]

    def matching(self, patterns):
        """The keys that are not accounted for yet and fit one of the patterns, with blanks between them."""
        return [path for path in self.pending
                if any(fnmatch.fnmatchcase(path, pattern.lower()) for pattern in patterns.split())]

    def use_up(self, paths):
        """Accounts for these keys; returns them as the file has them."""
        self.pending = [path for path in self.pending if path not in paths]
        return [self.shown[path] for path in paths]
