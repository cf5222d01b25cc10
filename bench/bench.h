/* bench.h  The subcommands. Each gets the arguments behind its name and returns the exit status. */
#ifndef BENCH_H
#define BENCH_H

int bench_ffn(int argc, char **argv);
int bench_stages(int argc, char **argv);
int bench_kernels(int argc, char **argv);
int bench_scaling(int argc, char **argv);
int bench_memory(int argc, char **argv);
int bench_trace(int argc, char **argv);
int bench_compare(int argc, char **argv);
int bench_plot(int argc, char **argv);
int bench_stats(int argc, char **argv);

#endif /* BENCH_H */
