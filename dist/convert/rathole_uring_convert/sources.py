"""Reads a file as TOML, JSON or frp's old INI, into plain tables."""

import configparser
import json
import os
import re
import tomllib

from .keys import Unusable

FILE_SIZE_MAX = 4 << 20
YAML_LINE = re.compile(r"(?m)^[A-Za-z]\w*:(\s|$)")


def read_text(file):
    try:
        with open(file, "rb") as stream:
            data = stream.read(FILE_SIZE_MAX + 1)
    except OSError as error:
        raise Unusable(file, error.strerror or "cannot be read") from None
    if len(data) > FILE_SIZE_MAX:
        raise Unusable(file, f"has more than {FILE_SIZE_MAX >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(file, "is not text in UTF-8", data.count(b"\n", 0, error.start) + 1) from None
    if "\0" in text:
        raise Unusable(file, "is not text", text[:text.index("\0")].count("\n") + 1)
    return text


def refuse_yaml(file, text):
    """frp reads it, and Python has no parser for it."""
    if re.search(r"\.ya?ml$", str(file), re.I) or YAML_LINE.search(text):
        raise Unusable(file, "YAML is not read here: convert it to JSON or TOML first (yq -o=json FILE)")


def parse_toml(file, text):
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"^(.*) \(at (?:line (\d+), column \d+|end of document)\)$", str(error), re.S)
        line = int(found[2]) if found and found[2] else text.count("\n") + 1
        raise Unusable(file, f"is not TOML: {reason_of(error)}", line) from None
    except RecursionError:
        raise Unusable(file, "is nested too deeply") from None


def reason_of(error):
    """The words of the parser, without what it quotes of the file."""
    words = re.sub(r" \(at .*$", "", str(error), flags=re.S)
    words = re.sub(r"\(.*\)|'.*'|\".*\"", "", words, flags=re.S)
    return " ".join(words.split()).lower() or "syntax error"


def parse_json(file, text):
    def table(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            raise Unusable(file, "has a key twice in one table")
        return found

    try:
        tree = json.loads(text, object_pairs_hook=table)
    except json.JSONDecodeError as error:
        raise Unusable(file, f"is not JSON: {error.msg.lower()}", error.lineno) from None
    except RecursionError:
        raise Unusable(file, "is nested too deeply") from None
    if not isinstance(tree, dict):
        raise Unusable(file, "is not a JSON object")
    return tree


def is_ini_of_frp(text):
    """TOML has quotes around texts: a bare word as a value, or a section named `common`, is INI."""
    return re.search(r"(?m)^[ \t]*\[(common|range:[^\]]*)\]", text) is not None or \
        re.search(r"(?m)^[ \t]*(local_port|server_addr|bind_port|server_port)[ \t]*=", text) is not None


def parse_ini(file, text):
    """{section: {key: text}}, by the rules of the library that frp uses: no comments behind values, keys
    without a value, and white space in front of a line means nothing."""
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#", ";"),
                                       inline_comment_prefixes=None, allow_no_value=True,
                                       empty_lines_in_values=False, default_section="\0")
    parser.optionxform = str
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if line.startswith("[") and "]" not in line:  # the parser takes it for a key without a value
            raise Unusable(file, "expected [section] or key = value", number)
    try:
        parser.read_string("\n".join(lines))
    except configparser.MissingSectionHeaderError as error:
        raise Unusable(file, "a key in front of the first [section]", error.lineno) from None
    except configparser.DuplicateSectionError as error:
        raise Unusable(file, "a section that stands twice", error.lineno) from None
    except configparser.DuplicateOptionError as error:
        raise Unusable(file, "a key that stands twice in its section", error.lineno) from None
    except configparser.ParsingError as error:
        raise Unusable(file, "expected [section] or key = value", error.errors[0][0]) from None
    return {name: {key: unquoted(value) for key, value in parser[name].items()}
            for name in parser.sections()}


def unquoted(value):
    """A key without a value is a flag that is set."""
    if value is None:
        return "true"
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'`" else value


# --- frp's templates ------------------------------------------------------------------------------

TEMPLATE = re.compile(r"\{\{-?(.*?)-?\}\}")
VARIABLE = re.compile(r"\s*\.Envs\.(\w+)\s*", re.A)
FROM_VARIABLE = "\ue000"  # in front of the variable's name, in place of a token
TOKEN_LINE = re.compile(r"\s*\"?(auth\.)?(token|\"token\")\"?\s*[:=]\s*\"?\s*$")


def fill_templates(file, text):
    """frp fills in variables of its environment when it starts. A token stays out of the output: our
    program reads it from the same variable. Any other template is a program, which only frp can run."""
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if not line.lstrip().startswith(("#", ";")):
            lines[index] = fill_line(file, line, index + 1)
    return "\n".join(lines)


def fill_line(file, line, number):
    def fill(match):
        name = VARIABLE.fullmatch(match[1])
        if not name:
            raise Unusable(file, "a template that only frp can run: write out what it makes", number)
        if TOKEN_LINE.match(line[:match.start()]):
            return FROM_VARIABLE + name[1]
        if name[1] not in os.environ:
            raise Unusable(file, f"{name[1]} is not set: frp takes this value from the environment", number)
        return os.environ[name[1]]

    return TEMPLATE.sub(fill, line)
