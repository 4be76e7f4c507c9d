#!/usr/bin/env bash
# All checks, in the order in which they fail fastest. Installs what the tests need where it may (Debian, root); what is not there is
# skipped, and said at the end.
#
# Usage: scripts/check.sh [fast|ci|full]
#   fast   while you work: format, clippy, unit tests and the house rules (tests/tidy.rs)
#   ci     the default, and what .ci/run calls: fast, documentation, every test, the same on emulated ARM CPUs, virtual machines
#   full   before a release: ci with all unit tests on every emulated CPU, 100 camera unplugs instead of 25, more random worlds, and
#          cargo-deny (licences and sources of dependencies), which is installed if it is not there
#
# What is only in `full`, and why:
#   - all unit tests on Cortex-A72: only the network's kernels differ between CPUs, and `ci` runs those on it; the rest of the unit tests
#     costs minutes under emulation and runs on Cortex-A76.
#   - anything on a CPU with everything that QEMU knows: no kernel uses more than 16-bit numbers and dot products, which Cortex-A76 has.
#   - under emulation the unit tests of the simulator (not in the device build) and of the gate, cameras with a shared engine, the
#     self-test's 87 damaged models and the built-in model at its larger sizes, and all 256 cases of property tests instead of 16; on
#     Cortex-A72 what the heads of the network leave out: plain Rust without code of its own for ARM, which `ci` tests in full on this machine, 15 times as fast.
#   - 100 unplugs: 25 find the same faults with 1/4 of the time; 100 are for what happens once in 50.
#   - fp16 and int8 at the larger input sizes, nine of ten frames of the parity test, two of three clips of the region test: the
#     same code as in the rest of these tests, on more pictures.
#   - cargo-deny: takes minutes to build, and changes only when Cargo.lock does.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-ci}
case $mode in fast | ci | full) ;; *) echo "usage: scripts/check.sh [fast|ci|full]" >&2 && exit 2 ;; esac

begun=$SECONDS
step() { printf '\n== %s (after %d s)\n' "$*" $((SECONDS - begun)); }

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
# install PACKAGE PROGRAM PURPOSE
install() {
    command -v "$2" >/dev/null && return
    may_install || return 0
    echo "installing $1, which $3"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$1"; } \
        >/dev/null 2>&1 || echo "$1 could not be installed"
}

# What is built once is built in larger pieces: tests run several times as fast, and nothing is kept for a next build.
# Without line numbers for backtraces, which a panic's own message has, it is compiled sooner.
if [ "$mode" != fast ]; then export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0; fi
# Many tests spend most of their time waiting.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 1))}

step "tools"
if [ "$mode" != fast ]; then
    install ffmpeg ffmpeg "decodes the recordings of some tests"
    install qemu-user-static qemu-aarch64-static "runs the ARM tests"
    if may_install; then scripts/build-arm --tools; fi
fi
rustc --version
ffmpeg -version 2>/dev/null | head -n 1 || echo "ffmpeg is not installed: apt-get install ffmpeg"

step "format"
cargo fmt --check

step "clippy, warnings are errors"
cargo clippy --all-targets --locked -- -D warnings
if [ "$mode" != fast ]; then cargo clippy --locked --no-default-features -- -D warnings; fi

log=$(mktemp)
device_log=$(mktemp)
device_build=
# device_build_niceness NICENESS
device_build_niceness() { [ -z "$device_build" ] || renice -n "$1" -g "$device_build" >/dev/null 2>&1 || true; }
# device_build_gets SIGNAL
device_build_gets() { [ -z "$device_build" ] || kill "-$1" -- "-$device_build" 2>/dev/null || true; }
trap 'rm -f "$log" "$device_log"; device_build_gets TERM; device_build_gets CONT' EXIT
status=0

if [ "$mode" = fast ]; then
    step "unit tests and house rules"
    cargo test --locked --no-fail-fast --lib --test tidy
    printf '\nfast checks passed in %d s\n' $((SECONDS - begun))
    exit 0
fi

step "documentation, warnings are errors"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --quiet

# What a device runs, of which only the size is checked. It is built beside everything that follows: its last step uses one core for minutes,
# which has to overlap with something. While tests run it gets only what they leave idle.
can_cross_compile() { command -v aarch64-linux-gnu-gcc >/dev/null; }
arm=${CARGO_TARGET_DIR:-target}/aarch64-unknown-linux-gnu
if can_cross_compile; then
    set -m # in a process group of its own, so that it ends with this script
    nice -n 5 scripts/build-arm --jobs 1 >"$device_log" 2>&1 &
    device_build=$!
    set +m
fi

