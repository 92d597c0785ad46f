#!/bin/sh
# Prepares apt in a Debian root that is about to be filled. mmdebstrap runs it as its first hook: sources.sh ROOT.
# Beside it lies lock-pins: apt preferences for the locked versions.
set -eu
root=$1
here=$(dirname "$0")

cp "$here/lock-pins" "$root/etc/apt/preferences.d/scx_mosix-lock"

# mmdebstrap's own choice of mirror lacks the suite with the newest kernels.
lists=$(find "$root/etc/apt" -name '*.list')
# shellcheck disable=SC2086
if ! cat $lists | grep -q trixie-backports; then
    cat $lists | sed -n 's/ trixie main.*/ trixie-backports main/p' >"$root/etc/apt/sources.list.d/backports.list"
fi

# For the sources that the bench builds.
find "$root/etc/apt" -name '*.list' -exec cat {} + | sed -n 's/^deb \(.* trixie main\).*/deb-src \1/p' \
    >"$root/etc/apt/sources.list.d/source.list"
