"""The converter behind `rathole-uring --from-frp` and `--from-rathole`.

    sources      reads a file: TOML, JSON or frp's old INI, as tables of Keys
    keys         a table whose keys are either taken or noted, so that none is lost silently
    document     the sections, settings and notes that are printed
    frp          frps's and frpc's general keys; frp_proxies: the proxies; frp_notes: what is said of the rest
    frp_legacy   the keys of frp's INI files under the names that its TOML files have
    rathole      rathole's files
"""
