#!/usr/bin/env bash
# All checks, in the order in which they fail fastest: format, lints, tests, the same on ARM, virtual machines. Installs what the tests need where it may
# (Debian, root); what is not there is skipped, and said at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; }

step "tools"
if ! command -v ffmpeg >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing ffmpeg, which decodes the recordings of some tests"
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends ffmpeg; } \
            >/dev/null 2>&1 || echo "ffmpeg could not be installed"
    fi
fi
rustc --version
ffmpeg -version 2>/dev/null | head -n 1 || echo "ffmpeg is not installed: apt-get install ffmpeg"

step "format"
cargo fmt --check

step "clippy, warnings are errors"
cargo clippy --all-targets --locked -- -D warnings

step "documentation, warnings are errors"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --quiet

step "tests"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --locked 2>&1 | tee "$log" || status=$?

arm=${CARGO_TARGET_DIR:-target}/aarch64-unknown-linux-gnu/debug
arm() {
    if ! { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } && ! command -v aarch64-linux-gnu-gcc >/dev/null; then
        echo "SKIPPED aarch64 and virtual machine: needs Debian, and root to install a cross compiler and QEMU"
        return
    fi
    step "aarch64: static build with faults on purpose"
    scripts/build-arm --profile dev || return
    command -v qemu-aarch64-static >/dev/null || {
        echo "installing qemu-user-static"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends qemu-user-static >/dev/null
    } || return
    for cpu in cortex-a72 cortex-a76; do
        step "aarch64: unit tests on an emulated $cpu"
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $cpu" \
            scripts/build-arm --run test --locked --lib --quiet || return
    done
    step "aarch64: the engine on an emulated CPU that has everything"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu max" \
        scripts/build-arm --run test --locked --lib --quiet engine || return
    step "virtual machines: cameras, watchdogs, a Raspberry Pi"
    # The name of a test's binary has a hash in it; the newest is the one just built.
    scripts/build-arm --run test --locked --test no_alloc --no-run --quiet || return
    scripts/build-arm --run build --locked --example usb-camera --quiet || return
    no_alloc=$(find "$arm/deps" -name 'no_alloc-*' -executable -type f -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2)
    tests/vm/run "$arm/flytrap" "$no_alloc" "$arm/examples/usb-camera"
}
arm 2>&1 | tee -a "$log" || status=$?

step "licences and sources of dependencies"
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --offline check licenses bans sources
else
    echo "SKIPPED cargo deny: it is not installed (cargo install cargo-deny)" | tee -a "$log"
fi

step "measured and skipped"
grep -E "^(MEASURED|SKIPPED)|^[a-z0-9-]+ +SKIPPED " "$log" || echo "nothing was skipped"
exit "$status"
