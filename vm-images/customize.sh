#!/bin/sh
# Makes a bootable image of a freshly unpacked Debian root.
#
# mmdebstrap runs it as its last hook: customize.sh ROOT. Beside this script lie rootfs/ (files to copy in), initramfs-init,
# kernels.lock ("ROLE RELEASE" lines, may be empty) and out/, where the results go:
#   root.ext4            the root file system
#   vmlinuz-ROLE         a kernel with sched_ext (role scx) and one without it (role plain)
#   initramfs-ROLE.cpio  busybox and the modules that reach the disk and the network
#   manifest             "package NAME VERSION" and "kernel ROLE RELEASE", what was really used
#   virtiofsd/           the file server of `vm vng`, with its libraries
set -eu
root=$1
here=$(dirname "$0")
out=$here/out

fail() {
    echo "customize.sh: $*" >&2
    exit 1
}

# Leaves the unpacked packages of kernel release $1 in $root/tmp/kernel; false if the mirror has no such kernel.
unpack_kernel() {
    rm -rf "$root/tmp/kernel" "$root/tmp/debs"
    mkdir -p "$root/tmp/kernel" "$root/tmp/debs"
    packages=$(chroot "$root" apt-cache search --names-only "^linux-(image|binary|modules|base)-$(echo "$1" | sed 's/[.+]/\\&/g')\$" |
        cut -d' ' -f1)
    [ -n "$packages" ] || return 1
    # shellcheck disable=SC2086
    chroot "$root" sh -c 'cd /tmp/debs && apt-get -q download "$@"' sh $packages >&2 ||
        fail "cannot download the packages of kernel $1"
    for deb in "$root"/tmp/debs/*.deb; do
        chroot "$root" dpkg-deb -x "/tmp/debs/${deb##*/}" /tmp/kernel
    done
    rm -rf "$root/tmp/debs"
}

# Whether the unpacked kernel $2 suits role $1.
suits() {
    config=$root/tmp/kernel/usr/lib/modules/$2/config
    [ -e "$config" ] || config=$root/tmp/kernel/boot/config-$2
    [ -e "$config" ] || fail "kernel $2 comes without its configuration"
    if grep -q '^CONFIG_SCHED_CLASS_EXT=y' "$config"; then
        [ "$1" = scx ]
    else
        [ "$1" = plain ]
    fi
}

# The releases of the mirror's kernels for role $1, best first: any for scx, the stable suite's own for plain.
candidates() {
    case $1 in
    scx) chroot "$root" apt-cache search --names-only '^linux-image-[0-9].*cloud-amd64$' | cut -d' ' -f1 ;;
    plain) chroot "$root" apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' ;;
    esac | sed -n 's/^linux-image-\([0-9]\)/\1/p' | sort -rV
}

# Installs a kernel for role $1: the locked release if the mirror still has it, else the best that suits.
install_kernel() {
    for release in $(sed -n "s/^$1 //p" "$here/kernels.lock") $(candidates "$1"); do
        unpack_kernel "$release" || continue
        suits "$1" "$release" || continue
        keep_kernel "$1" "$release"
        return
    done
    fail "no kernel of the mirror suits the role '$1'"
}

keep_kernel() {
    role=$1
    release=$2
    cp -a "$root/tmp/kernel/usr/lib/modules/$release" "$root/usr/lib/modules/"
    cat "$root/tmp/kernel/boot/vmlinuz-$release" >"$out/vmlinuz-$role" 2>/dev/null ||
        cat "$root/tmp/kernel/usr/lib/modules/$release/vmlinuz" >"$out/vmlinuz-$role"
    rm -rf "$root/tmp/kernel" "$root/usr/lib/modules/$release/vmlinuz"
    # Guests are slow: unpack once here what every boot loads.
    boot='virtio_blk virtio_net ext4'
    chroot "$root" depmod "$release"
    for module in $boot $(cat "$here/rootfs/etc/vm-modules"); do
        chroot "$root" modprobe -S "$release" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\.xz\).*/\1/p'
    done | sort -u | while read -r file; do
        chroot "$root" xz -d "$file"
    done
    chroot "$root" depmod "$release"
    initramfs "$role" "$release" "$boot"
    echo "kernel $role $release" >>"$out/manifest"
}

