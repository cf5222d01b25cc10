#!/bin/sh
# sharding.sh BUILD_DIR
# examples/sharding/mpi_layer.c with one, two and three ranks of the MPI that is installed.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=$1
for command in mpicc mpirun; do
    command -v $command >/dev/null || { echo "no $command (Debian: openmpi-bin libopenmpi-dev): skipped"; exit 77; }
done
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
mpicc -O1 -Wall -Wextra -Werror -I"$root/include" "$root/examples/sharding/mpi_layer.c" -o "$tmp/mpi_layer" -L"$build/lib" -lsparseffn -lm
# Open MPI minds being run as root, and having fewer cores than ranks; others do not read this.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl=self,vader OMPI_MCA_plm=isolated
export LD_LIBRARY_PATH="$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
cd "$root"
for n in 1 2 3; do
    mpirun -n $n "$tmp/mpi_layer" | tee "$tmp/out"
    [ "$(grep -c '^rank ' "$tmp/out")" -eq $n ]
    grep -q 'of the bound: right' "$tmp/out"
done
