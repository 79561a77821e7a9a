"""Commands for gdb that show what a running node is doing, or was doing when its core was written.

    gdb -p PID -x scripts/gdb/rathole_uring.py            a live process: it stands still meanwhile
    gdb PROGRAM CORE -x scripts/gdb/rathole_uring.py      a core

    ru-workers         each worker: thread, ring, operations, timers, counters
    ru-services        each service: session, channels, visitors
    ru-sessions        each control channel: state and peer
    ru-visitors [MAX]  each visitor (on a client: each data channel): state, age, where it stands
    ru-relays [MAX]    each relay: both directions, descriptors, bytes that are pending
    ru-ops [MAX]       each operation in flight: kind, descriptor, owner, callback

MAX: so many rows at most, 0 = all; 200 if it is left out. What is not shown is counted all the same.

The program needs debug information (meson's -Ddebug=true, or the -dbgsym package). Nothing is called
in the process and nothing is written to it. No token, key or payload is printed.
"""

import collections
import os
import re
import socket
import time

import gdb

ROWS_MAX = 200
LIST_MAX = 1000000  # a list that a process was stopped in the midst of changing still ends


class Trouble(Exception):
    """What is told to the user as one line."""


# ---- values ----------------------------------------------------------------------------------


# Of structs whose name another file uses too: a function of the file that is meant.
HOMES = {"listener": "listener_open_all"}


def struct(name):
    if name not in HOMES:
        return gdb.lookup_type(f"struct {name}")
    home = gdb.lookup_global_symbol(HOMES[name])
    return gdb.lookup_type(f"struct {name}", home.symtab.static_block())


def address(value):
    return int(value.address)


def number(value):
    """An integer, also of an atomic or a bool."""
    return int(value.cast(value.type.unqualified().strip_typedefs()))


def pointer(value, name):
    """A pointer of any kind (atomic, void) as one to a struct; None for NULL."""
    value = value.cast(struct(name).pointer())
    return None if int(value) == 0 else value


def offset_of(kind, member):
    """In bytes; also of a member of an anonymous union. None: there is none of that name."""
    for field in kind.fields():
        inner = 0 if field.name == member else None
        if not field.name:
            inner = offset_of(field.type, member)
        if inner is not None:
            return field.bitpos // 8 + inner
    return None


def container(node, name, member):
    """The struct `name` that embeds `member` at the address `node`."""
    start = int(node) - offset_of(struct(name), member)
    return gdb.Value(start).cast(struct(name).pointer()).dereference()


def each(head, name, member="node"):
    """The objects of a struct list, which are in it by this member."""
    end, node, steps = address(head), head["next"], 0
    while int(node) != end:
        steps += 1
        if int(node) == 0 or steps > LIST_MAX:
            raise Trouble(f"the list at {end:#x} is broken: stopped in the midst of a change?")
        yield container(node, name, member)
        node = node.dereference()["next"]


def length(head):
    end, node, count = address(head), head["next"], 0
    while int(node) not in (end, 0) and count < LIST_MAX:
        node, count = node.dereference()["next"], count + 1
    return count


def enum(value, name, prefix):
    """The name of an enumerator, kept in a field of another type."""
    text = str(number(value))
    for field in gdb.lookup_type(f"enum {name}").fields():
        if str(field.enumval) == text:
            return field.name.removeprefix(prefix)
    return text


def symbol(value):
    """The name of the function or object that a pointer points to."""
    found = re.search(r"<([^>+]+)", str(value))
    return found.group(1) if found else str(value)


def text(value):
    return value.string("utf-8", "backslashreplace")


def seconds(ns):
    return f"{ns / 1e9:.1f} s"


# ---- the process -----------------------------------------------------------------------------


