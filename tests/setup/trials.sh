#!/bin/bash
# Tries `cargo xtask setup` on fresh systems with awkward beginnings, and prints a table: the beginning,
# the last line that was printed, how long it took, the exit status, and how many of the packages that
# were there before are gone or older. Needs root, mmdebstrap and the network. Each trial is a chroot of
# its own: this computer's packages stay as they are.
#
#   cargo build --package xtask && tests/setup/trials.sh [DIRECTORY [WORD]]
#
# Roots and logs are kept in DIRECTORY (a new one in /var/tmp if none is given). With WORD, only trials
# whose names contain it are run.
set -euo pipefail
if [ "${TRIALS_MOUNTS:-}" != own ]; then
    # Mounts end with the script.
    TRIALS_MOUNTS=own exec unshare --mount "$0" "$@"
fi
top=$(readlink -f "$(dirname "$0")/../..")
xtask=${CARGO_TARGET_DIR:-$top/target}/debug/xtask
place=$(readlink -m "${1:-$(mktemp -d /var/tmp/setup-trials.XXXXXX)}")
only=${2:-}
export TMPDIR=/var/tmp
mkdir -p "$place"

# Makes the minimal root of suite $1, once; the other words are mmdebstrap's.
make_root() {
    [ ! -d "$place/$1" ] || return 0
    mmdebstrap --quiet --variant=minbase --skip=output/dev "${@:2}" "$1" "$place/$1.part" 2>"$place/$1.log" ||
        { cat "$place/$1.log" >&2; return 1; }
    mv "$place/$1.part" "$place/$1"
}

# Runs command $4 in a fresh copy of suite $1's root after preparation $3, and prints the row named $2.
trial() {
    [[ "$1, $2" == *"$only"* ]] || return 0
    local root=$place/now/root log="$place/$1 $2.log" start tenths status=0
    rm -rf --one-file-system "$place/now"
    mkdir -p "$place/now/upper" "$place/now/work" "$root"
    mount -t overlay -o "lowerdir=$place/$1,upperdir=$place/now/upper,workdir=$place/now/work" overlay "$root"
    mount --rbind /dev "$root/dev"
    mount -t proc proc "$root/proc"
    cp /etc/resolv.conf "$root/etc/"
    cp "$xtask" "$root/usr/local/bin/xtask"
    if chroot "$root" sh -ec "export DEBIAN_FRONTEND=noninteractive; $3" >"$log" 2>&1 </dev/null; then
        chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' >"$place/now/before"
        start=$(date +%s%N)
        chroot "$root" env CARGO_TARGET_DIR=/target sh -c "$4" >"$log" 2>&1 </dev/null || status=$?
        tenths=$((($(date +%s%N) - start) / 100000000))
        printf '%s, %s | %s | %d.%d s | %d | %d\n' "$1" "$2" "$(tail -1 "$log")" $((tenths / 10)) $((tenths % 10)) \
            "$status" "$(lost "$root")"
    else
        printf '%s, %s | cannot be prepared: %s\n' "$1" "$2" "$(tail -1 "$log")"
    fi
    umount -lR "$root"
}

# How many packages of before are gone or older in root $1.
lost() {
    local name version now lost=0
    while read -r name version; do
        now=$(chroot "$1" dpkg-query -W -f '${db:Status-Status} ${Version}' "$name" 2>/dev/null) || now=
        case $now in
        "installed "*) chroot "$1" dpkg --compare-versions "${now#installed }" ge "$version" || lost=$((lost + 1)) ;;
        *) lost=$((lost + 1)) ;;
        esac
    done <"$place/now/before"
    echo "$lost"
}

# Read as a whole before it begins.
all() {
    local setup everything backports as_user suite suites
    make_root bookworm
    make_root trixie
    # Ubuntu's keys are a package of Debian 13.
    if [ ! -e "$place/ubuntu-keyring.gpg" ]; then
        chroot "$place/trixie" sh -c 'apt-get -qq update; cd /tmp && apt-get -qq download ubuntu-keyring &&
            dpkg-deb -x ubuntu-keyring_*.deb .; rm -rf /var/lib/apt/lists/*' >"$place/keyring.log" 2>&1
        cp "$place/trixie/tmp/usr/share/keyrings/ubuntu-archive-keyring.gpg" "$place/ubuntu-keyring.gpg" ||
            echo "no keys of Ubuntu: see $place/keyring.log" >&2
    fi
    suites=(bookworm trixie)
    if make_root noble --include=apt --components=main,universe --keyring="$place/ubuntu-keyring.gpg"; then
        suites+=(noble)
    else
        echo "Ubuntu's root cannot be made here: not shown" >&2
    fi

    setup='xtask setup'
    everything='apt-get update && xtask setup'
    backports='sed -n "s/^\(deb .*\) \([a-z]*\) main.*/\1 \2-backports main/p" /etc/apt/sources.list | head -1 >/etc/apt/sources.list.d/backports.list
        apt-get update'
    as_user='setpriv --reuid 1000 --regid 1000 --clear-groups xtask setup'
    echo 'beginning | last line printed | took | exit | packages lost'
    for suite in "${suites[@]}"; do
        trial $suite 'nothing installed' : "$setup"
        trial $suite 'everything installed' "$everything" "$setup"
        trial $suite 'no network' : "unshare --net $setup"
        trial $suite 'everything installed, no network' "$everything" "unshare --net $setup"
        trial $suite 'no room to compile' 'mkdir /target' "mount -t tmpfs -o size=200m tmpfs /target && $setup"
        trial $suite 'no room for packages' 'mkdir /target' "mount -t tmpfs -o size=20m tmpfs /var/cache/apt && $setup"
        trial $suite 'not root, no sudo' : "$as_user"
        trial $suite 'not root, sudo wants a password' \
            'apt-get update; apt-get -y install --no-install-recommends sudo; useradd -u 1000 -G sudo anna' "$as_user"
        trial $suite 'not root, sudo' \
            'apt-get update; apt-get -y install --no-install-recommends sudo; useradd -u 1000 anna; echo "anna ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/anna' "$as_user"
        trial $suite 'a broken program' "$everything; rm /usr/bin/cpio; ln -s /bin/false /usr/bin/cpio" "$setup"
        trial $suite 'a dead third-party source' 'echo "deb http://localhost:9/x y main" >/etc/apt/sources.list.d/dead.list' "$setup"
        trial $suite 'another apt at work for 10 s' "apt-get update; apt-get -y install --no-install-recommends python3-minimal" \
            'python3 -c "import fcntl, time; f = open(\"/var/lib/dpkg/lock-frontend\", \"w\"); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(10)" & sleep 1; '"$setup"
    done
    for suite in bookworm trixie; do
        trial $suite 'qemu-utils from backports' "$backports; apt-get -y install --no-install-recommends -t $suite-backports qemu-utils" "$setup"
        trial $suite 'qemu-utils from backports, source gone' \
            "$backports; apt-get -y install --no-install-recommends -t $suite-backports qemu-utils; rm /etc/apt/sources.list.d/backports.list" "$setup"
        # Only udev of the same version fits it.
        trial $suite 'libudev1 from backports' "$backports; apt-get -y install --no-install-recommends -t $suite-backports libudev1" "$setup"
        trial $suite 'libudev1 from backports, source gone' \
            "$backports; apt-get -y install --no-install-recommends -t $suite-backports libudev1; rm /etc/apt/sources.list.d/backports.list" "$setup"
    done
}

all
