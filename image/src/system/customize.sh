# What mmdebstrap runs, with the new system's directory as $1, before it throws that away: the last touches, and out with
# the disk and what boots it. TERN_DISK, TERN_KERNEL, TERN_INITRD and TERN_ABOUT are the files to write, TERN_UUID and TERN_SIZE the
# file system's name and size in bytes. As root of a user namespace it has no rights outside but to these files.
set -eu
root="$1"

# A host of its own, with no mark of the one that it was made on.
echo debian > "$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n::1\tlocalhost ip6-localhost ip6-loopback\n' > "$root/etc/hosts"
rm -f "$root/etc/resolv.conf" "$root/etc/apt/apt.conf.d/99mmdebstrap"
# Empty, each machine makes a name of its own, and the start is no "first boot" with questions.
: > "$root/etc/machine-id"
echo "UUID=$TERN_UUID / ext4 errors=remount-ro 0 1" > "$root/etc/fstab"

# Whoever can reach a console owns the machine anyway: no password, and on the serial and the virtio console not even a question.
chroot "$root" passwd --quiet --delete root
for console in ttyS0 hvc0; do
    override="$root/etc/systemd/system/serial-getty@$console.service.d"
    mkdir -p "$override"
    printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200,57600,38400,9600 - $TERM\n' \
        > "$override/autologin.conf"
done

# The packages have just done what systemd-update-done.service(8) would have each new machine do again.
touch "$root/etc/.updated" "$root/var/.updated"

cat "$root"/boot/vmlinuz-* > "$TERN_KERNEL"
cat "$root"/boot/initrd.img-* > "$TERN_INITRD"
cat "$root/etc/debian_version" > "$TERN_ABOUT"
(cd "$root/boot" && echo vmlinuz-*) >> "$TERN_ABOUT"

# What apt fetches again when it is asked, and what the making has left.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb
rm -f "$root"/var/log/apt/* "$root/var/log/dpkg.log" "$root/var/log/alternatives.log" "$root/var/log/bootstrap.log"

# /proc, /sys and /dev are mounted in there; a second view of the directory is without them. Where nothing can be mounted, nothing
# is. Inode tables are holes, and marked as zeroed: no machine spends its first minutes on them.
if unshare --mount true 2>/dev/null; then alone="unshare --mount"; else alone=; fi
$alone sh -eu -c '
    view="$1/mnt"
    mount --bind "$1" "$view" 2>/dev/null || { [ ! -e "$1/proc/self" ] && view="$1"; }
    mke2fs -q -F -t ext4 -L root -U "$TERN_UUID" -E root_owner=0:0,lazy_itable_init=0,lazy_journal_init=1 \
        -d "$view" "$TERN_DISK" "$((TERN_SIZE / 1024))"
' sh "$root"
