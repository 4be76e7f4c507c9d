#!/usr/bin/env bash
# All checks, in the order in which they fail fastest: format, lints, tests. Installs what the tests need where it may
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

step "licences and sources of dependencies"
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --offline check licenses bans sources
else
    echo "SKIPPED cargo deny: it is not installed (cargo install cargo-deny)" | tee -a "$log"
fi

step "measured and skipped"
grep -E "^(MEASURED|SKIPPED)" "$log" || echo "nothing was skipped"
exit "$status"
