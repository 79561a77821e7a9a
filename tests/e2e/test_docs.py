"""The documents say what the program says: the log lines and counters of docs/troubleshooting.md, the
options of docs/moving.md; and the pages build into a site. That links and headings of the tree exist is a
check of scripts/check_style (test_scripts.py::test_pages); here it is the links of the site.

A line in a block

    ```log

is a line of the log without its time, or one of --check. Its words have to be those of a format string in
src/. What a conversion stands for is a number, one word that looks like data (an address, a path, a name
with a dot or a digit), or again words of the source.
"""

import functools
import html.parser
import pathlib
import re
import shutil
import subprocess
import urllib.parse

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
MOVING = ROOT / "docs" / "moving.md"

# --- log lines --------------------------------------------------------------------------------------

C_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//[^\n]*|/\*.*?\*/|\w+|\S', re.S)
CONVERSION = re.compile(r"%[-+0#]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j|t)?([a-zA-Z%])")
LOG_LINE = re.compile(r"(?:ERROR|WARN |INFO ) (?:\[[\w-]+\] )?(.+?)(?: conn=\d+)?")
DATA = re.compile(r"(?=\S*[\d./])[\w./:@\[\]-]*[\w\]]")
COUNTERS = re.compile(r"\w+=\d+(?: \w+=\d+)*")


def unescaped(literal):
    return re.sub(r"\\(.)", lambda at: {"n": "\n", "t": "\t"}.get(at[1], at[1]), literal[1:-1])


def literals(text):
    """The strings of a C source. Those that the compiler joins are one, with %s for a macro between two."""
    text = re.sub(r"^\s*#\s*include.*$", "", text, flags=re.M)
    tokens = [token for token in C_TOKEN.findall(text) if not token.startswith(("//", "/*"))]
    found, place = [], 0
    while place < len(tokens):
        if not tokens[place].startswith('"'):
            place += 1
            continue
        joined = unescaped(tokens[place])
        while True:
            after = tokens[place + 1:place + 3]
            if after and after[0].startswith('"'):
                joined, place = joined + unescaped(after[0]), place + 1
            elif len(after) == 2 and after[0].isupper() and after[1].startswith('"'):
                joined, place = joined + "%s" + unescaped(after[1]), place + 2
            else:
                break
        found.append(joined)
        place += 1
    return found


def parts_of(text):
    """A format as (words, conversions, words, ...); "sd" are conversions without words between them."""
    parts, end = [""], 0
    for match in CONVERSION.finditer(text):
        words, end = text[end:match.start()], match.end()
        parts[-1] += words
        if match[1] == "%":
            parts[-1] += "%"
        elif parts[-1] == "" and len(parts) > 1:
            parts[-2] += match[1]
        else:
            parts += [match[1], ""]
    parts[-1] += text[end:]
    return tuple(parts)


def counters():
    return set(re.findall(r'X\(\w+, "(\w+)"\)', (ROOT / "include" / "base" / "metrics.h").read_text()))


@functools.cache
def formats():
    """All strings of the program that say something. "%s: %s" fits too much."""
    found = {parts_of(text) for path in (ROOT / "src").rglob("*.[ch]") for text in literals(path.read_text())}
    found = {parts for parts in found
             if len(parts) == 1 or len(re.sub(r"\s", "", "".join(parts[::2]))) >= 3}
    assert len(found) > 1000
    return found