step "tests"
# Random tests print their seed, and on failure the command that repeats it.
if [ "$mode" = full ]; then export FLYTRAP_FULL=1 FLYTRAP_CUTS=${FLYTRAP_CUTS:-20000}; fi
cargo test --locked --no-fail-fast --no-run
device_build_niceness 19
cargo test --locked --no-fail-fast 2>&1 | tee "$log" || status=$?
device_build_niceness 5

# try COMMAND...: remembers a failure and continues with the next step, which may find another.
try() { "$@" || failed=1; }
# What a device runs: without the commands for a desktop computer.
arm_cargo() { scripts/build-arm --run "$1" --locked --no-default-features "${@:2}"; }
# arm_tests CPU [FILTER]: unit tests on an emulated CPU.
arm_tests() {
    step "aarch64: unit tests on an emulated $*"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $1" arm_cargo test --lib --quiet --no-fail-fast "${@:2}"
}
virtual_machines() {
    step "virtual machines: cameras, watchdogs, a Raspberry Pi"
    # The name of a test's binary has a hash in it; the newest is the one just built.
    no_alloc=$(find "$arm/debug/deps" -name 'no_alloc-*' -executable -type f -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2)
    if [ "$mode" = full ]; then unplugs=100 seconds=900; else unplugs=25 seconds=600; fi
    export FLYTRAP_VM_UNPLUGS=${FLYTRAP_VM_UNPLUGS:-$unplugs} FLYTRAP_VM_SECONDS=${FLYTRAP_VM_SECONDS:-$seconds}
    local failed=0
    # Where each frame counts the machine is to be quiet: the device build waits.
    device_build_niceness 19
    device_build_gets STOP
    FLYTRAP_VM_SETS=usb try tests/vm/run "$arm/debug/flytrap" "$no_alloc" "$arm/debug/examples/usb-camera"
    device_build_gets CONT
    FLYTRAP_VM_SETS="main hang street pi" try tests/vm/run "$arm/debug/flytrap" "$no_alloc"
    return $failed
}
# The device is updated over a thin link: the limit of its binary, bytes. src/decisions/0014-size.md says what it is made of.
device_bytes_max=${FLYTRAP_DEVICE_BYTES_MAX:-13000000}
device_size() {
    local bytes
    bytes=$(stat -c %s "$arm/release/flytrap")
    echo "MEASURED the device build has $bytes bytes, the limit is $device_bytes_max"
    [ "$bytes" -le "$device_bytes_max" ] || { echo "the device build is too large: see src/decisions/0014-size.md"; return 1; }
}
arm() {
    can_cross_compile || {
        echo "SKIPPED aarch64 and virtual machine: needs Debian, and root to install a cross compiler and QEMU"
        return
    }
    step "aarch64: static test builds"
    arm_cargo test --no-run --lib --bins --test no_alloc && arm_cargo build --example usb-camera || return
    local failed=0
    # A76 has numbers of 16 bits and dot products, A72 has neither, max has everything that QEMU knows.
    if [ "$mode" = full ]; then
        for cpu in cortex-a76 cortex-a72 max; do try arm_tests $cpu; done
    else
        export PROPTEST_CASES=16
        try arm_tests cortex-a76 -- --skip sim:: --skip gate::tests --skip cameras_that_share_an_engine --skip flipped_weight_tensor
        try arm_tests cortex-a72 detect::engine -- --skip heads
    fi
    try virtual_machines
    return $failed
}
arm 2>&1 | tee -a "$log" || status=$?

if [ -n "$device_build" ]; then
    step "size of the device build"
    built=0
    wait "$device_build" || built=$?
    device_build=
    if [ $built = 0 ]; then device_size; else cat "$device_log" && false; fi 2>&1 | tee -a "$log" || status=$?
fi

if [ "$mode" = full ]; then
    step "licences and sources of dependencies"
    command -v cargo-deny >/dev/null || cargo install cargo-deny --locked --quiet
    cargo deny --all-features check licenses bans sources || status=$?
fi

step "measured and skipped"
grep -E "^(MEASURED|SKIPPED)|^[a-z0-9-]+ +SKIPPED " "$log" || echo "nothing was skipped"
# What failed, once more at the end: what the end of a log of thousands of lines has to say first.
if [ "$status" != 0 ]; then
    step "failed"
    grep -E -A 12 "^test .* FAILED$|^---- .* stdout ----$|^error(\[|:)|^[a-z0-9-]+ +FAIL |panicked at" "$log" | head -n 200 || true
fi

printf '\n%s checks: %s in %d s\n' "$mode" "$([ $status = 0 ] && echo passed || echo FAILED)" $((SECONDS - begun))
exit "$status"
