for script in /scripts/init-bottom/*; do
	case $script in
	*/ORDER | */tern) continue ;;
	esac
	[ -x "$script" ] && "$script" "$@"
	[ -e /conf/param.conf ] && . /conf/param.conf
done
/scripts/init-bottom/tern "$@"
