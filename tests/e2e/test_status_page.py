"""The page of `GET /` in a real browser: what it shows is what was done and what /status says, whatever
the names are, and it can be used without a mouse, on a telephone and in the dark.

The first part has a real node behind the page; in the others a test writes /status itself."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import browser as browsers
import fake_status
from datagrams import UdpEcho, knock
from fake_status import FakeNode, row_of, status
from harness import free_port, wait_until, within
from protocol import connect, how_closed, recv_exact
from services import Digest, Echo, ping, transfer

pytestmark = [pytest.mark.time_limit(90), pytest.mark.ours]
HOSTILE = ["<script>document.title='owned'</script>", "<img src=x onerror=alert(1)>", "a\"b'c&amp;d",
           "\u202egnirts\u202c", "\u05e9\u05dc\u05d5\u05dd", "name-" * 20, "__proto__"]
PHONE = 375
EMBED = fake_status.ROOT / "scripts" / "embed_page"


@pytest.fixture(scope="module")
def chromium():
    if browsers.why_not():
        pytest.skip(browsers.why_not())
    directory = Path(tempfile.mkdtemp(prefix="e2e-chromium-"))
    with browsers.Browser(directory) as browser:
        yield browser
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def show(chromium):
    """show(address, ...) -> a Page with that address. At its end it must have had nothing to complain of,
    but of the network if a test sets page.is_cut."""
    pages = []

    def show(address, **kwargs):
        page = chromium.page(**kwargs)
        page.is_cut = False
        pages.append(page)
        page.open(address)
        return page

    yield show
    for page in pages:
        complaints = [each for each in page.complaints if not (page.is_cut and each[0] == "network")]
        assert not complaints


@pytest.fixture
def node():
    """node(answer, ...) -> a FakeNode."""
    made = []

    def make(answer, **kwargs):
        made.append(FakeNode(free_port(), answer, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def rows(page):
    """{service: {column: text}} in the order on the page."""
    return {row["name"]: row for row in page.js("""[...document.querySelectorAll('#rows tr')].map(row =>
        ({...Object.fromEntries([...row.cells].map(cell => [cell.dataset.k, cell.textContent])),
          name: row.querySelector('bdi').textContent}))""")}


def ready(page):
    page.wait("document.querySelectorAll('#rows tr').length")


def focused(page):
    return page.js("document.activeElement.id")


def number(text):
    """1,234.5 kB/s -> 1234500.0"""
    value, unit = re.fullmatch(r"([\d,.]+) ?(\w*)(?:/s)?", text).groups()
    return float(value.replace(",", "")) * {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(unit[:1], 1)


# --- a real node ----------------------------------------------------------------------------------


class Node:
    """A tunnel whose server has a status address: echo, web, dns by UDP, and idle without a client."""

    def __init__(self, tunnel, service, extra=""):
        self.echo, self.web, self.dns = service(Echo), service(Digest), service(UdpEcho)
        ports = {"echo": self.echo.port, "web": self.web.port, "dns": self.dns.port, "idle": None}
        self.tunnel = tunnel(ports, udp={"dns"}, start=False,
                             service_options={"echo": {"max_connections": 2}})
        self.port = free_port()
        self.extra = f"\n[status]\nbind_addr = 127.0.0.1:{self.port}\n{extra}"
        self.start_server()
        self.tunnel.start_client()
        self.tunnel.wait_ready()

    def start_server(self):
        self.tunnel.start_server(text=self.tunnel.config("server") + self.extra)

    def fill_echo(self):
        """Two visitors, who are all that may come, and a third, who is refused."""
        held = [connect(self.tunnel.port("echo")) for _ in range(2)]
        for visitor in held:
            visitor.sendall(b"held")
            assert recv_exact(visitor, 4) == b"held"
        with connect(self.tunnel.port("echo")) as third:
            assert how_closed(third, within(5))[0] in ("rst", "fin")
        return held

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def status(self, token=None):
        request = urllib.request.Request(
            self.url + "status", headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture
def real(tunnel, service):
    return lambda extra="": Node(tunnel, service, extra)


def seen(page, condition):
    """Waits until what the page knows of /status (`by`: its services by name) has this."""
    page.wait(f"(by => {condition})(Object.fromEntries(last.services.map(s => [s.name, s])))")


def test_the_page_of_a_real_node(real, show):
    """What the page shows is what was done, and what /status says."""
    node = real()
    page = show(node.url, width=1440)
    ready(page)
    assert page.text("#state") == "ready"
    shown = rows(page)
    assert {name: row["up"] for name, row in shown.items()} == {
        "dns": "up", "echo": "up", "idle": "down", "web": "up"}
    assert shown["echo"]["addr"] == f"127.0.0.1:{node.tunnel.port('echo')}"

    for _ in range(5):
        ping(node.tunnel.port("echo"), b"x" * 1000)
    wait_until(lambda: node.status()["totals"]["visitors_open"] == 0, within(5), "the visitors' ends")
    held = node.fill_echo()
    transfer(node.tunnel.port("web"), 7, 3_000_000, 20_000_000)
    knock(node.tunnel.port("dns"), visitors=4)

    wait_until(lambda: node.status()["totals"]["visitors_open"] == 2, within(5), "two visitors")
    seen(page, "by.web.bytes_out_total > 2e7 && by.web.open == 0 && by.echo.open == 2 "
               "&& by.echo.refused.limit == 1 && by.dns.open == 4")
    shown = rows(page)
    echo = {key: shown["echo"][key] for key in ("open", "waiting", "visitors", "refused")}
    assert echo == {"open": "2", "waiting": "0", "visitors": "8", "refused": "1"}  # the refused one, too
    assert (shown["web"]["open"], shown["web"]["visitors"], shown["web"]["refused"]) == ("0", "1", "0")
    assert (shown["dns"]["open"], shown["dns"]["visitors"]) == ("4", "4")
    assert page.text("#now-open") == "2" and page.text("#all-open") == "0 waiting, 4 UDP"
    assert page.text("#all-visitors_per_s") == "13 in all, 1 refused"
    # 5,008 bytes of echo each way, 3 MB and 24 bytes up, 20 MB and a digest down.
    assert page.text("#all-bytes_in_per_s") == "3.0 MB from visitors"
    assert page.text("#all-bytes_out_per_s") == "20.0 MB to visitors"

    answer = node.status()
    by_name = {row["name"]: row for row in answer["services"]}
    assert answer["services_total"] == len(shown) == int(page.text("#shown"))
    for name, row in rows(page).items():
        assert row["visitors"] == str(by_name[name]["visitors_total"])
        for cell in ("p50", "p99"):
            value = by_name[name]["first_byte_ms"][cell]
            assert row[cell] == "–" if not value else number(row[cell]) == pytest.approx(value, rel=0.06)
    assert rows(page)["echo"]["client"] == by_name["echo"]["client"]
    assert rows(page)["echo"]["p99"] != "–"
    # The seconds in which it all went through are in the charts.
    page.wait("last.history.bytes_out_per_s.some(rate => rate > 1e6)")
    assert page.js("Math.max(...known.get('web').trend)") > 1e6
    for visitor in held:
        visitor.close()
    seen(page, "by.echo.open == 0")


def test_a_real_node_that_ends_and_starts_again(real, show):
    node = real()
    page = show(node.url)
    page.is_cut = True
    ready(page)
    held = node.fill_echo()
    seen(page, "by.echo.visitors_total == 3")
    lines = [(line["level"], line["service"], line["text"]) for line in node.status()["errors"]]
    assert len(lines) == 1 and lines[0][:2] == ("warn", "echo")
    assert lines[0][2].startswith("visitor refused: too many connections")
    page.wait("document.querySelector('#errors bdi')")
    words = page.js("[...document.querySelector('#errors li').children].map(part => part.textContent)")
    assert words[1:] == ["warn", "echo" + lines[0][2]]
    for visitor in held:
        visitor.close()
    node.tunnel.client.kill9()
    seen(page, "!by.echo.up")
    shown = rows(page)["echo"]
    assert (shown["up"], shown["client"], shown["visitors"]) == ("down", "–", "3")
    node.tunnel.server.stop()
    page.wait("document.getElementById('state').textContent.startsWith('stale since')")
    node.start_server()
    node.tunnel.start_client()
    node.tunnel.wait_ready()
    seen(page, "by.echo.up && by.echo.visitors_total == 0")
    assert page.text("#state") == "ready"


def test_a_real_node_with_a_token(real, show):
    node = real("token = Open-Sesame\n")
    with pytest.raises(urllib.error.HTTPError):
        node.status()
    page = show(node.url)
    page.is_cut = True
    page.wait("!document.getElementById('ask').hidden")
    page.type("Open-Sesame")
    page.key("Enter")
    ready(page)
    assert list(rows(page)) == ["dns", "echo", "idle", "web"]


def test_the_pretended_status_is_like_the_real_one(real):
    """The page's other tests write /status themselves: in the shape of a real one."""
    def shape(value):
        if isinstance(value, dict):
            return {key: shape(value[key]) for key in sorted(value)}
        return [] if isinstance(value, list) else float if isinstance(value, int) else type(value)

    def service_like(row):
        return shape({key: value for key, value in row.items() if key not in ("refused", "dropped")})

    answer = real().status()
    by_name = {row["name"]: row for row in answer["services"]}
    assert service_like(by_name["echo"]) == service_like(row_of("echo"))
    assert all(isinstance(number, int) for row in by_name.values()
               for number in row.get("refused", row.get("dropped")).values())
    assert "refused" in by_name["echo"] and "dropped" in by_name["dns"]
    parts = [{key: shape(value) for key, value in each.items() if key not in ("services", "counters")}
             for each in (answer, status([]))]
    assert parts[0] == parts[1]


