# Sourced by benchmarks of a server.
#
#	touch_memory FOLDER
#
# leaves no memory that nothing uses: what is free holds files, of zeros that no
# disk has, in the folder.  So it is on a server that has run for some days, and
# the kernel gives such memory to who needs it; while that of a virtual machine
# that has just begun, or that was freed, may be its host's, who takes some
# microseconds to give each page of it back, several times what it takes to
# write one.
touch_memory()
{
	free=$(awk '/^MemFree:/ { print $2 }' /proc/meminfo 2>/dev/null) || return 0
	[ "${free:-0}" -gt 1048576 ] || return 0
	zeros=$(mktemp "$1/zeros.XXXXXX")
	truncate -s "${free}K" "$zeros"
	cat "$zeros" >/dev/null
}
