#!/bin/busybox sh
# The rig's first process: loads KVM, runs the command on the first serial port, and tells its status on the third. The
# second one is the kernel's console.
export PATH=/sbin:/usr/sbin:/bin:/usr/bin HOME=/root TERM=vt102
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t tmpfs tmpfs /tmp
# Tests that are a person at a terminal make one, and disks' overlays are files that outlive no machine.
busybox mkdir -p /dev/pts /var/tmp
busybox mount -t devpts devpts /dev/pts
for module in $(busybox cat /rig/modules/order); do
    busybox insmod "/rig/modules/$module"
done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
# Output is for programs as much as for people: no carriage returns.
busybox stty -onlcr
busybox sh /rig/command
status=$?
# Opening and closing waits until everything is written.
echo "$status" >/dev/ttyS2
exec <&- >&- 2>&-
busybox poweroff -f