# --- a page alone ---------------------------------------------------------------------------------


def test_numbers_of_status(node, show):
    answer = status([
        row_of("ssh", open=3, waiting=2, visitors_total=1234, bytes_in_total=5_000_000,
                bytes_out_total=7_260_000_000, refused={"limit": 2, "denied": 40},
                first_byte_ms={"count": 9, "p50": 0.417, "p99": 12.34}),
        row_of("dns", type="udp", addr="[::]:53", up=False, client="", refused=None, dropped={"kernel": 7}),
        row_of("web", bound=False)],
        errors=[{"time": 1732900000.5, "level": "warn", "service": "dns", "text": "one"},
                {"time": 1732900001.5, "level": "error", "service": "", "text": "two"}])
    answer["history"].update(samples=3, open=[1, 7, 3], visitors_per_s=[0, 1, 5.25],
                             bytes_in_per_s=[0, 0, 1500], bytes_out_per_s=[0, 0, 0])
    page = show(node(answer).url)
    ready(page)
    shown = rows(page)
    assert list(shown) == ["dns", "ssh", "web"]
    expected = {
        "addr": "0.0.0.0:6022", "up": "up", "client": "203.0.113.4:51342", "open": "3", "waiting": "2",
        "visitors": "1,234", "refused": "42", "p50": "0.42 ms", "p99": "12.3 ms"}
    assert {key: shown["ssh"][key] for key in expected} == expected
    expected = {"addr": "[::]:53", "up": "down", "client": "–", "refused": "7", "p50": "–", "p99": "–"}
    assert {key: shown["dns"][key] for key in expected} == expected
    assert shown["web"]["up"] == "not bound"
    assert page.js("[...document.querySelectorAll('[data-k=refused]')].map(cell => cell.title)") == [
        "kernel 7", "limit 2, denied 40", ""]
    assert page.text("#state") == "ready"
    assert page.text("#about") == "rathole-uring 0.2.0 server, up 1 h 23 min, workers: 2"
    assert page.text("#all-visitors_per_s") == "1,234 in all, 42 refused"
    assert page.text("#all-bytes_in_per_s") == "5.0 MB from visitors"
    assert page.text("#all-bytes_out_per_s") == "7.3 GB to visitors"
    assert page.text("#now-open") == "3"
    labels = page.js("[...document.querySelectorAll('.c svg')].map(svg => svg.getAttribute('aria-label'))")
    assert labels == ["Visitors, 10 min, peak 5.3/s", "In, 10 min, peak 1.5 kB/s", "Out, 10 min, peak 0 B/s",
                      "Open, 10 min, peak 7"]
    # The newest sample is at the right edge, the largest at the top.
    assert page.js("document.querySelectorAll('.c polyline')[3].getAttribute('points')") == \
        "117,34.6 118,2.0 119,23.7"
    lines = page.js("[...document.querySelectorAll('#errors li')].map(line => [...line.children].map("
                    "part => part.textContent).slice(1))")
    assert lines == [["error", "two"], ["warn", "dnsone"]]


