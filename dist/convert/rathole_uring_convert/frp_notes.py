"""What is said of frp's keys that have no counterpart: (patterns of keys, reason).

The first row that fits has the key. docs/moving.md has the same answers as tables."""

UNKNOWN = "not a key that this program knows of frp"

NO_OIDC = "each service has a token instead, which its client proves at its login"
NO_TCP_MUX = "each visitor has a connection of its own"
NO_QUIC = "there is no transport over QUIC or KCP: tcp, tls, noise or websocket"
NO_POOL = "not needed: the pool grows with the number of visitors"
LOG_ELSEWHERE = "the log goes to standard error; systemd keeps it in its journal"
NO_UDP_SIZE = "not needed: whole datagrams of any size pass"
NO_PAGE_PART = "the page has one secret, no name; a web server in front of it does TLS"
NO_LEGACY = "not needed: all proxies were of this kind from frp 0.10 on"

COMMON = [
    ("auth.method auth.oidc.* auth.additionalScopes auth.additionalScopes.*", NO_OIDC),
    ("auth.timeout", "a login is valid for its connection alone, whatever the clocks say"),
    ("auth.tokenSource.*", "a secret comes from a file (file:PATH) or a variable (env:NAME), not a program"),
    ("transport.tcpMux transport.tcpMuxKeepaliveInterval", NO_TCP_MUX),
    ("transport.quic.* quicBindPort kcpBindPort", NO_QUIC),
    ("log.*", LOG_ELSEWHERE),
    ("webServer.*", NO_PAGE_PART),
    ("udpPacketSize", NO_UDP_SIZE),
    ("privilegeMode", NO_LEGACY),
]

SERVER = [
    ("transport.heartbeatTimeout", "the server sends the heartbeats here, see heartbeat_interval; it drops a "
                                   "silent client within 45 s"),
    ("transport.maxPoolCount", NO_POOL),
    ("transport.tls.force", "always so: with transport.type = tls or noise the server takes no other "
                            "clients"),
    ("transport.tls.*", "the client checks the server's name"),
    ("vhostHTTPPort vhostHTTPSPort", "the ports stand in the sections of the http and https services"),
    ("vhostHTTPTimeout custom404Page", "no HTTP is changed on its way: use a web server for it"),
    ("subDomainHost", "whole names stand in the sections of the http and https services"),
    ("tcpmuxHTTPConnectPort tcpmuxPassthrough", "no port is shared by HTTP CONNECT: give each service its "
                                                "own"),
    ("enablePrometheus", "always so: [status] serves /metrics"),
    ("detailedErrorsToClient", "the server tells strangers nothing; its log has the reason"),
    ("maxPortsPerClient", "clients have the services that stand in this file, and no others"),
    ("allowPorts", "the ports are those that stand in this file. To let clients choose: "
                   "[server.services.\"port-{port}\"] with bind_addr = 0.0.0.0:FIRST-LAST"),
    ("userConnTimeout", "a visitor waits 10 s at most"),
    ("natholeAnalysisDataReserveHours bindUDPPort", "all traffic passes through the server"),
    ("sshTunnelGateway.*", "there is no gateway for ssh: each client runs this program or rathole"),
    ("proxyBindAddr", "it is the host of each service's bind_addr"),
]

CLIENT = [
    ("clientID", "a client is known by its services' tokens"),
    ("loginFailExit", "the client keeps trying"),
    ("user", "service names get no prefix"),
    ("transport.poolCount", NO_POOL),
    ("transport.wireProtocol", "the protocol is rathole's"),
    ("transport.connectServer*", "the kernel's routes choose the local address"),
    ("transport.tls.enable", "the halves choose transport.type = tls or noise"),
    ("transport.tls.disableCustomTLSFirstByte", "not needed"),
    ("dnsServer", "the system's resolver is asked"),
    ("natHoleStunServer", "all traffic passes through the server"),
    ("includes", "one file has all: convert those files together with this one"),
    ("metadatas.*", "there are no plugins in the server that would read it"),
    ("featureGates* virtualNet.*", "there is no virtual network"),
    ("store.*", "services stand in the file; a saved change is taken while the program runs"),
]