class Line:
    """One line of the log, and the formats that may be in it."""

    def __init__(self, text):
        self.text = text
        self.candidates = [parts for parts in formats() if all(words in text for words in parts[::2])]
        self.known = {}

    def is_said(self):
        """By a format, or by two of them, one after the other: "%s%s"."""
        return self.fills("ss", self.text)

    def says(self, text):
        if text not in self.known:
            self.known[text] = False  # while it is looked for
            self.known[text] = any(self.fits(parts, text) for parts in self.candidates)
        return self.known[text]

    def fits(self, parts, text):
        if not text.startswith(parts[0]):
            return False
        text = text[len(parts[0]):]
        if len(parts) == 1:
            return text == ""
        if parts[2:] == ("",):
            return self.fills(parts[1], text)
        return any(self.fills(parts[1], text[:match.start()]) and self.fits(parts[2:], text[match.start():])
                   for match in re.finditer(f"(?={re.escape(parts[2])})", text))

    def fills(self, conversions, text):
        if len(conversions) == 1:
            return self.stands_for(conversions, text)
        return any(self.stands_for(conversions[0], text[:cut]) and self.fills(conversions[1:], text[cut:])
                   for cut in range(len(text), -1, -1))

    def stands_for(self, conversion, text):
        if conversion == "f":
            return bool(re.fullmatch(r"\d+\.\d+", text))
        if conversion != "s":
            return bool(re.fullmatch(r"-?[\da-f]+", text))
        if text == "" or DATA.fullmatch(text) or self.says(text):
            return True
        if COUNTERS.fullmatch(text):
            return set(re.findall(r"(\w+)=", text)) <= counters()
        head, colon, rest = text.partition(": ")  # the file or the key that a message is about
        return bool(colon and DATA.fullmatch(head)) and self.stands_for("s", rest)


def is_said(line):
    match = LOG_LINE.fullmatch(line)
    return Line(match[1] if match else line).is_said()


def quoted():
    blocks = re.findall(r"^```log\n(.*?)^```$", TROUBLESHOOTING.read_text(), re.S | re.M)
    return [line for block in blocks for line in block.splitlines()]


def test_log_lines_are_those_of_the_program():
    lines = quoted()
    assert len(lines) > 60
    assert [line for line in lines if not is_said(line)] == []


@pytest.mark.parametrize("line", [
    "ERROR [ssh] cannot log on to vps.example.com:2333: wrong token (the token differs from the server's)",
    "ERROR [ssh] cannot log in to vps.example.com:2333: bad token (the token differs from the server's)",
    "ERROR [ssh] cannot log in to vps.example.com:2333: wrong token (the token differs)",
    "WARN  [web] visitor refused: no control chanel (0 similar lines suppressed) conn=55",
    "WARN  [web] visitor refused: no control channel (no similar lines suppressed) conn=55",
    "INFO  worker 0: visitors_acepted=212 logins=3",
    "FATAL bind_addr 0.0.0.0:2333: address in use (another process has it; is a server running already?)",
    "NOTE  stopped",
    "it does not work",
])
def test_a_line_that_the_program_does_not_say(line):
    assert not is_said(line)


def test_strings_of_c_source():
    source = ('#include "x.h"\nf("a %s"\n  " b\\n", X, "c" VERSION "d", /* "no" */ \'"\', '
              '"100 %% of %-3u%s"); // "no"\n')
    assert literals(source) == ["a %s b\n", "c%sd", "100 %% of %-3u%s"]
    assert parts_of("100 %% of %-3u%s") == ("100 % of ", "us", "")
    assert parts_of("%s: %.80s is") == ("", "s", ": ", "s", " is")


# --- counters and options ---------------------------------------------------------------------------


def options():
    """{role: {key}} of the table in docs/options.md, which scripts/check_options holds to the source."""
    table = (ROOT / "docs" / "options.md").read_text().partition("<!-- options:")[2]
    keys = re.findall(r"^\| `([\w.*]+)` \|", table.partition("<!-- end of options")[0], re.M)
    assert len(keys) > 60
    return {role: {key.partition(".")[2] for key in keys if key.split(".")[0] in (role, "*")}
            for role in ("server", "client", "status")}


