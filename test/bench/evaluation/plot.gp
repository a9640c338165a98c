# The plots of one data set: -e "dataset='ml-100k'; out='docs/evaluation'"
set datafile separator ','
set terminal svg size 720,400 font 'sans-serif,12' background '#ffffff'
set key outside right top
set grid ytics lc rgb '#dddddd'
set border 3
set tics nomirror

arms = "damped_mean none id first_order limaml head full"
colors = "#999999 #bbbbbb #d08000 #70b0e0 #0060b0 #60a060 #a060a0"

csv(table) = out.'/'.dataset.'-'.table.'.csv'
# the lines of an arm's metric, by segment, without the header
pick(arm, metric) = sprintf("< awk -F, '$1 == \"%s\" && $3 == \"%s\"' %s", arm, metric, csv('arms'))

set output out.'/'.dataset.'-auc.svg'
set title dataset.': AUC by number of support rows'
set style data histograms
set style histogram clustered gap 1
set style fill solid 1.0 border 0
set xlabel 'support rows of the member'
set ylabel 'AUC'
set yrange [0.5:*]
plot for [i=1:words(arms)] pick(word(arms, i), 'auc') using 4:xtic(2) title word(arms, i) noenhanced lc rgb word(colors, i)

set output out.'/'.dataset.'-log-loss.svg'
set title dataset.': log loss by number of support rows'
set ylabel 'log loss'
set yrange [0.45:*]
plot for [i=1:words(arms)] pick(word(arms, i), 'log_loss') using 4:xtic(2) title word(arms, i) noenhanced lc rgb word(colors, i)

set output out.'/'.dataset.'-cold.svg'
set title dataset.': unknown members after their first k rows'
set xlabel 'k'
set ylabel 'log loss'
set yrange [*:*]
cold(options) = sprintf("< awk -F, '$1 == \"%s\" && $5 == \"log_loss\"' %s", options, csv('cold'))
plot cold('defaults') using 2:6:8 with yerrorlines title 'defaults' lc rgb '#0060b0' pt 7, \
     cold('cold') using 2:6:8 with yerrorlines title 'support\_split prefix' lc rgb '#d08000' pt 7, \
     cold('defaults') using 2:7 with lines title 'unadapted' lc rgb '#999999' dt 2

set output out.'/'.dataset.'-lag.svg'
set title dataset.': age of the embedding that a row is scored with'
set xlabel 'time since the refresh'
set ylabel 'AUC'
lag(metric) = sprintf("< awk -F, '$4 == \"%s\"' %s", metric, csv('lag'))
plot lag('auc') using 0:5:7:xtic(1) with yerrorlines title 'AUC' lc rgb '#0060b0' pt 7, \
     lag('mean_auc') using 0:5:7 with yerrorlines title 'mean AUC' lc rgb '#d08000' pt 7, \
     lag('auc') using 0:6 with lines title 'AUC, unadapted' lc rgb '#999999' dt 2