# The third word: the half where the answer belongs.
PROXY = [
    ("enabled name type role", "said by the section itself", "client"),
    ("localIP localPort", "the unix socket takes their place, as with frp", "client"),
    ("transport.useEncryption", "encryption is for the whole connection: transport.type = noise or tls",
     "client"),
    ("transport.useCompression", "nothing is compressed", "client"),
    ("transport.bandwidthLimitMode", "the server limits", "server"),
    ("transport.bandwidthLimit", "expected a number with KB or MB: set bandwidth, in bits a second",
     "server"),
    ("transport.proxyProtocolVersion", "expected v1 or v2, and v2 for UDP", "server"),
    ("loadBalancer.*", "a client joins by the token: to restrict it, give the service a token of its own on "
                       "both sides", "server"),
    ("healthCheck.*", "with clients = balance a visitor whose client cannot reach its service gets another",
     "client"),
    ("httpUser httpPassword", "ANYBODY GETS IN: nobody is asked for a password here, so let the local web "
                              "server ask", "server"),
    ("locations", "a name leads to one service: let a web server there look at paths", "server"),
    ("hostHeaderRewrite requestHeaders.* responseHeaders.* routeByHTTPUser multiplexer",
     "no HTTP is changed on its way: use a web server beside the service", "client"),
    ("remotePort", "the service shares the port of its kind", "server"),
    ("customDomains subdomain", "a service at a port of its own has no use for names", "server"),
    ("secretKey allowUsers natTraversal.*", "of another type of proxy", "client"),
    ("metadatas.* annotations annotations.*", "there are no plugins in the server that would read it",
     "client"),
    ("privilegeMode", NO_LEGACY, "client"),
    ("plugin.*", "of another plugin", "client"),
]

# Proxies and visitors that are left out as a whole.
NO_VISITOR = ("there is no such role: visitors come to the server's address. bind_addr = 127.0.0.1:PORT "
              "there hides a service, and ssh -L leads to it")
NO_SECRET_PROXY = ("there is no {} proxy. A service with bind_addr = 127.0.0.1:PORT on the server is "
                   "hidden from the network, and ssh -L leads to it; or use allow")
NO_TCPMUX = "no port is shared by HTTP CONNECT: give the service a port of its own"
NO_PLUGIN = "there is no plugin {}: run such a program, and give its address as local_addr"
NO_PLUGIN_PORT = NO_PLUGIN + "; the server's half gets bind_addr = {}"
NO_RANDOM_PORT = "no port is chosen for it: add it to both halves with a port of your choice"
NO_LOCAL_PORT = "it has no localPort"
NOT_STARTED = "frp does not start it either"
NO_HOST = "no name is known for it: frps has no subDomainHost in the files that were given"
HOSTS_TAKEN = "its names lead to another service already; a name leads to one here, whatever the path"
OTHER_IN_GROUP = "another client of the group has it otherwise; here it would be {}"
SAME_GROUP = ("a client serves a service at one address: run a second client with "
              "[client.services.{}] and this local address")
NO_SERVER_PLUGIN = "the server has no plugins"
OLD_SECTION = "a proxy in frps.ini is of frp before 0.10: write it into both halves by hand"

# About settings that are carried over, or made up.
NOT_ENCRYPTED = ("the connection between the ends is not encrypted, and frp's is unless "
                 "transport.tls.enable is false. For noise see \"Keys for Noise\" in README.md, for tls give "
                 "the server a certificate")
NO_TOKEN = ("without auth.token frp takes everybody. Here each service needs a token: replace change-me "
            "on both sides with a long random text")
NO_CERTIFICATE = ("the client's file has keys for TLS, so give the server transport.type = tls, "
                  "transport.tls.certificate and transport.tls.private_key, or convert frps's file with it")
NO_CA = ("without trustedCaFile frp checks no certificate; here the system's root certificates count. For a "
         "certificate of your own set trusted_root")
NO_SERVER_FILE = ("frps's file was not given: its own settings are guessed, such as bind_addr from the "
                  "client's serverPort")
NO_SERVICES = "frpc's file was not given: a section for each of its proxies belongs here"
NO_PROTOCOL = NO_QUIC + "; this one uses tcp"
NO_VHOST_PORT = "the port is a guess: frps's {} is not known, or is the control port"
INTERVAL_KEPT = "the interval stays at 30 s: the client would take the silence for a loss"
ONE_STATUS = "one file has one [status], and the server's half has it: see --half"
NO_STATUS_ADDRESS = "no address was given: 127.0.0.1, which only this machine reaches; old frp took all"
NO_STATUS_NAME = "names are not looked up here: 127.0.0.1, unless you give another address"
WEB_SERVER_OFF = "without a port there is no status page"
NO_LOG_LEVEL = "not a level: error, warn, info, debug or trace"
GROUP_NAME = "the service has the group's name, so that all clients of the group serve one service"
OTHER_SECRET = ("it begins with {}, which here means that the token is read from there: choose another on "
                "both sides")
PASSWORD_IS_TOKEN = "it is sent as Authorization: Bearer TOKEN"
BANDWIDTH_WAYS = "for each direction by itself, in bits a second"
NO_NTLM = "a proxy is socks5:// or http:// with a port"
