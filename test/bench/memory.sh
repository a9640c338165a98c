# Sourced by benchmarks of a server: how memory is before they measure.
#
#	restart_in_huge_pages FOLDER
#
# starts the cluster in the folder anew, and has it find huge pages for its shared
# memory, as PostgreSQL's manual has it where that is large; where this user may
# not do so, or there are not as many, it does without.  Says which.
# release_huge_pages gives them back, once that server has ended.
huge_pages_setting=/proc/sys/vm/nr_hugepages
huge_pages_added=0

# Those that nobody has or was promised.
huge_pages_free()
{
	awk '/^HugePages_Free:/ { free = $2 } /^HugePages_Rsvd:/ { promised = $2 } END { print free - promised }' /proc/meminfo
}

# So many more, or as many of these as there are; less, where that is below 0.
add_huge_pages()
{
	huge_pages_before=$(cat "$huge_pages_setting")
	{ echo $((huge_pages_before + $1)) >"$huge_pages_setting"; } 2>/dev/null || return 0
	huge_pages_added=$((huge_pages_added + $(cat "$huge_pages_setting") - huge_pages_before))
}

reserve_huge_pages()
{
	if [ -w "$huge_pages_setting" ] &&
		huge_pages_wanted=$(cd "$1" && "$cluster" as "$bindir/postgres" -D data -C shared_memory_size_in_huge_pages) &&
		[ "$huge_pages_wanted" -gt 0 ]; then
		huge_pages_missing=$((huge_pages_wanted - $(huge_pages_free)))
		[ "$huge_pages_missing" -le 0 ] || add_huge_pages "$huge_pages_missing"
		if [ "$(huge_pages_free)" -ge "$huge_pages_wanted" ]; then
			echo "shared memory: $huge_pages_wanted huge pages"
			return
		fi
	fi
	release_huge_pages
	echo "shared memory: no huge pages"
}

restart_in_huge_pages()
{
	(cd "$1" && "$cluster" as "$bindir/pg_ctl" -D data -s -w -t 300 stop >pg_ctl.log 2>&1)
	reserve_huge_pages "$1"
	(cd "$1" && "$cluster" as "$bindir/pg_ctl" -D data -l log -s -w -t 300 start >pg_ctl.log 2>&1) ||
		{ cat "$1/pg_ctl.log" "$1/log" >&2; exit 1; }
}

release_huge_pages()
{
	[ "$huge_pages_added" = 0 ] || add_huge_pages $((-huge_pages_added))
	[ "$huge_pages_added" = 0 ] || echo "could not give $huge_pages_added huge pages back" >&2
}

#	touch_memory FOLDER
#
# leaves no memory that nothing uses: what is free holds files, of zeros that no
# disk has, in the folder, which is on one.  So it is on a server that has run for
# some days, and the kernel gives such memory to who needs it; while that of a
# virtual machine that has just begun, or that was freed, may be its host's, who
# takes some microseconds to give each page of it back, several times what it
# takes to write one.
touch_memory()
{
	touch_free=$(awk '/^MemFree:/ { print $2 }' /proc/meminfo 2>/dev/null) || return 0
	[ "${touch_free:-0}" -gt 1048576 ] || return 0
	touch_zeros=$(mktemp "$1/zeros.XXXXXX") && truncate -s "${touch_free}K" "$touch_zeros" &&
		cat "$touch_zeros" >/dev/null || echo "memory that is free could not be touched first" >&2
}
