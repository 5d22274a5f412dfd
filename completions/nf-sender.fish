# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_nf_sender_global_optspecs
    string join \n c/config= l/listen= r/receiver= k/key= key-file= cipher= plaintext spool= id= control= h/help V/version
end

function __fish_nf_sender_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_nf_sender_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_nf_sender_using_subcommand
    set -l cmd (__fish_nf_sender_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c nf-sender -n "__fish_nf_sender_needs_command" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-sender -n "__fish_nf_sender_needs_command" -s l -l listen -d 'Listen for datagrams on this UDP address; may be repeated; sockets from systemd replace it [default: [::]:2055]' -r
complete -c nf-sender -n "__fish_nf_sender_needs_command" -s r -l receiver -d 'Connect to this nf-receiver; may be repeated: the first that answers, in order' -r
complete -c nf-sender -n "__fish_nf_sender_needs_command" -s k -l key -d 'Use this shared key, or passphrase, of both sides; - reads it from standard input. Other users can read the command line: --key-file, or the systemd credential `key`, is safer' -r
complete -c nf-sender -n "__fish_nf_sender_needs_command" -l key-file -d 'Use the shared key in this file, which only its owner may read; keygen makes keys [default: the systemd credential `key`, if it exists]' -r
complete -c nf-sender -n "__fish_nf_sender_needs_command" -l cipher -d 'Encrypt with blowfish (as the original), chacha20-poly1305 or aes-256-gcm [default: blowfish]' -r
complete -c nf-sender -n "__fish_nf_sender_needs_command" -l spool -d 'Queue datagrams in this directory [default: $STATE_DIRECTORY, else /var/lib/nf-sender]' -r
complete -c nf-sender -n "__fish_nf_sender_needs_command" -l id -d 'The name of this sender at the receiver [default: the host name]' -r
complete -c nf-sender -n "__fish_nf_sender_needs_command" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-sender/control.sock]' -r
complete -c nf-sender -n "__fish_nf_sender_needs_command" -l plaintext -d 'Send without encryption, to other machines too. Without this and without a key, nf-sender sends to this machine only'
complete -c nf-sender -n "__fish_nf_sender_needs_command" -s h -l help -d 'Print help'
complete -c nf-sender -n "__fish_nf_sender_needs_command" -s V -l version -d 'Print version'
complete -c nf-sender -n "__fish_nf_sender_needs_command" -f -a "status" -d 'Print state, queue and counters of the running nf-sender'
complete -c nf-sender -n "__fish_nf_sender_needs_command" -f -a "reconnect" -d 'Make the running nf-sender reconnect now: it tries its receivers in order, even while it is connected'
complete -c nf-sender -n "__fish_nf_sender_needs_command" -f -a "check" -d 'Validate configuration and keys as the service would, and print the settings in effect'
complete -c nf-sender -n "__fish_nf_sender_needs_command" -f -a "reload" -d 'Make the running nf-sender reload its configuration, as far as possible without a restart'
complete -c nf-sender -n "__fish_nf_sender_needs_command" -f -a "keygen" -d 'Generate a key, and print it or write it to a file that only its owner may read'
complete -c nf-sender -n "__fish_nf_sender_needs_command" -f -a "join" -d 'Write the settings of a token of `nf-receiver invite` (receiver, id, key and cipher) into the configuration, and reload a running nf-sender; safe to repeat'
complete -c nf-sender -n "__fish_nf_sender_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand status" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-sender -n "__fish_nf_sender_using_subcommand status" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-sender/control.sock]' -r
complete -c nf-sender -n "__fish_nf_sender_using_subcommand status" -l json -d 'Print one JSON object instead of a table'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand status" -l watch -d 'Repeat every second, with rates, until interrupted'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand status" -s h -l help -d 'Print help'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand reconnect" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-sender -n "__fish_nf_sender_using_subcommand reconnect" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-sender/control.sock]' -r
complete -c nf-sender -n "__fish_nf_sender_using_subcommand reconnect" -s h -l help -d 'Print help'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand check" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-sender -n "__fish_nf_sender_using_subcommand check" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-sender/control.sock]' -r
complete -c nf-sender -n "__fish_nf_sender_using_subcommand check" -s h -l help -d 'Print help'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand reload" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-sender -n "__fish_nf_sender_using_subcommand reload" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-sender/control.sock]' -r
complete -c nf-sender -n "__fish_nf_sender_using_subcommand reload" -s h -l help -d 'Print help'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand keygen" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-sender -n "__fish_nf_sender_using_subcommand keygen" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-sender/control.sock]' -r
complete -c nf-sender -n "__fish_nf_sender_using_subcommand keygen" -s h -l help -d 'Print help'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand join" -s c -l config -d 'Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml' -r -F
complete -c nf-sender -n "__fish_nf_sender_using_subcommand join" -l control -d 'Path of the control socket, of the service and of commands that ask it [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-sender/control.sock]' -r
complete -c nf-sender -n "__fish_nf_sender_using_subcommand join" -s h -l help -d 'Print help'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand help; and not __fish_seen_subcommand_from status reconnect check reload keygen join help" -f -a "status" -d 'Print state, queue and counters of the running nf-sender'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand help; and not __fish_seen_subcommand_from status reconnect check reload keygen join help" -f -a "reconnect" -d 'Make the running nf-sender reconnect now: it tries its receivers in order, even while it is connected'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand help; and not __fish_seen_subcommand_from status reconnect check reload keygen join help" -f -a "check" -d 'Validate configuration and keys as the service would, and print the settings in effect'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand help; and not __fish_seen_subcommand_from status reconnect check reload keygen join help" -f -a "reload" -d 'Make the running nf-sender reload its configuration, as far as possible without a restart'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand help; and not __fish_seen_subcommand_from status reconnect check reload keygen join help" -f -a "keygen" -d 'Generate a key, and print it or write it to a file that only its owner may read'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand help; and not __fish_seen_subcommand_from status reconnect check reload keygen join help" -f -a "join" -d 'Write the settings of a token of `nf-receiver invite` (receiver, id, key and cipher) into the configuration, and reload a running nf-sender; safe to repeat'
complete -c nf-sender -n "__fish_nf_sender_using_subcommand help; and not __fish_seen_subcommand_from status reconnect check reload keygen join help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
