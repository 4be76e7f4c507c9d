#!/usr/bin/env bash
# All checks, in the order in which they fail fastest: format, lints, tests. Prints what it skips and why.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --check

step "clippy, warnings are errors"
cargo clippy --all-targets --locked -- -D warnings

step "tests"
cargo test --locked 2>&1
