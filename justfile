# `just verify` only reads and is what CI runs; `just fix` may rewrite.

verify:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo test

fix:
    cargo fmt
    cargo clippy --all-targets --fix --allow-dirty

# A node on this machine with the example site.
dev:
    cargo run --release -- dev examples/site

# Side-by-side measurements against the peers; takes a while.
bench:
    cargo build --profile dist --bins --examples
    for script in bench/*.py; do [ "$script" = bench/common.py ] || "$script"; done
