#!/bin/busybox sh
exec tern run --kernel /rig/guest/kernel --initrd /rig/guest/initrd --cmdline "$(busybox cat /rig/guest/cmdline)" "$@"