def test_rates_are_of_two_polls(node, show):
    """By the page's own clock, whatever the machine makes of two seconds."""
    began = time.monotonic()

    def answer():
        passed = time.monotonic() - began
        web = row_of("web", bytes_in_total=int(passed * 250e3), bytes_out_total=int(passed * 4e6),
                      visitors_total=int(passed * 1000))
        return status([web, row_of("idle")])

    page = show(node(answer).url)
    ready(page)
    assert rows(page)["web"]["in"] == "–"
    page.wait("!!before")
    for _ in range(2):
        # In one step, so that no poll comes between.
        passed, was, now, shown = page.js("""[(last.at - before.at) / 1000, before.totals, last.totals,
            Object.fromEntries([...document.querySelectorAll('#rows tr:nth-child(2) td, .v')]
                .map(node => [node.dataset.k || node.id, node.textContent]))]""")
        assert passed > 1.9
        for cell, panel, key in (("in", "now-bytes_in_per_s", "bytes_in_total"),
                                 ("out", "now-bytes_out_per_s", "bytes_out_total"),
                                 (None, "now-visitors_per_s", "visitors_total")):
            rate = (now[key] - was[key]) / passed
            assert rate > 0 and number(shown[panel]) == pytest.approx(rate, rel=0.02)
            assert cell is None or shown[cell] == shown[panel]
        idle = rows(page)["idle"]
        assert (idle["in"], idle["out"]) == ("0 B/s", "0 B/s")
        seen = page.js("last.at")
        page.wait(f"last.at > {seen}")
    assert len(page.js("known.get('web').trend")) >= 2


