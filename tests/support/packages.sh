# shellcheck shell=bash
# packages.sh  What examples/quickstart, tests/run and .ci/run share: words on the screen, missing packages, the Python environment, builds.
#
# Sourced, with the project's root as working directory. A need has the name of its Debian package, but what is looked for is the thing
# itself, so a compiler or a Meson from elsewhere will do. When nothing is missing, nothing is installed and no network is used.

if [ -t 1 ]; then
    bold=$(printf '\033[1m') plain=$(printf '\033[0m')
else
    bold='' plain=''
fi

say() { printf '\n%s==> %s%s\n' "$bold" "$*" "$plain"; }
note() { printf '    %s\n' "$*"; }
die() {
    printf '\n%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

seconds() { printf '%d min %02d s' $((SECONDS / 60)) $((SECONDS % 60)); }

compiles() { # compiles LANGUAGE HEADER: the compiler for it is there, with its library's headers
    printf '#include <%s>\nint main(void) { return 0; }\n' "$2" | "$([ "$1" = c ] && echo "${CC:-cc}" || echo "${CXX:-c++}")" -x "$1" -o /dev/null -
}

# meson --version is at least 1.0
has_meson() { meson --version | awk -F. '{ exit !($1 >= 1) }'; }

has() {
    case $1 in
        gcc) compiles c stdio.h ;;
        g++) compiles c++ string ;;
        meson) has_meson ;;
        ninja-build) command -v ninja ;;
        pkg-config | cmake | clang) command -v "$1" ;;
        python3-venv) python3 -c 'import ensurepip, venv' ;;
        libhwloc-dev) pkg-config --exists 'hwloc >= 2.0' ;;
        libcmocka-dev) pkg-config --exists cmocka ;;
        libdnnl-dev) compiles c oneapi/dnnl/dnnl.h ;;
        qemu-user) command -v qemu-x86_64 ;;
        gcc-aarch64-linux-gnu) [ -f /usr/aarch64-linux-gnu/include/stdio.h ] && command -v aarch64-linux-gnu-gcc ;;
        openmpi-bin) command -v mpirun ;;
        libopenmpi-dev) command -v mpicc ;;
        *) dpkg-query -W -f '${Status}' "$1" | grep -q 'ok installed' ;;
    esac >/dev/null 2>&1
}

# Commands a fresh gcc package lacks, and so on: what has to be asked for to get the thing.
debian_packages() {
    case $1 in
        gcc) echo gcc libc6-dev ;;
        gcc-aarch64-linux-gnu) echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;;
        *) echo "$1" ;;
    esac
}

