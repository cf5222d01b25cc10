#!/bin/sh
# consumer.sh BUILD_DIR
# Installs a built tree elsewhere, then builds and runs programs against it: pkg-config (shared and static, C and C++), and CMake's
# find_package(sparseffn). The tree is moved after the installation, so that nothing may point back to where it was.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=$1
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
DESTDIR=$tmp/first meson install -C "$build" --no-rebuild --quiet >"$tmp/log" 2>&1 || { cat "$tmp/log"; exit 1; }
prefix=$(meson introspect --buildoptions "$build" | python3 -c 'import json, sys; print(next(o["value"] for o in json.load(sys.stdin) if o["name"] == "prefix"))')
mv "$tmp/first" "$tmp/tree"
root=$tmp/tree$prefix
libdir=$(dirname "$(find "$root" -name 'libsparseffn.so' | head -1)")
export PKG_CONFIG_PATH=$libdir/pkgconfig PKG_CONFIG_SYSROOT_DIR=$tmp/tree LD_LIBRARY_PATH=$libdir
# .pc files without ${pcfiledir} need the sysroot; those with it must not get it twice
pkg-config --cflags sparseffn | tr ' ' '\n' | grep -q "$tmp/tree.*$tmp/tree" && unset PKG_CONFIG_SYSROOT_DIR

run() { echo "-- $1"; shift; "$@"; }
[ "$(pkg-config --modversion sparseffn)" = "$(sed -n 's/#define SFFN_VERSION_\(MAJOR\|MINOR\|PATCH\) *//p' "$root/include/sparseffn/version.h" | paste -sd.)" ] ||
    { echo "pkg-config says version $(pkg-config --modversion sparseffn)"; exit 1; }
cp "$here/consumer.c" "$tmp/consumer.cpp"
${CC:-cc} "$here/consumer.c" -o "$tmp/c" $(pkg-config --cflags --libs sparseffn)
run "pkg-config, C" "$tmp/c"
${CXX:-c++} -std=c++98 "$tmp/consumer.cpp" -o "$tmp/cpp" $(pkg-config --cflags --libs sparseffn)
run "pkg-config, C++98" "$tmp/cpp"
${CXX:-c++} -std=c++17 "$here/consumer_hpp.cpp" -o "$tmp/hpp" $(pkg-config --cflags --libs sparseffn)
run "pkg-config, C++17 header" "$tmp/hpp"
[ -f "$libdir/libsparseffn.a" ] || { echo "no static library was installed"; exit 1; }
# Debian's hwloc.pc lists libudev for static linking but does not bring it; the shared libhwloc has what it needs
${CC:-cc} -DSFFN_STATIC "$here/consumer.c" -o "$tmp/static" $(pkg-config --cflags sparseffn) "$libdir/libsparseffn.a" \
    $(pkg-config --static --libs sparseffn | tr ' ' '\n' | grep -v -e '^-lsparseffn$' -e '^-ludev$' -e '^-L')
run "pkg-config, static" env -u LD_LIBRARY_PATH "$tmp/static"
if command -v cmake >/dev/null; then
    cmake -S "$here/cmake_consumer" -B "$tmp/cmake" -DCMAKE_PREFIX_PATH="$root" >"$tmp/log" 2>&1 &&
        cmake --build "$tmp/cmake" >>"$tmp/log" 2>&1 || { cat "$tmp/log"; exit 1; }
    run "CMake, C" "$tmp/cmake/consumer_c"
    run "CMake, C++" "$tmp/cmake/consumer_cpp"
    run "CMake, C++17 header" "$tmp/cmake/consumer_hpp"
else
    echo "no cmake: skipped"
fi