class Process:
    """What is looked at, as it is now: made anew for each command."""

    def __init__(self):
        root = gdb.lookup_static_symbol("workers_root")
        if root is None:
            raise Trouble("no symbol workers_root: not rathole-uring, or without debug information")
        if gdb.selected_inferior().pid == 0:
            raise Trouble("no process and no core")
        workers = root.value()
        if int(workers) == 0:
            raise Trouble("there are no workers: not yet, or not any more")
        self.workers = workers.dereference()
        role = symbol(self.workers["role"])
        self.is_server = "server" in role
        self.role = "server" if self.is_server else "client"
        connection = gdb.selected_inferior().connection
        self.is_live = connection is not None and connection.type == "native"
        items = self.workers["tunnel"]["items"]
        self.tunnels = [items[i] for i in range(int(self.workers["tunnel"]["count"]))]
        turns = [number(t["loop"]["now_ns"]) for t in self.tunnels if int(t["loop"]) != 0]
        # A core has no clock: its latest turn is the next best.
        self.now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) if self.is_live else max(turns)
        self.peers = _sockets(gdb.selected_inferior().pid) if self.is_live else {}

    def parts(self):
        """(index, tunnel_worker, the role's own part of the worker), of those that have begun."""
        for i, tunnel in enumerate(self.tunnels):
            part = pointer(tunnel["role"], f"{self.role}_worker")
            if part is not None:
                yield i, tunnel, part.dereference()

    def role_object(self):
        """struct server or struct client."""
        for _, _, part in self.parts():
            return part[self.role].dereference()
        raise Trouble("no worker has begun yet")

    def ago(self, ns):
        return seconds(max(self.now_ns - number(ns), 0))

    def peer(self, fd):
        """Whom a socket is connected with; only of a live process."""
        return self.peers.get(number(fd), "-")


def _host(digits):
    raw = bytes.fromhex(digits)
    raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    if len(raw) == 4:
        return socket.inet_ntoa(raw)
    if raw.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntoa(raw[12:])
    return f"[{socket.inet_ntop(socket.AF_INET6, raw)}]"


