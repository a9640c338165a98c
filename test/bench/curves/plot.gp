# The curves: -e "out='docs/performance'", the folder of the tables
set datafile separator "\t"
set terminal svg size 720,400 font 'sans-serif,12' background '#ffffff'
set key outside right top
set grid xtics ytics lc rgb '#dddddd'
set border 3
set tics nomirror
set logscale x

table(name) = out.'/'.name.'.tsv'

set output out.'/scoring.svg'
set title 'scoring: time per candidate by number of candidates'
set xlabel 'candidates'
set ylabel 'ns per candidate'
set format x '10^{%T}'
set yrange [0:*]
set xrange [700:*]
plot table('scoring') using 1:2 with linespoints title 'limaml\_score, whole statement' lc rgb '#0060b0' dt 2 pt 6, \
     table('scoring') using 1:3 with linespoints title 'without its start' lc rgb '#0060b0' pt 7, \
     table('scoring') using 1:4 with linespoints title 'bare query, whole statement' lc rgb '#999999' dt 2 pt 6, \
     table('scoring') using 1:5 with linespoints title 'without its start' lc rgb '#999999' pt 7

set output out.'/entities.svg'
set xrange [7000:*]
set title 'full refresh by one process: time per entity of 20 rows by number of entities'
set xlabel 'entities'
set ylabel 'µs per entity'
plot table('entities') using 1:2 with linespoints title 'refresh' lc rgb '#0060b0' pt 7

set output out.'/memory.svg'
set title 'full refresh by one process: memory of its own by number of entities'
set ylabel 'MB'
plot table('entities') using 1:3 with linespoints title 'at most' lc rgb '#0060b0' pt 7, \
     table('entities') using 1:4 with lines title 'limaml.work\_mem' lc rgb '#999999' dt 2

set output out.'/rows.svg'
set title 'full refresh by one process: time per row by number of rows of an entity'
set xlabel 'rows of an entity'
set ylabel 'µs per row'
set format x '%g'
set xtics (5, 20, 50, 100, 200, 500)
set xrange [4:600]
plot table('rows') using 1:2 with linespoints title 'all of the time' lc rgb '#0060b0' dt 2 pt 6, \
     table('rows') using 1:3 with linespoints title 'without an entity itself' lc rgb '#0060b0' pt 7

# Rooflines: a kernel has a colour, a shape its form, and a single row is hollow;
# the last kernel has no more than one.
set terminal svg size 800,520 font 'sans-serif,12' background '#ffffff'
set xlabel 'operations per byte that must be touched'
set ylabel 'GFLOP/s'
set logscale xy
set xtics autofreq
set xrange [0.05:32]
set format '%g'
set samples 400
kernels = 'multiply layer layer_tanh layer_back layer_tangent layer_back_tangent first_layer last_layer last_layer_back activate_tanh losses sigmoid sum_rows add_pairs'
colors = '#0060b0 #70b0e0 #00a0a0 #d08000 #60a060 #b0d060 #c03030 #a060a0 #e090c0 #806040 #444444 #999999 #e0c000 #ff7f50'
# the lines of a kernel in a shape, of one row or of many
pick(path, shape, kernel, rows) = sprintf("< awk -F '\\t' '$1 == \"%s\" && $2 == \"%s\" && $3 == \"%s\" && $4 %s 1' %s", path, shape, kernel, rows, table('roofline'))
least(a, b) = a < b ? a : b
do for [path in system("cut -f 1 ".table('roofs'))] {
	roof(column) = real(system(sprintf("awk -F '\\t' '$1 == \"%s\" { print $%d }' %s", path, column, table('roofs'))))
	peak = roof(2)
	first = roof(3)
	second = roof(4)
	set yrange [0.3:2*peak]
	set output out.'/roofline-'.path.'.svg'
	set title path.': kernels under what multiply-adds and caches allow'
	plot least(peak, x * first) with lines lc rgb '#000000' title 'multiply-adds, first cache', \
	     least(peak, x * second) with lines lc rgb '#000000' dt 2 title 'multiply-adds, second cache', \
	     for [i=1:words(kernels)] 1/0 with points pt 7 lc rgb word(colors, i) title word(kernels, i) noenhanced, \
	     for [i=1:words(kernels)-1] pick(path, 'small', word(kernels, i), '>') using ($5/$6):8 notitle lc rgb word(colors, i) pt 7 ps 0.8, \
	     for [i=1:words(kernels)-1] pick(path, 'large', word(kernels, i), '>') using ($5/$6):8 notitle lc rgb word(colors, i) pt 5 ps 0.8, \
	     for [i=1:words(kernels)] pick(path, 'small', word(kernels, i), '==') using ($5/$6):8 notitle lc rgb word(colors, i) pt 6 ps 0.8, \
	     for [i=1:words(kernels)] pick(path, 'large', word(kernels, i), '==') using ($5/$6):8 notitle lc rgb word(colors, i) pt 4 ps 0.8, \
	     1/0 with points pt 7 lc rgb '#000000' title 'small, many rows', \
	     1/0 with points pt 6 lc rgb '#000000' title 'small, one row', \
	     1/0 with points pt 5 lc rgb '#000000' title 'large, many rows', \
	     1/0 with points pt 4 lc rgb '#000000' title 'large, one row'
}
