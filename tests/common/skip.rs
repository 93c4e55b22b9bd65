//! A check that is not made is said aloud: past the test's own standard error, which is shown of failed tests only.
#![allow(dead_code)]

use std::io::Write;

/// Says that a check is not made here, or fails where POSE_REQUIRE_ALL=1 says that all must be made.
pub fn skip(why: &str) {
    let required = std::env::var_os("POSE_REQUIRE_ALL").is_some_and(|set| !set.is_empty());
    assert!(!required, "POSE_REQUIRE_ALL is set, but {why}");
    skip_for_good(why);
}

/// [`skip`] of what needs kernels, or the tools that come with nvcc: POSE_CUDA=require insists on these too.
pub fn skip_cuda(why: &str) {
    assert!(std::env::var("POSE_CUDA").as_deref() != Ok("require"), "POSE_CUDA=require, but {why}");
    skip(why);
}

/// [`skip`] of what nobody can install, as instructions that the processor lacks: no one can ask for it either.
pub fn skip_for_good(why: &str) {
    // at once, so that the lines of tests beside it do not mix with it
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}
