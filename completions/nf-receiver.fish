# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_nf_receiver_global_optspecs
    string join \n c/config= l/listen= C/collector= source= k/key= key-file= plaintext state= control= h/help V/version
end

function __fish_nf_receiver_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_nf_receiver_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_nf_receiver_using_subcommand
    set -l cmd (__fish_nf_receiver_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s l -l listen -d 'Take connections on this TCP address; may be repeated; sockets from systemd replace it [default: [::]:2055]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s C -l collector -d 'Deliver to this collector by UDP; may be repeated: every one of them [default: 127.0.0.1:9995]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -l source -d 'Deliver from this machine\'s own address, with a port for each exporter, or from the exporter\'s own address and port, which takes CAP_NET_RAW [default: own]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s k -l key -d 'Use this shared key, or passphrase, of both sides; - reads it from standard input. On the command line others can read it: --key-file, or the systemd credential `key`, is safer' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -l key-file -d 'Use the shared key in this file, which nobody else may read; keygen makes keys [default: the systemd credential `key`, if there is one]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -l state -d 'Keep how far each sender was delivered in this directory [default: $STATE_DIRECTORY, else /var/lib/nf-receiver]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -l control -d 'Serve, or ask, at this control socket [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -l plaintext -d 'Let senders in without encryption, on other machines too; without this and without a key, only those on this one'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s V -l version -d 'Print version'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "status" -d 'Print senders, collectors and counters of the running nf-receiver'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "check" -d 'Read configuration and keys as the service would, say what is in effect, and stop'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "reload" -d 'Make the running nf-receiver take up its configuration, as far as that goes without a restart'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "keygen" -d 'Make a new key: print it, or write it to a file that only its owner may read'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "invite" -d 'Give the sender NAME a key of its own and print a token with which it joins (nf-sender join TOKEN); nobody without that key can take the name. The token holds the key: treat it like a password. Safe to repeat: the token stays the same'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand status" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand status" -l control -d 'Serve, or ask, at this control socket [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand status" -l json -d 'Print one JSON object for programs instead of a table'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand status" -l watch -d 'Print again every second, with rates, until interrupted'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand status" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand check" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand check" -l control -d 'Serve, or ask, at this control socket [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand check" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand reload" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand reload" -l control -d 'Serve, or ask, at this control socket [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand reload" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand keygen" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand keygen" -l control -d 'Serve, or ask, at this control socket [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand keygen" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -l address -d 'Where the sender reaches this receiver [default: this machine\'s name and the port listened on]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -l control -d 'Serve, or ask, at this control socket [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -l renew -d 'Make another key; the one before it stays valid until the next renewal, so that nothing is lost'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -l revoke -d 'Take the key away: the sender is not let in any more'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "status" -d 'Print senders, collectors and counters of the running nf-receiver'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "check" -d 'Read configuration and keys as the service would, say what is in effect, and stop'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "reload" -d 'Make the running nf-receiver take up its configuration, as far as that goes without a restart'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "keygen" -d 'Make a new key: print it, or write it to a file that only its owner may read'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "invite" -d 'Give the sender NAME a key of its own and print a token with which it joins (nf-sender join TOKEN); nobody without that key can take the name. The token holds the key: treat it like a password. Safe to repeat: the token stays the same'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
