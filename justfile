# `just` lists the tasks; they are cargo's own aliases, for fingers that know `just`.

_list:
    @just --list

# Watch tiny models learn and forget facts, in a few minutes.
demo *arguments:
    cargo xtask demo {{arguments}}

# Run all tests; arguments go to cargo-nextest.
test *arguments:
    cargo xtask test {{arguments}}

# Check the formatting; clippy's warnings are errors.
lint:
    cargo xtask lint

# Make the fixtures of the reference implementations again.
oracle:
    cargo xtask oracle

# What must hold before a change is merged.
ci:
    .ci/run