def code_of(text):
    """What stands in backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))


def wrong_counters(text):
    """Words that begin or end as counters do, and are neither counters nor options."""
    names = counters()
    keys = {key.split(".")[-1] for of_role in options().values() for key in of_role}
    first = {name.split("_")[0] for name in names if "_" in name}
    last = {name.split("_")[-1] for name in names if "_" in name}
    words = {word for word in code_of(text) if re.fullmatch(r"[a-z]+(_[a-z]+)+", word)}
    return sorted(word for word in words - names - keys
                  if word.split("_")[0] in first or word.split("_")[-1] in last)


def test_counters_are_those_of_the_program():
    text = TROUBLESHOOTING.read_text()
    assert len(counters() & set(code_of(text))) > 25
    # A gauge of /metrics, see docs/status.md; the program has no counter of that name.
    assert wrong_counters(text.replace("`visitors_waiting`", "")) == []
    assert wrong_counters("`visitors_refused_limits`, `udp_timeout`, `relays_are_silent`, `io_uring_setup`") \
        == ["relays_are_silent", "visitors_refused_limits"]


def wrong_options(text):
    """`server.services.NAME.token = x`, `client.prefer_ipv6`: keys with a role that there are not."""
    keys = options()
    found = [re.match(r"(server|client|status)\.([\w.*]+)", word) for word in code_of(text)]
    return sorted(match[0] for match in found if match and not match[2].endswith((".ini", ".toml")) and
                  match[0] not in ("server.ini", "client.ini", "server.toml", "client.toml") and
                  not any(re.fullmatch(re.escape(match[2].rstrip(".")).replace(r"\*", ".*"), key)
                          for key in keys[match[1]]))


@pytest.mark.parametrize("page", [MOVING, TROUBLESHOOTING], ids=lambda page: page.stem)
def test_options_are_those_of_the_program(page):
    assert wrong_options(page.read_text()) == []


def test_an_option_that_there_is_not():
    assert wrong_options("`server.bind_addr = HOST:PORT`, `server.transport.tls.*`, `client.ini`") == []
    text = "`server.remote_addr`, `client.services.NAME.bandwidth = 1M`, `client.transport.tsl.*`"
    assert wrong_options(text) == [
        "client.services.NAME.bandwidth", "client.transport.tsl.*", "server.remote_addr"]


# --- the site -----------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """A page of the site: where it links to, what it loads, and the places in it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids = set(), set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href"):
            self.links.add(attrs["href"])
        if tag in ("script", "img", "source", "link") and attrs.get("rel") != "canonical":
            self.loads |= {attrs[key] for key in ("src", "srcset", "href") if attrs.get(key)}


def broken(site):
    """[what a page links to or loads, and that is not there, or elsewhere]"""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    problems = []
    for path, page in pages.items():
        if path.name in ("404.html", "search.html"):  # with addresses that a server would serve
            continue
        for link in page.links | page.loads:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                if link in page.loads and url.scheme != "data":
                    problems.append(f"{path.name} loads {link}")
                continue
            target = path.parent / urllib.parse.unquote(url.path) if url.path else path
            target = (target / "index.html" if target.is_dir() else target).resolve()
            if not target.is_file():
                problems.append(f"{path.name}: there is no {link}")
            elif url.fragment and target in pages and url.fragment not in pages[target].ids:
                problems.append(f"{path.name}: there is no place {link}")
    return problems


def test_every_page_of_docs_is_in_the_site():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "docs" / "mkdocs.yml").read_text(), re.M)
    assert {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md")} <= set(listed)
    assert [name for name in listed if not (ROOT / name).is_file()] == []


def test_broken_links_of_a_site_are_found(tmp_path):
    (tmp_path / "index.html").write_text(
        '<h1 id="one">One</h1><a href="#one"></a><a href="two.html#two"></a><a href="https://a.example/"></a>'
        '<a href="three.html"></a><a href="two.html#three"></a>'
        '<script src="https://a.example/x.js"></script>')
    (tmp_path / "two.html").write_text('<h1 id="two">Two</h1>')
    assert sorted(broken(tmp_path)) == [
        "index.html loads https://a.example/x.js", "index.html: there is no place two.html#three",
        "index.html: there is no three.html"]


def test_site_is_built_and_whole(tmp_path):
    """mkdocs has no complaint, no link leads nowhere, and a browser loads nothing from elsewhere."""
    if not shutil.which("mkdocs"):
        pytest.skip("NO MKDOCS HERE (scripts/setup test): the site is not built")
    result = subprocess.run([ROOT / "scripts" / "build-docs", tmp_path], capture_output=True, text=True,
                            timeout=50)
    assert result.returncode == 0, result.stdout + result.stderr
    site = tmp_path / "site"
    assert (site / "docs" / "troubleshooting.html").is_file()
    assert (site / "examples" / "minimal_client.py").is_file()
    assert broken(site) == []
    vectors = (site / "docs" / "protocol.html").read_text()
    assert "<pre><code" in vectors and "```" not in vectors
