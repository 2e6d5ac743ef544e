#!/bin/sh
# Run by initramfs-tools before it makes way for the system: what its login is to know of the terminal, systemd.unit(5).
[ "$1" = prereqs ] && exit 0
folder=/run/systemd/system/serial-getty@ttyS0.service.d
mkdir -p "$folder"
cat /tern/terminal.conf >"$folder/terminal.conf"
