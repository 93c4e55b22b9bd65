//! One reader of `tests/hostile` under libFuzzer. All binaries of this package are this file; the name says which reader.
#![no_main]

use hostile::budget::measured;
use hostile::{Desk, Target, target};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static DESK: LazyLock<Desk> = LazyLock::new(Desk::new);
static TARGET: LazyLock<&Target> = LazyLock::new(|| target(env!("CARGO_BIN_NAME")));

fuzz_target!(
    init: {
        // libFuzzer's own hook ends the process at a panic that we turn into an error
        std::panic::set_hook(Box::new(|panic| eprintln!("{panic}\n{}", std::backtrace::Backtrace::force_capture())));
    },
    |bytes: &[u8]| {
        let most = TARGET.budget.bytes(bytes.len());
        let cost = measured(most, || (TARGET.read)(&DESK, bytes));
        assert!(cost.bytes <= most, "took {} bytes, {most} are allowed", cost.bytes);
        // libFuzzer's own limit, ten seconds, is of wall time, which other work on the machine stretches; it finds what waits
        assert!(cost.seconds <= 1.0, "took {} seconds of processor time", cost.seconds);
    }
);
