#!/bin/sh
# rustc with --cfg take_turns, as RUSTC_WORKSPACE_WRAPPER: for this crate alone, so that what it
# depends on is compiled once for all its tests. RUSTFLAGS would compile all of that again.
exec "$@" --cfg take_turns