def test_a_restarted_node_has_no_negative_rates(node, show):
    fake = node(status([row_of("web", bytes_in_total=10**9, visitors_total=10**6)]))
    page = show(fake.url)
    page.wait("known.get('web')?.trend.length")
    again = status([row_of("web", bytes_in_total=5)])
    again["program"]["started_at"] += 5000
    fake.answer = again
    page.wait("last.totals.bytes_in_total == 5")
    assert rows(page)["web"]["in"] == "–"
    page.wait("known.get('web').trend.length")
    assert rows(page)["web"]["in"] == "0 B/s"


def test_hostile_names_are_text(node, show):
    answer = status([row_of(name, addr=name, client=name, type=name) for name in HOSTILE],
                    errors=[{"time": 1732900000, "level": "warn", "service": name, "text": name}
                            for name in HOSTILE])
    page = show(node(answer).url, width=PHONE)
    ready(page)
    assert set(rows(page)) == set(HOSTILE)
    names = page.js("[...document.querySelectorAll('#errors bdi')].map(node => node.textContent)")
    assert names == HOSTILE[::-1]
    assert page.js("document.querySelectorAll('main script, main img, [onerror]').length") == 0
    assert page.js("document.title").startswith("127.0.0.1:")
    # A name with a direction of its own leaves that of its neighbours alone.
    assert page.js("[...document.querySelectorAll('#rows td:first-child > bdi')].length") == len(HOSTILE)
    assert page.js("document.documentElement.scrollWidth") == PHONE


def test_draining_and_not_ready(node, show):
    fake = node(status([row_of("web")]))
    page = show(fake.url)
    page.wait("document.getElementById('state').textContent == 'ready'")
    for change, text in (({"draining": True}, "draining"), ({"ready": False}, "not ready"), ({}, "ready")):
        answer = status([row_of("web")])
        answer["program"].update(change)
        fake.answer = answer
        page.wait(f"document.getElementById('state').textContent == {text!r}")


def test_the_node_goes_away_and_comes_back(node, show):
    fake = node(status([row_of("web", visitors_total=1)]))
    page = show(fake.url)
    page.is_cut = True
    ready(page)
    fake.stop()
    page.wait("/^stale since \\d\\d:\\d\\d:\\d\\d$/.test(document.getElementById('state').textContent)")
    assert rows(page)["web"]["visitors"] == "1"  # what was last known stays
    fake.answer = status([row_of("web", visitors_total=2)])
    fake.start()
    page.wait("document.getElementById('state').textContent == 'ready'")
    assert rows(page)["web"]["visitors"] == "2"
    for code in (503, 500):
        fake.code = code
        page.wait("document.getElementById('state').textContent.startsWith('stale')")
        fake.code = 200
        page.wait("document.getElementById('state').textContent == 'ready'")


def test_a_status_of_another_version(node, show):
    page = show(node(status([], version=2)).url)
    page.wait("document.getElementById('state').className == 'bad'")
    assert page.text("#state") == "answers 200"
    assert page.js("document.querySelector('main').hidden")


