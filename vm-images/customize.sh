#!/bin/sh
# Makes a bootable image of a freshly unpacked Debian root.
#
# mmdebstrap runs it as its last hook: customize.sh ROOT. Beside this script lie rootfs/ (files to copy in), initramfs-init,
# kernels.lock ("ROLE RELEASE" lines, may be empty) and out/, where the results go:
#   root.ext4            the root file system
#   root.tar             the same without kernel modules, for nodes that are namespaces
#   vmlinuz-ROLE         a kernel with sched_ext (role scx) and one without it (role plain)
#   initramfs-ROLE.cpio  busybox and the modules that reach the disk and the network
#   manifest             "package NAME VERSION" and "kernel ROLE RELEASE", what was really used
#   virtiofsd/           the file server of `vm vng`, with its libraries
#   qemu/                the emulator and qemu-img, with their libraries and firmware
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

# Unpacks the packages $@ in $root/tmp/unpacked, with the dependencies that the root lacks. They are
# not installed, because guests do not need them.
unpack() {
    mkdir -p "$root/tmp/unpacked" "$root/tmp/debs/partial"
    chroot "$root" apt-get -qq -y -o Dir::Cache::archives=/tmp/debs --no-install-recommends --download-only install "$@" >&2 ||
        fail "cannot download the packages of $*"
    for deb in "$root"/tmp/debs/*.deb; do
        chroot "$root" dpkg-deb -x "/tmp/debs/${deb##*/}" /tmp/unpacked
        # shellcheck disable=SC2016
        chroot "$root" dpkg-deb -W --showformat 'package ${Package} ${Version}\n' "/tmp/debs/${deb##*/}" >>"$root/tmp/versions"
    done
    rm -rf "$root/tmp/debs"
}

# Copies program $2 of the root to $out/$1 with the libraries that it is linked with. A script beside
# them starts it by its own loader with the options $3, so it runs on any host.
portable() {
    place=$out/$1
    name=${2##*/}
    mkdir -p "$place"
    cp -L "$root$2" "$place/$name.bin"
    libraries=$(chroot "$root" env LD_LIBRARY_PATH=/tmp/unpacked/usr/lib/x86_64-linux-gnu ldd "$2")
    case $libraries in *'not found'*) fail "libraries of $2 are missing: $libraries" ;; esac
    echo "$libraries" | grep -o '/[^ ]*' | while read -r library; do
        cp -L "$root$library" "$place/"
    done
    cat >"$place/$name" <<END
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
exec "\$here"/ld-linux*.so.* --library-path "\$here" "\$here/$name.bin" $3 "\$@"
END
    chmod 755 "$place/$name"
    # The user who asked for the image removes it. If this is root of a user namespace only, that is
    # another user.
    chmod -R a+rwX "$place"
}

# The emulator that boots the guests, and what it needs of its firmware.
qemu() {
    unpack qemu-system-x86 qemu-utils
    bin=/tmp/unpacked/usr/bin
    share=$root/tmp/unpacked/usr/share
    mkdir -p "$out/qemu/firmware"
    cp "$share"/seabios/bios-256k.bin "$share"/seabios/bios-microvm.bin "$share"/qemu/kvmvapic.bin \
        "$share"/qemu/linuxboot.bin "$share"/qemu/linuxboot_dma.bin "$share"/qemu/pvh.bin "$out/qemu/firmware/"
    # shellcheck disable=SC2016
    portable qemu $bin/qemu-system-x86_64 '-L "$here/firmware"'
    portable qemu $bin/qemu-img ''
    rm -rf "$root/tmp/unpacked"
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
portable virtiofsd /usr/libexec/virtiofsd ''
qemu
# shellcheck disable=SC2016
chroot "$root" dpkg-query -W -f 'package ${Package} ${Version}\n' >>"$root/tmp/versions"
LC_ALL=C sort "$root/tmp/versions" >>"$out/manifest"

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
tar -C "$view" --numeric-owner --xattrs --exclude='./usr/lib/modules/*' -cf "$out/root.tar" .
umount "$view"
rmdir "$view"
chmod a+r "$out"/*