# The initramfs of role $1, kernel $2, with the modules $3 in the order of loading.
initramfs() {
    dir=$root/tmp/initramfs
    mkdir -p "$dir/bin" "$dir/modules" "$dir/proc" "$dir/sys" "$dir/dev" "$dir/root"
    cp "$root/usr/bin/busybox" "$dir/bin/busybox"
    cp "$here/initramfs-init" "$dir/init"
    chmod 755 "$dir/init"
    for module in $3; do
        chroot "$root" modprobe -S "$2" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++' | while read -r file; do
        cp "$root$file" "$dir/modules/"
        echo "${file##*/}" >>"$dir/modules/order"
    done
    (cd "$dir" && find . | LC_ALL=C sort | cpio --quiet -o -H newc --reproducible) >"$out/initramfs-$1.cpio"
    rm -rf "$dir"
}

settings() {
    cp -R --no-preserve=ownership "$here/rootfs/." "$root/"
    chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash --password '*' user
    chroot "$root" usermod --password '*' root
    rm -f "$root"/etc/ssh/ssh_host_*
    mkdir -p "$root/usr/lib/modules" "$root/etc/scx_mosix" "$root/run/sshd"
}

# The vhost-user file server, with the libraries that it was linked with, to run on whatever host this is.
virtiofsd() {
    mkdir -p "$out/virtiofsd"
    cp -L "$root/usr/libexec/virtiofsd" "$out/virtiofsd/virtiofsd.bin"
    chroot "$root" ldd /usr/libexec/virtiofsd | grep -o '/[^ ]*' | while read -r library; do
        cp -L "$root$library" "$out/virtiofsd/"
    done
    cat >"$out/virtiofsd/virtiofsd" <<'END'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here"/ld-linux*.so.* --library-path "$here" "$here/virtiofsd.bin" "$@"
END
    chmod 755 "$out/virtiofsd/virtiofsd"
    # Whoever asked for the image clears up, and is somebody else if this is root in a user namespace only.
    chmod -R a+rwX "$out/virtiofsd"
}

# A real C project for the bench: the sources of Debian's zstd.
bench_sources() {
    mkdir -p "$root/tmp/source" "$root/usr/src/zstd"
    chroot "$root" sh -c 'cd /tmp/source && apt-get -qq source --download-only zstd' >&2 ||
        fail "cannot download the sources of zstd"
    tar -C "$root/usr/src/zstd" --strip-components=1 -xf "$root"/tmp/source/*.orig.tar.*
    rm -rf "$root/tmp/source" "$root/usr/src/zstd/tests" "$root/usr/src/zstd/doc"
}

: >"$out/manifest"
settings
bench_sources
install_kernel scx
install_kernel plain
virtiofsd
# shellcheck disable=SC2016
chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' | LC_ALL=C sort | sed 's/^/package /' >>"$out/manifest"

chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/usr/share/doc/* "$root"/usr/share/man/* \
    "$root"/usr/share/locale/* "$root"/tmp/* "$root"/etc/apt/preferences.d/scx_mosix-lock "$root/etc/resolv.conf" "$root/etc/hostname"

# A second view of the root, without what is mounted in it now.
view=$out/view
mkdir "$view"
mount --bind "$root" "$view"
size_mib=$(($(du -sm "$view" | cut -f1) + 1024))
truncate -s "${size_mib}M" "$out/root.ext4"
# A fixed UUID and hash seed: the same packages give the same file system.
/sbin/mkfs.ext4 -q -F -d "$view" -m 0 -L scx_mosix -U 53435853-4d4f-5349-5800-000000000001 \
    -E hash_seed=53435853-4d4f-5349-5800-000000000002 "$out/root.ext4"
umount "$view"
rmdir "$view"
chmod a+r "$out"/*
