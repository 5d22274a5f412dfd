#!/bin/sh
# Runs as root in a new mount namespace and does what boot.sh does, with the same arguments, within a user namespace of the
# machine's own, to which the caller gives all users: user.max_user_namespaces is a limit of each user namespace, and 0 in this one.
set -eu
lower=$2 upper=$3 work=$4 root=$5

mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"
# A program has the rights of root only if it was started by a user that is mapped.
limited='echo 0 > /proc/sys/user/max_user_namespaces
    exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child sh "$@"'
exec unshare --user sh -euc '
    until grep -q . /proc/self/gid_map; do sleep 0.01; done
    exec sh -euc "$@"
' sh "$limited" sh "$(dirname "$0")/boot.sh" "$@"