def test_it_asks_nothing_while_it_is_hidden_or_paused(node, show):
    fake = node(status([row_of("web")]))
    page = show(fake.url)
    ready(page)

    def is_quiet():
        time.sleep(0.3)  # for one that is under way
        asked = fake.requests
        time.sleep(2.6)
        return fake.requests == asked

    page.js("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    assert is_quiet()
    asked = fake.requests
    page.js("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    wait_until(lambda: fake.requests > asked, within(1.5), "a poll at once")
    page.js("document.getElementById('pause').click()")
    assert is_quiet()
    assert page.text("#state").startswith("paused at ")
    page.js("document.getElementById('pause').click()")
    page.wait("document.getElementById('state').textContent == 'ready'")


def test_token(node, show):
    fake = node(status([row_of("web")]), token="Open-Sesame")
    page = show(fake.url)
    page.is_cut = True  # a browser reports each 401
    page.wait("!document.getElementById('ask').hidden")
    assert page.js("document.querySelector('main').hidden") and focused(page) == "token"
    asked = fake.requests
    time.sleep(2.3)
    assert fake.requests == asked, "it goes on asking without a token"
    page.type("wrong")
    page.key("Enter")
    page.wait("document.getElementById('wrong').textContent == 'Wrong token'")
    assert page.js("sessionStorage.length") == 0
    page.type("Open-Sesame")
    page.key("Enter")
    ready(page)
    assert page.js("document.getElementById('ask').hidden") and list(rows(page)) == ["web"]
    assert page.js("[JSON.stringify(sessionStorage), localStorage.length]") == ['{"token":"Open-Sesame"}', 0]
    assert page.command("Network.getCookies")["cookies"] == []
    assert "Open-Sesame" not in page.js("location.href + document.documentElement.outerHTML")
    page.open(fake.url)  # the tab still has it
    ready(page)


# --- its looks ------------------------------------------------------------------------------------

CONTRAST = """(() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => numbers(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = node => {
    const colour = getComputedStyle(node).backgroundColor;
    return numbers(colour)[3] === 0 ? behind(node.parentElement) : colour;
  };
  const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.tagName === 'SCRIPT') continue;
    found.push([ratio(light(getComputedStyle(node).color), light(behind(node))), walker.currentNode.data]);
  }
  return found.sort((a, b) => a[0] - b[0]);
})()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast(node, show, dark):
    page = show(node(fake_status.lively()).url, dark=dark)
    ready(page)
    found = page.js(CONTRAST)
    assert len(found) > 100
    assert found[0][0] >= 4.5, found[0]  # WCAG 2.1, 1.4.3
    light = page.js("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(light) < 80) is dark


@pytest.mark.parametrize("width", [320, PHONE, 768, 1024, 1440])
def test_it_fits_the_width(node, show, width):
    answer = fake_status.lively(12)()
    answer["services"].append(row_of(
        "s" * 60, addr="unix:/" + "directory/" * 12, client="[2001:db8:1111:2222:3333:4444:5555:6666]:65535",
        open=65535, visitors_total=123_456_789_012, bytes_out_total=10**15))
    answer["totals"].update(visitors_total=123_456_789_012, visitors_waiting=65535)
    answer["services_total"] += 1
    page = show(node(answer).url, width=width)
    ready(page)
    assert page.js("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    # On a telephone nothing scrolls sideways within the page either, and each number has its word.
    if width <= PHONE:
        assert page.js("[...document.querySelectorAll('main *')].filter(node => node.clientWidth && "
                       "node.scrollWidth > node.clientWidth + 1).map(node => node.outerHTML)") == []
        word = page.js("getComputedStyle(document.querySelector('[data-k=open]'), '::after').content")
        assert word == '"Open"'


def test_by_keyboard(node, show):
    names = ["b", "a10", "a9", "c"]
    fake = node(status([row_of(name, open=opened) for name, opened in zip(names, (5, 700, 6, 1))]))
    page = show(fake.url)
    ready(page)
    page.js("document.body.focus()")
    path = []
    for _ in range(20):
        page.key("Tab")
        path.append(focused(page))
        outline = page.js("getComputedStyle(document.activeElement).outlineStyle + "
                          "getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "solid2px", path
        if path[-1] == "by-traffic":
            break
    assert path == ["pause", "filter"] + [f"by-{key}" for key in (
        "name", "addr", "up", "client", "open", "waiting", "visitors", "refused", "in", "out", "p50", "p99",
        "traffic")]

    def press(key, name):
        page.js(f"document.getElementById('by-{name}').focus()")
        page.key(key)
        direction = page.js(f"document.getElementById('by-{name}').parentNode.getAttribute('aria-sort')")
        assert page.js("document.querySelectorAll('[aria-sort]').length") == 1
        assert focused(page) == f"by-{name}"
        return direction, list(rows(page))

    assert list(rows(page)) == ["a9", "a10", "b", "c"]  # numbers in names count as numbers
    assert press("Enter", "open") == ("descending", ["a10", "a9", "b", "c"])
    assert press(" ", "open") == ("ascending", ["c", "b", "a9", "a10"])
    assert press("Enter", "name") == ("ascending", ["a9", "a10", "b", "c"])
    assert press("Enter", "name") == ("descending", ["c", "b", "a10", "a9"])
    seen = page.js("last.at")
    page.wait(f"last.at > {seen}")  # the order outlives a poll
    assert list(rows(page)) == ["c", "b", "a10", "a9"]
    page.js("document.getElementById('filter').focus()")
    page.type("A")
    assert list(rows(page)) == ["a10", "a9"] and page.text("#shown") == "2 of 4"


def test_a_thousand_services(node, show):
    rows_ = [row_of(f"game-{port}", bytes_in_total=port) for port in range(1000)]
    page = show(node(status(rows_, services_total=10_000)).url)
    page.wait("document.querySelectorAll('#rows tr').length == 1000", 20)
    assert page.text("#shown") == "1,000 of 10,000"
    seen = page.js("last.at")
    page.wait(f"last.at > {seen}", 20)
    page.js("document.getElementById('filter').value = '999'; list()")
    assert list(rows(page)) == ["game-999"]


def test_the_policy_holds_without_the_page_being_nice(node, show):
    """What the page never does, done in it: the browser refuses all of it."""
    page = show(node(status([row_of("web")])).url)
    ready(page)
    refused = page.js("""(async () => {
      const refused = [];
      document.addEventListener('securitypolicyviolation', event => refused.push(event.effectiveDirective));
      const add = (tag, change) => {
        const node = document.createElement(tag);
        try { change(node); } catch { }
        document.body.append(node);
      };
      add('div', node => { node.innerHTML = '<b>owned</b>'; });
      add('script', node => node.append('document.title = "owned"'));
      await import('/module.js').catch(() => 0);
      add('style', node => node.append('main{display:none}'));
      add('img', node => { node.src = '/picture'; });
      add('p', node => node.setAttribute('style', 'color:red'));
      add('base', node => { node.href = 'http://127.0.0.2/'; });
      await fetch('http://127.0.0.2:1/').catch(() => 0);
      await new Promise(done => setTimeout(done, 200));
      return refused.sort();
    })()""")
    assert set(refused) == {"base-uri", "connect-src", "img-src", "require-trusted-types-for",
                            "script-src-elem", "style-src-attr", "style-src-elem"}
    assert page.js("document.title") != "owned"
    assert page.js("document.querySelector('main').checkVisibility()")
    assert page.complaints  # or the other tests would see none
    page.forget()


def test_the_policy_is_made_for_the_page(tmp_path):
    """scripts/embed_page: the same page makes the same source; what the policy would refuse is an error."""
    def embed(text, name):
        path = tmp_path / "status_page.html"
        path.write_text(text)
        done = subprocess.run([EMBED, path, tmp_path / name], capture_output=True, text=True)
        return done.returncode, (tmp_path / name).read_text() if (tmp_path / name).exists() else None

    code, source = embed(fake_status.PAGE.read_text(), "1.h")
    assert code == 0 and embed(fake_status.PAGE.read_text(), "2.h") == (0, source)
    numbers = re.search(r"status_page\[\] = \{(.*?)\}", source, re.S).group(1)
    page = gzip.decompress(bytes(map(int, numbers.replace(",", " ").split()))).decode()
    for tag in ("script", "style"):
        text = re.search(f"<{tag}>(.*)</{tag}>", page, re.S).group(1)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in source
    good = "<style>a{}</style><script>1</script>"
    assert embed(good, "good.h")[0] == 0
    for bad in (good + "<script>2</script>", good + "<p style='x'>", good + "<p onclick='x'>",
                "<script>1</script>", good + "x" * 15000, good + '<img src="/x">',
                good.replace("<script>", "<script src=x>")):
        assert embed(bad, "bad.h") == (1, None), bad[:80]