def _sockets(pid):
    """{descriptor: the other end's address} as /proc knows them; the process is not asked."""
    by_inode, peers = {}, {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        try:
            with open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
                rows = file.read().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            host, _, port = fields[2].partition(":")
            by_inode[fields[9]] = f"{_host(host)}:{int(port, 16)}"
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            inode = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
            if inode and inode.group(1) in by_inode:
                peers[int(fd)] = by_inode[inode.group(1)]
    except OSError:
        pass
    return peers


def addr_text(addr):
    """A struct addr."""
    if number(addr["len"]) == 0:
        return "-"
    family = number(addr["any"]["sa_family"])
    of = addr["v4"] if family == socket.AF_INET else addr["v6"]
    raw = of["sin_addr"] if family == socket.AF_INET else of["sin6_addr"]
    port = number(of["sin_port"] if family == socket.AF_INET else of["sin6_port"])
    host = socket.inet_ntop(family, bytes(gdb.selected_inferior().read_memory(
        address(raw), raw.type.sizeof)))
    port = socket.ntohs(port)
    return f"{host}:{port}" if family == socket.AF_INET else f"[{host}]:{port}"


def service_config(service):
    return pointer(service["entry"]["config"], "config_service").dereference()


def service_name(service):
    return text(service_config(service.dereference())["name"])


# ---- operations ------------------------------------------------------------------------------

ENDS = ("visitor end", "service end")  # enum relay_end
WAYS = ("to service", "to visitor")  # a relay's flows, by the end that they read from

Op = collections.namedtuple("Op", "op owner")


def op_kind(op):
    return enum(op["kind"], "loop_op_kind", "LOOP_OP_").lower()


def op_is_idle(op):
    return number(op["state"]) == 0


def op_text(op):
    """Of one in flight."""
    fd = number(op["fd"])
    state = "" if number(op["state"]) == 1 else ", being cancelled"
    return f"{op_kind(op)}{f' fd {fd}' if fd >= 0 else ''}{state}"


def relay_ops(relay, owner):
    for i in range(2):
        for name in ("read_op", "write_op"):
            yield Op(relay["flow"][i][name], f"{owner} {WAYS[i]} {name}")
        yield Op(relay["hangup_op"][i], f"{owner} {ENDS[i]} hangup_op")


def stream_ops(stream, owner):
    yield Op(stream["read_op"], f"{owner} read_op")
    yield Op(stream["write_op"], f"{owner} write_op")


def server_ops(part):
    heads = [("control port", part["control_ports"]), ("closing port", part["closing_ports"])]
    for service_part in each(part["parts"], "service_part"):
        heads.append((f"listener [{service_name(service_part['service'])}]", service_part["ports"]))
    for owner, head in heads:
        for listener in each(head, "listener"):
            yield Op(listener["accept_op"], f"{owner} accept_op")
    for login in each(part["logins"], "login"):
        yield from stream_ops(login["stream"], f"login {number(login['conn_id'])}")
    for control in each(part["control_list"], "server_control"):
        yield from stream_ops(control["stream"], f"control [{service_name(control['service'])}]")
    for visitor in each(part["waiting_visitors"], "visitor"):
        yield Op(visitor["start"]["op"], f"{owner_text(visitor)} start.op")
    for visitor in each(part["relaying_visitors"], "visitor"):
        yield from relay_ops(visitor["relay"], owner_text(visitor))
    for lane in each(part["lanes"], "lane"):
        yield Op(lane["poll_op"], f"lane [{service_name(lane['service'])}] poll_op")


def client_ops(part):
    for control in each(part["controls"], "client_control"):
        if number(control["has_stream"]):
            name = service_name(control["service"])
            yield from stream_ops(control["stream"], f"control [{name}]")
    for channel in each(part["channels"], "data_channel"):
        if number(channel["stream"]["fd"]) >= 0:
            yield from stream_ops(channel["stream"], owner_text(channel))
        if number(channel["has_local"]):
            yield from stream_ops(channel["local"], f"{owner_text(channel)} local")
    for channel in each(part["relaying"], "data_channel"):
        yield from relay_ops(channel["relay"], owner_text(channel))
    for forward in each(part["forwards"], "forward"):
        owner = f"forward [{service_name(forward['service'])}]"
        for entry in each(forward["table"]["used"], "udp_table_entry"):
            visitor = container(entry.address, "forward_visitor", "entry")
            yield Op(visitor["poll_op"], f"{owner} visitor poll_op")


def worker_ops(process, tunnel, part):
    """The ops in flight of all that a worker knows."""
    def all_ops():
        yield Op(tunnel["mailbox"]["eventfd_op"], "mailbox eventfd_op")
        yield Op(tunnel["loop"]["exact"]["ready_op"], "loop exact.ready_op")
        for channel in each(tunnel["datagrams"]["channels"], "datagram_channel"):
            yield from stream_ops(channel["stream"], "UDP data channel")
        yield from (server_ops if process.is_server else client_ops)(part)

    return (found for found in all_ops() if not op_is_idle(found.op))


def owner_text(owner):
    """A visitor or a data channel."""
    kind = "visitor" if owner.type.name == "visitor" else "data channel"
    return f"{kind} {number(owner['id'])} [{service_name(owner['service'])}]"


# ---- timers ----------------------------------------------------------------------------------


def heap(timers):
    """The timers of a pairing heap, in no order."""
    left = [timers["root"]]
    while left:
        timer = left.pop()
        if int(timer) == 0:
            continue
        timer = timer.dereference()
        yield timer
        left += [timer["child"], timer["next"]]


def timers_text(process, timers):
    due, by_callback = [], collections.Counter()
    for timer in heap(timers):
        due.append(number(timer["deadline_ns"]))
        by_callback[symbol(timer["expired"])] += 1
    if not due:
        return "none"
    next_ns = min(due) - process.now_ns
    when = f"next in {seconds(next_ns)}" if next_ns >= 0 else f"overdue by {seconds(-next_ns)}"
    return f"{len(due)}, {when}: {counted(by_callback)}"


def counted(counter):
    return ", ".join(f"{count} {name}" for name, count in counter.most_common())


# ---- ru-workers ------------------------------------------------------------------------------


def thread_text(process, i):
    handle = process.workers["threads"][i]["thread"]
    try:
        thread = gdb.selected_inferior().thread_from_handle(handle)
        return f"LWP {thread.ptid[1]}, gdb's thread {thread.num}"
    except (gdb.error, AttributeError):
        return "unknown"  # without libthread_db


def counters_text(metrics):
    values = []
    for field in gdb.lookup_type("enum metric").fields():
        name = field.name.removeprefix("METRIC_").lower()
        if name == "count":
            continue
        value = number(metrics["values"][field.enumval])
        if value != 0:
            values.append(f"{name}={value}")
    return " ".join(values) or "all 0"


def flags_text(part, names):
    return "".join(f", {name}" for name in names if number(part[name]))


def work_text(process, part):
    if process.is_server:
        heads = [("visitors relaying", "relaying_visitors"), ("waiting", "waiting_visitors"),
                 ("control channels", "control_list"), ("logins", "logins"), ("lanes", "lanes")]
    else:
        heads = [("data channels relaying", "relaying"), ("before it", "channels"),
                 ("control channels", "controls"), ("UDP forwards", "forwards")]
    counts = ", ".join(f"{length(part[field])} {name}" for name, field in heads)
    ends = ("refusing",) if process.is_server else ()
    return counts + flags_text(part, (*ends, "draining", "stopping"))


def ru_workers(process, _rows):
    for i, tunnel, part in process.parts():
        loop = tunnel["loop"].dereference()
        box = tunnel["mailbox"].dereference()
        buffers = loop["buffers"].dereference()
        ops = collections.Counter(op_kind(found.op) for found in worker_ops(process, tunnel, part))
        posted = (number(box["write_position"]) & ((1 << 63) - 1)) - number(box["read_position"])
        yield (f"worker {i}: {process.role}, thread {thread_text(process, i)}, "
               f"ring fd {number(loop['ring']['ring_fd'])}")
        yield f"  has        {work_text(process, part)}"
        yield (f"  relays     {number(tunnel['relays']['relay_count'])}, "
               f"{number(tunnel['relays']['bulk_flows'])} bulk flows")
        yield f"  ops        {sum(ops.values())} in flight: {counted(ops)}"
        yield f"  timers     {timers_text(process, loop['schedule']['timers'])}"
        yield f"  deadlines  {timers_text(process, loop['schedule']['deadlines'])}"
        yield (f"  loop       last turn {process.ago(loop['now_ns'])} ago, "
               f"busy {number(loop['busy']['permille'])} permille")
        yield (f"  mailbox    {posted} messages, signals {number(box['signals']):#x}; shared buffers "
               f"{number(buffers['lent'])} of {number(buffers['count'])} lent, "
               f"{length(buffers['waiters'])} waiters")
        yield f"  counters   {counters_text(tunnel['metrics'])}"
    yield f"{len(process.tunnels)} workers"


# ---- ru-services, ru-sessions ----------------------------------------------------------------


def services(process):
    entries = process.role_object()["services"]["entries"]
    name = "service" if process.is_server else "client_service"
    for entry in each(entries, "service_base"):
        yield container(entry.address, name, "entry")


def sources(pool):
    for i in range(number(pool["slot_count"])):
        source = pool["slots"][i]["source"]
        if int(source) != 0:
            yield source


def server_service_text(service):
    pool = service["pool"]
    wanted, asked, count = 0, 0, 0
    for source in sources(pool):
        count += 1
        wanted += number(source["wanted"])
        asked += number(source["outstanding"]) + number(source["outstanding_older"])
    up = "up" if number(service["up"]) else "down"
    binding = service["binding"]
    where = addr_text(binding["addr"]) if int(binding) != 0 else "without an address"
    return (f"{up}, {where}, visitors {number(service['connections'])}; channels: "
            f"{number(pool['parked_count'])} parked, {wanted} wanted, {asked} asked for; "
            f"{number(pool['waiting_count'])} wait; sessions {count}")


def client_service_text(service):
    states = [enum(control["state"], "control_state", "CONTROL_")
              for control in each(service["controls"], "client_control", "service_node")]
    what = ", ".join(states) or "no control channel"
    return f"{what}, control channel on worker {number(service['worker'])}"


def ru_services(process, _rows):
    count = 0
    for service in services(process):
        count += 1
        entry = service["entry"]
        kind = "udp" if number(service["is_udp"]) else "tcp"
        what = (server_service_text if process.is_server else client_service_text)(service)
        gone = flags_text(entry, ("removed", "cut"))
        name = text(service_config(service)["name"])
        yield f"service [{name}] {kind}, users {number(entry['users'])}{gone}: {what}"
    yield f"{count} services"


def server_sessions(process, i, part):
    for control in each(part["control_list"], "server_control"):
        session, service = control["session"], control["service"]
        state = enum(control["state"], "server_control_state", "SERVER_CONTROL_")
        replaced = flags_text(session, ("replaced",))
        source = session["source"]
        yield (f"session [{service_name(service)}] worker {i}, conn {number(control['conn_id'])}: "
               f"{state}{replaced}, epoch {number(session['epoch'])}, "
               f"{number(source['parked_count'])} parked, {number(source['open'])} visitors, "
               f"fd {number(control['stream']['fd'])}, peer {process.peer(control['stream']['fd'])}")


def client_sessions(process, i, part):
    for control in each(part["controls"], "client_control"):
        state = enum(control["state"], "control_state", "CONTROL_")
        session = control["session"]
        more = ""
        if int(session) != 0:
            more = (f", fd {number(control['stream']['fd'])}, server {addr_text(session['server'])}, "
                    f"heard {process.ago(control['heard_at_ns'])} ago, "
                    f"channels without a visitor {number(session['unstarted'])}")
        yield f"session [{service_name(control['service'])}] worker {i}: {state}{more}"


def ru_sessions(process, _rows):
    count = 0
    for i, _, part in process.parts():
        for line in (server_sessions if process.is_server else client_sessions)(process, i, part):
            count += 1
            yield line
    yield f"{count} control channels"


# ---- ru-visitors -----------------------------------------------------------------------------


def relay_short(process, relay):
    state = enum(relay["state"], "relay_state", "RELAY_")
    return (f"relay {state}, fds {number(relay['fds'][0])} and {number(relay['fds'][1])}, "
            f"{number(relay['flow'][0]['bytes'])} bytes to service, "
            f"{number(relay['flow'][1]['bytes'])} to visitor, "
            f"quiet {process.ago(relay['active_at_ns'])}")


def queue_text(process, visitor):
    pool, own = visitor["service"]["pool"], address(visitor["waiter"])
    if not number(visitor["waiter"]["waiting"]):
        return "a channel is on its way"
    for place, waiter in enumerate(each(pool["waiting"], "pool_waiter"), 1):
        if address(waiter) == own:
            return f"place {place} of {number(pool['waiting_count'])} in the queue"
    return "in the queue"


def server_visitors(process, part):
    for head in ("waiting_visitors", "relaying_visitors"):
        for visitor in each(part[head], "visitor"):
            state = enum(visitor["state"], "visitor_state", "VISITOR_")
            if state == "RELAYING":
                fd, where = visitor["relay"]["fds"][0], relay_short(process, visitor["relay"])
            elif state == "WAITING":
                fd, where = visitor["fd"], queue_text(process, visitor)
            elif state == "ARRIVING":
                fd = visitor["fd"]
                where = f"{number(visitor['start']['head_size'])} bytes of its PROXY header"
            elif number(visitor["start"]["op"]["state"]):
                fd, where = visitor["fd"], "closed; its poll ends"
            else:
                fd, where = visitor["fd"], "closed; a channel is on its way to it"
            yield (state, f"{owner_text(visitor)}: {state}, age {process.ago(visitor['begun_at_ns'])}, "
                          f"from {process.peer(fd)}; {where}")
    for lane in each(part["lanes"], "lane"):
        name = service_name(lane["service"])
        for entry in each(lane["table"]["used"], "udp_table_entry"):
            visitor = container(entry.address, "lane_visitor", "entry")
            yield ("UDP", f"visitor [{name}]: UDP, from {addr_text(visitor['route']['to'])}; "
                          f"quiet {process.ago(entry['active_at_ns'])}")


def client_visitors(process, part):
    for head in ("channels", "relaying"):
        for channel in each(part[head], "data_channel"):
            state = enum(channel["state"], "channel_state", "CHANNEL_")
            if state == "RELAYING":
                where = relay_short(process, channel["relay"])
            else:
                fds = [f"fd {number(channel['stream']['fd'])}"]
                fds += [f"local fd {number(channel['local']['fd'])}"] * number(channel["has_local"])
                where = ", ".join(fds)
            yield (state, f"{owner_text(channel)}: {state}, age {process.ago(channel['begun_at_ns'])}; "
                          f"{where}")
    for forward in each(part["forwards"], "forward"):
        yield ("UDP", f"forward [{service_name(forward['service'])}]: UDP, "
                      f"{number(forward['table']['count'])} visitors, "
                      f"fd {number(forward['channel']['stream']['fd'])}")


def ru_visitors(process, rows):
    states = collections.Counter()
    for i, _, part in process.parts():
        for state, line in (server_visitors if process.is_server else client_visitors)(process, part):
            states[state] += 1
            if rows.take():
                yield f"worker {i}  {line}"
    what = "visitors" if process.is_server else "data channels"
    yield f"{sum(states.values())} {what}{': ' if states else ''}{counted(states)}{rows.rest()}"


# ---- ru-relays -------------------------------------------------------------------------------


def pending_text(flow):
    kind = enum(flow["pending"], "relay_pending", "PENDING_")
    if kind == "NONE":
        return "0 pending"
    if kind == "PIPE":
        pipe = flow["pipe"]
        return (f"{number(pipe['pending_bytes'])} pending in a pipe (fds {number(pipe['read_fd'])}, "
                f"{number(pipe['write_fd'])})")
    return f"{number(flow['end']) - number(flow['begin'])} pending in memory ({kind})"


def flow_text(flow, pace):
    doing = [f"{name}: {op_text(flow[name])}" for name in ("read_op", "write_op")
             if not op_is_idle(flow[name])]
    node = flow["buffers_waiter"]["node"]
    if int(node["next"]) != address(node):
        doing.append("waits for a shared buffer")
    if int(pace) and number(pace["flow"][number(flow["index"])]["timer"]["armed"]):
        doing.append("waits for the limit of the bandwidth")
    if number(flow["finished"]):
        doing.append("finished")
    elif number(flow["eof"]):
        doing.append("end of input")
    mode = "bulk" if number(flow["bulk"]) else "copy"
    return f"{mode}, {number(flow['bytes'])} moved, {pending_text(flow)}; {', '.join(doing) or 'idle'}"


def relay_text(process, i, relay):
    owner = container(relay.address, "visitor" if process.is_server else "data_channel", "relay")
    fds = [number(relay["fds"][end]) for end in range(2)]
    state = enum(relay["state"], "relay_state", "RELAY_")
    coded = [f", {ENDS[end]} is coded" for end in range(2) if int(relay["links"][end]) != 0]
    error = f", error {number(relay['error'])}" if number(relay["error"]) else ""
    yield (f"relay {address(relay):#x} worker {i}  {owner_text(owner)}: {state}, "
           f"quiet {process.ago(relay['active_at_ns'])}{''.join(coded)}{error}")
    for way in range(2):
        text = flow_text(relay["flow"][way], relay["pace"])
        yield f"  {WAYS[way]}  fd {fds[way]} to {fds[1 - way]}: {text}"
    for end in range(2):
        if not op_is_idle(relay["hangup_op"][end]):
            yield f"  {ENDS[end]} is watched: {op_text(relay['hangup_op'][end])}"


def ru_relays(process, rows):
    states = collections.Counter()
    for i, tunnel, _ in process.parts():
        for relay in each(tunnel["relays"]["relays"], "relay"):
            states[enum(relay["state"], "relay_state", "RELAY_")] += 1
            if rows.take():
                yield from relay_text(process, i, relay)
    yield f"{sum(states.values())} relays{': ' if states else ''}{counted(states)}{rows.rest()}"


# ---- ru-ops ----------------------------------------------------------------------------------


def ru_ops(process, rows):
    kinds = collections.Counter()
    for i, tunnel, part in process.parts():
        for op, owner in worker_ops(process, tunnel, part):
            kinds[op_kind(op)] += 1
            if rows.take():
                yield f"worker {i}  {op_text(op)}: {owner}, done {symbol(op['done'])}"
    yield f"{sum(kinds.values())} ops in flight: {counted(kinds)}{rows.rest()}"


# ---- the commands ----------------------------------------------------------------------------


class Rows:
    """How many rows may still be shown."""

    def __init__(self, argument):
        if argument and not argument.isdigit():
            raise Trouble(f"a number is expected, not {argument!r}")
        self.most = int(argument) if argument else ROWS_MAX
        self.seen = 0

    def take(self):
        self.seen += 1
        return self.most == 0 or self.seen <= self.most

    def rest(self):
        more = self.seen - self.most if self.most else 0
        return f" ({more} not shown)" if more > 0 else ""


class Command(gdb.Command):
    def __init__(self, name, lines, what):
        self.__doc__ = what
        super().__init__(name, gdb.COMMAND_DATA)
        self.name, self.lines = name, lines

    def invoke(self, argument, from_tty):
        try:
            with gdb.with_parameter("may-call-functions", False):
                for line in self.lines(Process(), Rows(argument.strip())):
                    gdb.write(line + "\n")
        except (Trouble, gdb.MemoryError) as error:
            raise gdb.GdbError(f"{self.name}: {error}") from None


for _row in re.findall(r"^    (ru-\w+) (?:\[MAX\])? +(.*)$", __doc__, re.M):
    Command(_row[0], globals()[_row[0].replace("-", "_")], _row[1].capitalize() + ".")
