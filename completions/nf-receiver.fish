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
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s l -l listen -d 'Listen for connections on this TCP address; may be repeated; sockets from systemd replace it [default: [::]:2055]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s C -l collector -d 'Deliver to this collector by UDP; may be repeated to deliver to several [default: 127.0.0.1:9995]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -l source -d 'Source address of delivered datagrams: this machine\'s own, with a port for each exporter, or the exporter\'s address and port, which needs CAP_NET_RAW [default: own]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s k -l key -d 'Use this shared key, or passphrase, of both sides; - reads it from standard input. Other users can read the command line: --key-file, or the systemd credential `key`, is safer' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -l key-file -d 'Use the shared key in this file, which only its owner may read; keygen makes keys [default: the systemd credential `key`, if it exists]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -l state -d 'Store the delivered position of each sender in this directory [default: $STATE_DIRECTORY, else /var/lib/nf-receiver]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -l plaintext -d 'Accept senders without encryption, from other machines too. Without this and without a key, nf-receiver accepts senders on this machine only'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -s V -l version -d 'Print version'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "status" -d 'Print senders, collectors and counters of the running nf-receiver'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "check" -d 'Validate configuration and keys as the service would, and print the settings in effect'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "reload" -d 'Make the running nf-receiver reload its configuration, as far as possible without a restart'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "keygen" -d 'Generate a key, and print it or write it to a file that only its owner may read'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "invite" -d 'Give the sender NAME a key of its own and print a token for `nf-sender join`. Only the holder of that key can use the name. The token contains the key: treat it like a password. Safe to repeat: the token stays the same'
complete -c nf-receiver -n "__fish_nf_receiver_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand status" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand status" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand status" -l json -d 'Print one JSON object instead of a table'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand status" -l watch -d 'Repeat every second, with rates, until interrupted'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand status" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand check" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand check" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand check" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand reload" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand reload" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand reload" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand keygen" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand keygen" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand keygen" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -l address -d 'Address of this receiver for the sender [default: the host name and the listening port]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]' -r
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -l renew -d 'Replace the key; the previous one stays valid until the next renewal, so that the sender is never locked out'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -l revoke -d 'Remove the key: the sender is rejected from then on'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand invite" -s h -l help -d 'Print help'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "status" -d 'Print senders, collectors and counters of the running nf-receiver'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "check" -d 'Validate configuration and keys as the service would, and print the settings in effect'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "reload" -d 'Make the running nf-receiver reload its configuration, as far as possible without a restart'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "keygen" -d 'Generate a key, and print it or write it to a file that only its owner may read'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "invite" -d 'Give the sender NAME a key of its own and print a token for `nf-sender join`. Only the holder of that key can use the name. The token contains the key: treat it like a password. Safe to repeat: the token stays the same'
complete -c nf-receiver -n "__fish_nf_receiver_using_subcommand help; and not __fish_seen_subcommand_from status check reload keygen invite help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
