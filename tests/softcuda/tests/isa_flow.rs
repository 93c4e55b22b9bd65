//! Branches by table, scopes, and calls (sections 5.4, 7.1 and 9.7.12 of the ISA).

mod common;

use common::isa::{Lanes, try_functions, warp};
use softcuda::FaultKind;

/// lane → lane² of a function that keeps its parameter in local memory, and twice the lane by another.
const FUNCTIONS: &str = "
.func (.param .b32 out) square(.param .b32 x) {
    .local .align 4 .b8 kept[8]; .reg .b32 %r<4>; .reg .b64 %d<2>;
    ld.param.u32 %r0, [x]; mov.u64 %d0, kept; st.local.u32 [%d0+4], %r0; ld.local.u32 %r1, [%d0+4];
    mul.lo.u32 %r2, %r0, %r1; st.param.b32 [out], %r2; ret;
}
.func (.param .b32 out) twice(.param .b32 x) {
    .reg .b32 %r<4>; ld.param.u32 %r0, [x]; add.u32 %r0, %r0, %r0; st.param.b32 [out], %r0; ret;
}
.func (.param .b64 out) sum_below(.param .b32 n) {
    .reg .pred %p; .reg .b32 %r<2>; .reg .b64 %d<3>;
    ld.param.u32 %r0, [n]; cvt.u64.u32 %d0, %r0; setp.eq.u32 %p, %r0, 0; @%p bra DONE; sub.u32 %r1, %r0, 1;
    { .param .b32 param0; st.param.b32 [param0], %r1; .param .b64 retval0;
      call.uni (retval0), sum_below, (param0); ld.param.b64 %d1, [retval0]; }
    add.u64 %d0, %d0, %d1;
    DONE: st.param.b64 [out], %d0; ret;
}
.func leave_when_odd(.param .b32 x) {
    .reg .pred %p; .reg .b32 %r<2>;
    ld.param.u32 %r0, [x]; and.b32 %r1, %r0, 1; setp.eq.u32 %p, %r1, 1; @%p exit; ret;
}
.func meet() { bar.sync 0; ret; }
";

/// A call with one 32-bit argument and result.
fn call(guard: &str, target: &str) -> String {
    format!(
        "{{ .param .b32 param0; st.param.b32 [param0], %lane0; .param .b32 retval0;\n\
         proto: .callprototype (.param .b32 _) _ (.param .b32 _);\n\
         {guard} bra OVER; call (retval0), {target}, (param0){}; ld.param.b32 %r30, [retval0]; OVER: }}",
        if target.starts_with('%') { ", proto" } else { "" }
    )
}

fn lanes(f: impl Fn(u64) -> u64) -> Lanes {
    std::array::from_fn(|lane| f(lane as u64))
}

fn run(body: &str, outputs: &[&str]) -> Vec<Lanes> {
    try_functions(FUNCTIONS, body, &[], outputs).unwrap_or_else(|fault| panic!("{body}: {fault}"))
}

#[test]
fn calls_with_results() {
    let got = run(
        &format!("mov.u32 %r29, %lane0; {} mov.u32 %r31, %r29;", call("@%none", "square")),
        &["%r30", "%r31"],
    );
    // the function's registers of the same names are its own
    assert_eq!(got, [lanes(|l| l * l), lanes(|l| l)]);
    let guarded = format!("mov.u32 %r30, 7; setp.lt.u32 %q30, %lane0, 5; {}", call("@!%q30", "square"));
    assert_eq!(run(&guarded, &["%r30"]), [lanes(|l| if l < 5 { l * l } else { 7 })]);
}

#[test]
fn lanes_that_call_different_functions() {
    let body = format!(
        "mov.u64 %d30, square; mov.u64 %d31, twice; and.b32 %r20, %lane0, 1; setp.eq.u32 %q30, %r20, 0;\n\
         selp.u64 %d32, %d30, %d31, %q30; {}",
        call("@%none", "%d32")
    );
    assert_eq!(run(&body, &["%r30"]), [lanes(|l| if l % 2 == 0 { l * l } else { 2 * l })]);
    let nowhere = format!("mov.u64 %d32, 64; {}", call("@%none", "%d32"));
    let fault = try_functions(FUNCTIONS, &nowhere, &[], &["%r30"]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
}

#[test]
fn recursion_to_different_depths() {
    let body = "{ .param .b32 param0; st.param.b32 [param0], %lane0; .param .b64 retval0;\n\
        call (retval0), sum_below, (param0); ld.param.b64 %d30, [retval0]; }";
    assert_eq!(run(body, &["%d30"]), [lanes(|l| l * (l + 1) / 2)]);
}

#[test]
fn lanes_that_exit_in_a_function() {
    let body = "{ .param .b32 param0; st.param.b32 [param0], %lane0; call leave_when_odd, (param0); } activemask.b32 %r30;";
    let got = run(body, &["%r30"]);
    assert_eq!(got, [lanes(|l| if l % 2 == 0 { 0x5555_5555 } else { 0 })]);
}

#[test]
fn a_barrier_in_a_function_needs_the_whole_warp() {
    run("call meet;", &["%lane0"]);
    let some = "setp.lt.u32 %q30, %lane0, 5; @%q30 call meet;";
    let fault = try_functions(FUNCTIONS, some, &[], &["%lane0"]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::DivergentBarrier);
}

#[test]
fn branches_by_table() {
    let body = "and.b32 %r0, %lane0, 3; TABLE: .branchtargets A, B, C, B; mov.u32 %r30, 0; brx.idx %r0, TABLE;\n\
        A: add.u32 %r30, %r30, 1; B: add.u32 %r30, %r30, 10; bra.uni END; C: add.u32 %r30, %r30, 100; END:\n\
        activemask.b32 %r31;";
    let want = lanes(|l| [11, 10, 100, 10][l as usize % 4]);
    assert_eq!(warp(body, &[], &["%r30", "%r31"]), [want, [0xffff_ffff; 32]]);
}

#[test]
fn names_in_braces_are_their_own() {
    let body = "mov.u32 %r30, 1; mov.u32 %r31, 3;\n\
        { .reg .b32 %r30; .reg .pred %q31; mov.u32 %r30, 50; AGAIN: sub.u32 %r30, %r30, 10; setp.gt.u32 %q31, %r30, 20;\n\
          @%q31 bra AGAIN; { .reg .b32 %r30; mov.u32 %r30, 9; } mov.u32 %r31, %r30; }\n\
        { .reg .pred %q31; AGAIN: sub.u32 %r31, %r31, 1; setp.gt.u32 %q31, %r31, 15; @%q31 bra AGAIN; }";
    assert_eq!(warp(body, &[], &["%r30", "%r31"]), [[1; 32], [15; 32]]);
}
