#!/bin/busybox sh
# The first process of Tern's tiny guest: mounts what a shell needs, starts one on the console, and
# powers the machine off when it ends. Every program it starts costs milliseconds on a software
# engine, so it uses what the shell itself can do.

# Loads the drivers for what is on a bus, which its devices call by these names.
drivers() {
    set --
    for file in /sys/bus/"$bus"/devices/*/modalias; do
        [ -e "$file" ] && read -r name <"$file" && set -- "$@" "$name"
    done
    [ $# = 0 ] || busybox modprobe -qa "$@"
}
if [ "$1" = drivers ]; then
    [ "$2" = later ] && busybox renice -n 19 -p $$
    bus=pci drivers
    # What the functions of the bus turned out to be.
    bus=virtio drivers
    exit
fi

# A command in place of the shell: `tern` has brought along what runs it, and ends the machine.
if [ -x /tern/agent ]; then
    export PATH=/sbin:/usr/sbin:/bin:/usr/bin
    busybox mount -a
    echo tern >/proc/sys/kernel/hostname
    "$0" drivers
    /tern/agent
    busybox umount -a -r 2>/dev/null
    exec busybox poweroff -f
fi

# The job control that is needed below wants a session with a terminal.
[ "$1" = session ] || exec busybox setsid -c "$0" session

# A serial port does not tell the size of the terminal behind it. Whoever starts the guest may, as
# COLUMNS= and LINES= on the kernel's command line, which Linux hands on as the environment.
export COLUMNS=${COLUMNS:-80} LINES=${LINES:-24}
export PATH=/sbin:/usr/sbin:/bin:/usr/bin HOME=/root TERM=vt102 PS1='tern:\w# '

busybox mount -a
echo tern >/proc/sys/kernel/hostname
# Full-screen programs ask the terminal itself.
busybox stty cols "$COLUMNS" rows "$LINES" </dev/console

read -r _ _ release _ </proc/version

# A source of random numbers, which every machine has, must not keep the shell waiting: alone, its drivers are loaded when
# there is nothing else to do. Another kernel than the one that this came with has no drivers here.
devices=
[ -d "/lib/modules/$release" ] && for file in /sys/bus/pci/devices/*/modalias; do
    [ -e "$file" ] && read -r name <"$file"
    case $name in
    pci:v00001AF4d00001044*) devices=${devices:-later} ;;
    pci:v00001AF4*) devices=now ;;
    esac
done
case $devices in
now) "$0" drivers ;;
later) ("$0" drivers later &) ;;
esac

# busybox's poweroff, halt and reboot ask the first process, with these signals. A halted machine
# would only stand there, so halt is a power-off.
trap 'exec busybox poweroff -f' USR1 USR2
trap 'exec busybox reboot -f' TERM

echo "Linux $release, busybox shell. \`poweroff\` or \`exit\` ends the machine."

# In a session of its own the shell owns the terminal. It runs in the background because only the builtin
# `wait` lets the traps above in at once; under job control, because without it a background job ignores
# Ctrl-C, and so does all that it starts; and as a child of the job, because that, leading a group of
# processes, cannot begin a session.
set -m
{ busybox setsid -c sh </dev/console; :; } &
# The terminal is the shell's now, and job control here cannot start anything any more, only become it.
{ wait $!; exec busybox poweroff -f; }
