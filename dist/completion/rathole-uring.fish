# Completion of rathole-uring for fish. tests/e2e/test_packages.py compares it with --help.

# Directories, to go on from, and what may be a configuration file. In --config=FILE only FILE is a path.
function __rathole_uring_files
    set -l path (commandline -ct | string replace -r '^-[^=]*=' '')
    __fish_complete_path "$path" | string match -r '^.*(?:/|\.ini|\.toml)(?:\t.*)?$'
end

complete -c rathole-uring -f
complete -c rathole-uring -n 'not __fish_seen_argument -l genkey -l pubkey -s V -l version -s h -l help' \
    -a '(__rathole_uring_files)'
complete -c rathole-uring -n '__fish_prev_arg_in --genkey' -a x25519

complete -c rathole-uring -s s -l server -d 'run the [server] half of FILE'
complete -c rathole-uring -l client -d 'run the [client] half of FILE'
complete -c rathole-uring -s c -l config -x -a '(__rathole_uring_files)' \
    -d 'use FILE; one with both halves runs as client'
complete -c rathole-uring -l check -d 'check FILE, warn of what is unsafe, and exit'
complete -c rathole-uring -l status -d 'a table of the services of the running process'
complete -c rathole-uring -l watch -d 'with --status: again every second'
complete -c rathole-uring -l genkey -d 'print a new key pair for noise (x25519)'
complete -c rathole-uring -l pubkey -d 'read a private key, print its public key'
complete -c rathole-uring -l from-frp -r -F -d 'print what FILE of frp means, as a FILE of ours'
complete -c rathole-uring -l from-rathole -r -F -d 'the same for a FILE of rathole'

# Without a file. init may be followed by a directory.
complete -c rathole-uring -n '__fish_is_nth_token 1' -a 'server client init'
complete -c rathole-uring -n '__fish_seen_subcommand_from init' -a '(__fish_complete_directories)'
complete -c rathole-uring -n '__fish_seen_subcommand_from server' -l ports -x \
    -d 'server: of services, 6000-6999 or 6000-6999/udp; may be repeated'
complete -c rathole-uring -n '__fish_seen_subcommand_from server' -l bind -x \
    -d 'server: where clients connect, default :2333'
complete -c rathole-uring -n '__fish_seen_subcommand_from server' -l noise \
    -d 'server: encrypt, with a key that is made once and kept'
complete -c rathole-uring -n '__fish_seen_subcommand_from client' -l server-key -x \
    -d 'client: encrypt; the public key of the server'
complete -c rathole-uring -n '__fish_seen_subcommand_from server client' -l token-file -r -F \
    -d 'both: FILE with the token, or RATHOLE_URING_TOKEN is the token'
complete -c rathole-uring -n '__fish_seen_subcommand_from server client' -l print-config \
    -d 'both: print the FILE that does the same, and exit'

complete -c rathole-uring -s V -l version -d 'version, build and kernel features'
complete -c rathole-uring -s h -l help -d 'this text'
