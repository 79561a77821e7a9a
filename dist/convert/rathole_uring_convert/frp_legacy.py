"""The keys of frp's INI files, of v0.8 to v0.51, under the names that its TOML files have.

Notes show the old names: Keys.add takes both."""

BOTH = {
    "token": "auth.token",
    "privilege_token": "auth.token",
    "auth_token": "auth.token",
    "authentication_timeout": "auth.timeout",
    "authentication_method": "auth.method",
    "authenticate_heartbeats": "auth.additionalScopes.heartbeats",
    "authenticate_new_work_conns": "auth.additionalScopes.newWorkConns",
    "oidc_audience": "auth.oidc.audience",
    "quic_keepalive_period": "transport.quic.keepalivePeriod",
    "quic_max_idle_timeout": "transport.quic.maxIdleTimeout",
    "quic_max_incoming_streams": "transport.quic.maxIncomingStreams",
    "tcp_mux": "transport.tcpMux",
    "tcp_mux_keepalive_interval": "transport.tcpMuxKeepaliveInterval",
    "heartbeat_timeout": "transport.heartbeatTimeout",
    "tls_cert_file": "transport.tls.certFile",
    "tls_key_file": "transport.tls.keyFile",
    "tls_trusted_ca_file": "transport.tls.trustedCaFile",
    "log_file": "log.to",
    "log_way": "log.way",
    "log_level": "log.level",
    "log_max_days": "log.maxDays",
    "disable_log_color": "log.disablePrintColor",
    "assets_dir": "webServer.assetsDir",
    "pprof_enable": "webServer.pprofEnable",
    "udp_packet_size": "udpPacketSize",
}

SERVER = BOTH | {
    "bind_addr": "bindAddr",
    "bind_port": "bindPort",
    "bind_udp_port": "bindUDPPort",
    "kcp_bind_port": "kcpBindPort",
    "quic_bind_port": "quicBindPort",
    "proxy_bind_addr": "proxyBindAddr",
    "vhost_http_port": "vhostHTTPPort",
    "vhost_https_port": "vhostHTTPSPort",
    "vhost_http_timeout": "vhostHTTPTimeout",
    "tcpmux_httpconnect_port": "tcpmuxHTTPConnectPort",
    "tcpmux_passthrough": "tcpmuxPassthrough",
    "subdomain_host": "subDomainHost",
    "custom_404_page": "custom404Page",
    "dashboard_addr": "webServer.addr",
    "dashboard_port": "webServer.port",
    "dashboard_user": "webServer.user",
    "dashboard_pwd": "webServer.password",
    "dashboard_passwd": "webServer.password",
    "dashboard_username": "webServer.user",
    "dashboard_password": "webServer.password",
    "oidc_client_id": "auth.oidc.clientID",
    "oidc_client_secret": "auth.oidc.clientSecret",
    "oidc_token_endpoint_url": "auth.oidc.tokenEndpointURL",
    "dashboard_tls_mode": "webServer.tls.mode",
    "dashboard_tls_cert_file": "webServer.tls.certFile",
    "dashboard_tls_key_file": "webServer.tls.keyFile",
    "enable_prometheus": "enablePrometheus",
    "detailed_errors_to_client": "detailedErrorsToClient",
    "oidc_issuer": "auth.oidc.issuer",
    "oidc_skip_expiry_check": "auth.oidc.skipExpiryCheck",
    "oidc_skip_issuer_check": "auth.oidc.skipIssuerCheck",
    "user_conn_timeout": "userConnTimeout",
    "allow_ports": "allowPorts",
    "privilege_allow_ports": "allowPorts",
    "max_pool_count": "transport.maxPoolCount",
    "max_ports_per_client": "maxPortsPerClient",
    "tls_only": "transport.tls.force",
    "tcp_keepalive": "transport.tcpKeepalive",
    "nat_hole_analysis_data_reserve_hours": "natholeAnalysisDataReserveHours",
    "privilege_mode": "privilegeMode",
}

CLIENT = BOTH | {
    "server_addr": "serverAddr",
    "server_port": "serverPort",
    "nat_hole_stun_server": "natHoleStunServer",
    "dial_server_timeout": "transport.dialServerTimeout",
    "dial_server_keepalive": "transport.dialServerKeepalive",
    "connect_server_local_ip": "transport.connectServerLocalIP",
    "connect_server_interface": "transport.connectServerInterface",
    "http_proxy": "transport.proxyURL",
    "oidc_client_id": "auth.oidc.clientID",
    "oidc_client_secret": "auth.oidc.clientSecret",
    "oidc_scope": "auth.oidc.scope",
    "oidc_token_endpoint_url": "auth.oidc.tokenEndpointURL",
    "admin_addr": "webServer.addr",
    "admin_port": "webServer.port",
    "admin_user": "webServer.user",
    "admin_pwd": "webServer.password",
    "admin_passwd": "webServer.password",
    "pool_count": "transport.poolCount",
    "user": "user",
    "dns_server": "dnsServer",
    "login_fail_exit": "loginFailExit",
    "start": "start",
    "protocol": "transport.protocol",
    "tls_enable": "transport.tls.enable",
    "tls_server_name": "transport.tls.serverName",
    "disable_custom_tls_first_byte": "transport.tls.disableCustomTLSFirstByte",
    "heartbeat_interval": "transport.heartbeatInterval",
    "includes": "includes",
}

PROXY = {
    "type": "type",
    "role": "role",
    "local_ip": "localIP",
    "local_port": "localPort",
    "remote_port": "remotePort",
    "use_encryption": "transport.useEncryption",
    "use_compression": "transport.useCompression",
    "use_gzip": "transport.useCompression",
    "bandwidth_limit": "transport.bandwidthLimit",
    "bandwidth_limit_mode": "transport.bandwidthLimitMode",
    "proxy_protocol_version": "transport.proxyProtocolVersion",
    "plugin": "plugin.type",
    "group": "loadBalancer.group",
    "group_key": "loadBalancer.groupKey",
    "health_check_type": "healthCheck.type",
    "health_check_timeout_s": "healthCheck.timeoutSeconds",
    "health_check_max_failed": "healthCheck.maxFailed",
    "health_check_interval_s": "healthCheck.intervalSeconds",
    "health_check_url": "healthCheck.path",
    "custom_domains": "customDomains",
    "subdomain": "subdomain",
    "locations": "locations",
    "http_user": "httpUser",
    "http_pwd": "httpPassword",
    "http_passwd": "httpPassword",
    "host_header_rewrite": "hostHeaderRewrite",
    "route_by_http_user": "routeByHTTPUser",
    "multiplexer": "multiplexer",
    "sk": "secretKey",
    "allow_users": "allowUsers",
    "plugin_unix_path": "plugin.unixPath",
    "privilege_mode": "privilegeMode",
}

# Keys with a name of the user's behind them.
PREFIXES = {
    "meta_": "metadatas.",
    "header_": "requestHeaders.set.",
    "oidc_additional_": "auth.oidc.additionalEndpointParams.",
    "plugin_": "plugin.",
}

UNKNOWN = "unknown."


def path_of(key, names):
    if key in names:
        return names[key]
    prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), None)
    return PREFIXES[prefix] + key[len(prefix):] if prefix else UNKNOWN + key


def add(keys, section, names):
    for key, value in section.items():
        keys.add(path_of(key, names), key, value)


def is_server(common):
    """One of the two roles by the keys that only it has."""
    only_server = sum(key in SERVER and key not in CLIENT for key in common)
    only_client = sum(key in CLIENT and key not in SERVER for key in common)
    return only_server > only_client