# need_packages NAME... [-- NAME...]: installs what is missing. Names after -- may stay missing; the build leaves out what needs them.
packages_were_installed=no
need_packages() {
    local name required=yes missing=() optional=() wanted=() as_root=() log
    say "Packages"
    for name in "$@"; do
        if [ "$name" = -- ]; then
            required=no
        elif ! has "$name"; then
            [ $required = yes ] && missing+=("$name") || optional+=("$name")
        fi
    done
    if [ ${#missing[@]} -eq 0 ] && [ ${#optional[@]} -eq 0 ]; then
        note "Nothing is missing."
        return 0
    fi
    for name in "${missing[@]}" "${optional[@]}"; do
        # shellcheck disable=SC2207  # words on purpose
        wanted+=($(debian_packages "$name"))
    done
    if ! command -v apt-get >/dev/null; then
        [ ${#missing[@]} -eq 0 ] || die "this system has no apt-get. Please install what these Debian packages hold, then run me again: ${wanted[*]}"
        note "Going on without: ${optional[*]} (no apt-get here)"
        return 0
    fi
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "packages are missing, and there is no sudo. As root:  apt-get install --no-install-recommends ${wanted[*]}"
        as_root=(sudo)
    fi
    log=$(mktemp)
    note "Missing: ${missing[*]} ${optional[*]}"
    note "${as_root[*]:+${as_root[*]} }apt-get update"
    note "${as_root[*]:+${as_root[*]} }apt-get install --no-install-recommends ${wanted[*]}"
    "${as_root[@]}" apt-get update -q >"$log" 2>&1 || note "apt-get update had errors; trying with the package lists at hand"
    "${as_root[@]}" apt-get install --assume-no --no-install-recommends "${wanted[@]}" 2>/dev/null | awk '/^Need to get|^After this/ { print "    " $0 }' || true
    printf '    '
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${wanted[@]}" 2>&1 </dev/null |
        tee -a "$log" | awk '/^(Get:|Unpacking|Setting up)/ && n++ % 4 == 0 { printf "."; fflush() }'; then
        printf '\n'
        tail -n 20 "$log" >&2
        die "apt-get failed; its whole output is in $log"
    fi
    printf '\n'
    hash -r
    for name in "${missing[@]}"; do
        has "$name" || die "$name is still missing after its installation; apt-get's output is in $log"
    done
    packages_were_installed=yes
    note "Installed."
    rm -f "$log"
}

# need_python MODULE[=PACKAGE]...: a virtual environment in .venv that can import them. Fails when pip cannot get them.
python=.venv/bin/python
need_python() {
    local wanted=() module package
    say "Python environment in .venv"
    if ! "$python" -c 'import pip' 2>/dev/null; then
        note "python3 -m venv .venv"
        python3 -m venv --clear .venv || return
    fi
    for module in "$@"; do
        package=${module#*=} module=${module%%=*}
        "$python" -c "import $module" 2>/dev/null || wanted+=("$package")
    done
    if [ ${#wanted[@]} -eq 0 ]; then
        note "Nothing is missing: $("$python" --version), ${*%%=*}"
        return 0
    fi
    note "pip install ${wanted[*]}"
    "$python" -m pip install -q --disable-pip-version-check "${wanted[@]}"
}

# need_torch VERSION: PyTorch's CPU build, 200 MB, into .venv. What PyPI has for x86-64 brings CUDA, several GB, so the wheel comes from where pip
# was told to look for files (find-links), else from PyTorch's own index; only what it depends on comes from PyPI. Fails when neither has it.
need_torch() {
    local pip=("$python" -m pip install -q --disable-pip-version-check)
    "$python" -c 'import torch' 2>/dev/null && return
    note "pip install torch==$1 (CPU build)"
    "${pip[@]}" --no-index --no-deps "torch==$1" 2>/dev/null ||
        "${pip[@]}" --retries 1 --timeout 30 --index-url https://download.pytorch.org/whl/cpu --no-deps "torch==$1" || return
    "${pip[@]}" "torch==$1"
}

# build DIRECTORY MESON-OPTION...: configures once, compiles what has changed. On a terminal Ninja shows its own progress.
build() {
    local dir=$1 log
    shift
    log=$(mktemp)
    say "Building in $dir/"
    if [ ! -f "$dir/build.ninja" ] || [ $packages_were_installed = yes ]; then
        [ ! -f "$dir/build.ninja" ] || set -- --wipe "$@" # what was missing was left out of it
        # Without dpkg-dev Meson takes Debian for a system of lib64, and installs where Debian's linker and CMake do not look.
        [ ! -f /etc/debian_version ] || command -v dpkg-architecture >/dev/null || set -- --libdir=lib "$@"
        note "meson setup $dir $*"
        meson setup "$dir" "$@" >"$log" 2>&1 || {
            tail -n 20 "$log" >&2
            die "meson setup failed; its whole output is in $log"
        }
    fi
    note "ninja -C $dir"
    if [ -t 1 ]; then
        ninja -C "$dir" || die "the build failed"
    else
        ninja -C "$dir" >"$log" 2>&1 || {
            grep -E -A 20 -m 3 'FAILED|ERROR' "$log" >&2 || tail -n 20 "$log" >&2
            die "the build failed; its whole output is in $log"
        }
        note "$(tail -n 1 "$log")"
    fi
    rm -f "$log"
}
