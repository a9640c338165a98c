# Sourced by the benchmarks: how they print, and how they end.
#
#	line WHAT VALUE PEER RATIO MOST|LEAST MUST
#
# prints a figure and whether it is what it must be; RATIO may be - where there
# is nothing to compare with, and MUST - where nothing is demanded.
# A figure that falls short makes the benchmark fail, once all are printed.
shorts=0

heading()
{
	printf '\n%-52s %14s %14s %9s %9s\n' "$1" value "${2:-peer}" ratio must
}

line()
{
	awk -v what="$1" -v value="$2" -v peer="$3" -v ratio="$4" -v side="$5" -v must="$6" 'BEGIN {
		judged = must != "-" && ratio != "-"
		ok = !judged || (side == "MOST" ? ratio + 0 <= must + 0 : ratio + 0 >= must + 0)
		printf "%-52s %14s %14s %9s %9s %s\n", what, value, peer,
			ratio == "-" ? "-" : sprintf("%.2f", ratio),
			must == "-" ? "-" : (side == "MOST" ? "<= " : ">= ") must,
			judged ? (ok ? "ok" : "short") : ""
		exit !ok
	}' || shorts=$((shorts + 1))
}

quotient() { awk -v a="$1" -v b="$2" 'BEGIN { if (b + 0 > 0) printf "%.4f", a / b; else printf "-" }'; }

# The middle one of some numbers.
median() { printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
