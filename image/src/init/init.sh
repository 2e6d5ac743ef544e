#!/bin/busybox sh
# The first process of Tern's tiny guest: mounts what a shell needs, starts one on the console, and
# powers the machine off when it ends. Every program it starts costs milliseconds on a software
# engine, so it uses what the shell itself can do.

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

# busybox's poweroff, halt and reboot ask the first process, with these signals. A halted machine
# would only stand there, so halt is a power-off.
trap 'exec busybox poweroff -f' USR1 USR2
trap 'exec busybox reboot -f' TERM

read -r _ _ release _ </proc/version
echo "Linux $release, busybox shell. \`poweroff\` or \`exit\` ends the machine."

# In a session of its own the shell owns the terminal. It runs in the background because only the builtin
# `wait` lets the traps above in at once; under job control, because without it a background job ignores
# Ctrl-C, and so does all that it starts; and as a child of the job, because that, leading a group of
# processes, cannot begin a session.
set -m
{ busybox setsid -c sh </dev/console; :; } &
# The terminal is the shell's now, and job control here cannot start anything any more, only become it.
{ wait $!; exec busybox poweroff -f; }
