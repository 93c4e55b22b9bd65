//! Every operation of the CPU backend, on every instruction set that this machine has and in both dtypes, against the f64
//! reference; and the same bits on any number of threads.

mod conformance;
#[path = "common/skip.rs"]
mod skip;
#[path = "conformance/tails.rs"]
mod tails;

use conformance::Suite;
use half::bf16;
use pose_engine::backend::cpu::{Cpu, CpuFloat, Guard, Isa};
use pose_engine::backend::{AttentionShape, Backend, Quantised};
use std::sync::Once;

/// The instruction sets of this machine. The others are said, once for all tests.
fn instructions() -> Vec<Isa> {
    static SAID: Once = Once::new();
    let here = Isa::available();
    SAID.call_once(|| {
        for isa in Isa::all().into_iter().filter(|isa| !here.contains(isa)) {
            skip::skip_for_good(&format!("this machine has no {isa}"));
        }
    });
    here
}

fn check<E: CpuFloat>(guard: Option<Guard>, run: impl Fn(&mut Suite<'_, Cpu<E>>))
where
    Cpu<E>: Backend<Act = E, Stat = f32>,
{
    for isa in instructions() {
        let cpu = Cpu::<E>::with_isa(2, isa).unwrap();
        let cpu = match guard {
            Some(guard) => cpu.guarded(guard),
            None => cpu,
        };
        run(&mut Suite::new(&cpu, &format!("cpu {isa} {} {guard:?}", std::any::type_name::<E>())));
    }
}

#[test]
fn bf16_agrees_with_the_reference() {
    check::<bf16>(None, |t| t.run());
}

#[test]
fn f32_agrees_with_the_reference() {
    check::<f32>(None, |t| t.run());
}

/// The last cache line of every buffer ends where a page begins that may not be touched; what is left of that line, and of the page, is
/// filled with what is no number, which a result would show, and must stay so, as must the three elements that outputs have more.
#[test]
fn no_operation_reads_or_writes_behind_its_buffers() {
    check::<bf16>(Some(Guard::Behind), |t| t.run());
    check::<f32>(Some(Guard::Behind), |t| t.run());
}

#[test]
fn no_operation_reads_or_writes_before_its_buffers() {
    check::<bf16>(Some(Guard::Before), |t| t.run());
    check::<f32>(Some(Guard::Before), |t| t.run());
}

/// The same at every tail of every dimension, in the dtype whose words are single elements and in that whose words are pairs.
#[test]
fn no_tail_in_bf16_leads_out_of_its_buffers() {
    check::<bf16>(Some(Guard::Behind), tails::all);
    check::<bf16>(Some(Guard::Before), tails::all);
}

#[test]
fn no_tail_in_f32_leads_out_of_its_buffers() {
    check::<f32>(Some(Guard::Behind), tails::all);
    check::<f32>(Some(Guard::Before), tails::all);
}

/// What the tests above rely on, with the next one: in a process of its own, since that ends it.
#[test]
#[cfg(unix)]
fn a_touch_beyond_a_guarded_buffer_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    const WHICH: &str = "POSE_TEST_TOUCH";
    let cpu = |guard| Cpu::<f32>::new(1).unwrap().guarded(guard);
    if let Ok(which) = std::env::var(WHICH) {
        let buf =
            cpu(if which == "before" { Guard::Before } else { Guard::Behind }).alloc::<f32>(32).unwrap();
        let (first, last) = (buf.as_slice().as_ptr(), &raw const buf.as_slice()[31]);
        // SAFETY: none; that this read is caught is what the process is for.
        let read = unsafe { if which == "before" { first.sub(1) } else { last.add(1) }.read_volatile() };
        println!("read {read}");
        return;
    }
    for which in ["before", "behind"] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_touch_beyond_a_guarded_buffer_ends_the_process"]).env(WHICH, which);
        let status = child.output().unwrap().status;
        assert_eq!(status.signal(), Some(libc::SIGSEGV), "{which}: {status}");
    }
}

/// What is beside the used part of a guarded buffer can be touched as far as the page goes; that nothing was is seen in the end.
#[test]
fn a_write_beside_the_used_part_of_a_guarded_buffer_is_found() {
    // a buffer's end and the page's where the forbidden page is behind, its beginning and the page's where it is before
    for (guard, at) in [
        (Guard::Behind, 5isize),
        (Guard::Behind, 15),
        (Guard::Behind, -1),
        (Guard::Behind, -1008),
        (Guard::Before, 5),
        (Guard::Before, 1023),
    ] {
        let found = std::panic::catch_unwind(|| {
            let mut buf = Cpu::<f32>::new(1).unwrap().guarded(guard).alloc::<f32>(5).unwrap();
            // SAFETY: the page is mapped from 1008 elements before the buffer's cache line to its end where that is the page's, and to
            // 1024 behind its beginning where that is.
            unsafe { buf.as_mut_slice().as_mut_ptr().offset(at).write_volatile(1.0) };
        });
        let message = *found.expect_err("the write went unnoticed").downcast::<String>().unwrap();
        // 1.0 ends in 0x80 0x3f: its first two bytes are zero, neither of which is what was there
        assert_eq!(message, format!("byte {} of a buffer that uses 20 was written: 0x00", 4 * at));
    }
    drop(Cpu::<f32>::new(1).unwrap().guarded(Guard::Behind).alloc::<f32>(5).unwrap());
}

/// Decoding from 8-bit codes sums integers where heads are at most 512 wide: there, and beyond, with the largest of all products.
#[test]
fn sums_over_codes_do_not_overflow() {
    const KEYS: usize = 130;
    let cpu = Cpu::<bf16>::new(1).unwrap();
    for head_dim in [512, 544] {
        let filled = |len: usize, x: f32| {
            let mut buf = cpu.alloc::<f32>(len).unwrap();
            buf.as_mut_slice().fill(x);
            buf
        };
        let (mut codes, mut q, mut o) = (
            cpu.alloc::<i8>(KEYS * head_dim).unwrap(),
            cpu.alloc::<bf16>(head_dim).unwrap(),
            cpu.alloc::<bf16>(head_dim).unwrap(),
        );
        codes.as_mut_slice().fill(127);
        // the largest below a power of two
        q.as_mut_slice().fill(bf16::from_f32(1.992_187_5));
        let (scales, mut lse) = (filled(KEYS, 1.0 / 127.0), filled(1, 0.0));
        let (queries, heads, kv_heads, window) = (1, 1, 1, None);
        let scale = 1.0 / head_dim as f64;
        let s = AttentionShape { rows: 1, queries, keys: KEYS, heads, kv_heads, head_dim, scale, window };
        let ones = || Quantised { codes: &codes, scales: &scales };
        cpu.attention_int8(&mut o, &mut lse, &q, ones(), ones(), None, s).unwrap();
        assert!(o.as_slice().iter().all(|x| x.to_f32() == 1.0), "heads of {head_dim}: {:?}", o.as_slice());
        let expected = 1.992_187_5 + (KEYS as f32).ln();
        assert!(
            (lse.as_slice()[0] / expected - 1.0).abs() < 1e-6,
            "heads of {head_dim}: {:?}",
            lse.as_slice()
        );
    }
}

fn same_bits<E: CpuFloat>()
where
    Cpu<E>: Backend<Act = E, Stat = f32>,
{
    // what the machine takes by itself, and what it would take next
    for isa in instructions().into_iter().rev().take(2) {
        same_bits_on::<E>(isa);
    }
}

fn same_bits_on<E: CpuFloat>(isa: Isa)
where
    Cpu<E>: Backend<Act = E, Stat = f32>,
{
    let traces = [1, 2, 3].map(|threads| {
        let cpu = Cpu::<E>::with_isa(threads, isa).unwrap();
        let mut suite = Suite::new(&cpu, &format!("{isa}, {threads} threads"));
        suite.run();
        suite.trace
    });
    assert!(!traces[0].is_empty());
    for other in &traces[1..] {
        assert_eq!(traces[0].len(), other.len());
        for ((name, a), (_, b)) in traces[0].iter().zip(other) {
            let differ = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
            assert!(differ.is_none(), "{name}: element {differ:?} depends on the number of threads");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    same_bits::<bf16>();
    same_bits::<f32>();
}

#[test]
fn scratch_is_what_was_announced() {
    use pose_engine::backend::{HeadShape, MatmulShape, ScratchFor};
    let cpu = Cpu::<bf16>::new(2).unwrap();
    let s = MatmulShape { m: 100, n: 200, k: 3001 };
    let bytes = cpu.scratch_bytes(ScratchFor::MatmulNt(s));
    let (x, w) = (cpu.alloc(s.m * s.k).unwrap(), cpu.alloc(s.n * s.k).unwrap());
    let mut y = cpu.alloc(s.m * s.n).unwrap();
    cpu.reserve_scratch(bytes).unwrap();
    cpu.matmul_nt(&mut y, &x, &w, None, None, s).unwrap();
    assert_eq!(cpu.scratch_high_water(), bytes);

    let cpu = Cpu::<bf16>::new(2).unwrap();
    let s = HeadShape { tokens: 130, width: 64, vocab: 1000 };
    let bytes = cpu.scratch_bytes(ScratchFor::HeadLoss(s, false));
    let (mut nll, x, w) = (cpu.alloc(130).unwrap(), cpu.alloc(130 * 64).unwrap(), cpu.alloc(64_000).unwrap());
    cpu.head_loss(&mut nll, &x, &w, None, &cpu.alloc(130).unwrap(), None, s).unwrap();
    assert_eq!(cpu.scratch_high_water(), bytes);
}

#[test]
fn short_buffers_are_refused_by_name() {
    let cpu = Cpu::<f32>::new(1).unwrap();
    let (mut y, gate, up) = (cpu.alloc(8).unwrap(), cpu.alloc(8).unwrap(), cpu.alloc(7).unwrap());
    let refusal = cpu.swiglu(&mut y, &gate, &up, 8).unwrap_err().to_string();
    assert_eq!(refusal, "device cpu: swiglu: up has 7 elements, 8 are needed");
}

/// The suite itself: what it must not let pass.
fn caught(got: &[f32], beyond: f32) -> String {
    let cpu = Cpu::<f32>::new(1).unwrap();
    let mut suite = Suite::new(&cpu, "faulty");
    let (want, plain) = ([1.0, -2.0, 3.0, 0.0], [1.0, -2.0, 3.0, 0.0]);
    let buf = suite.upload(&[got, &[77.0, 77.0, beyond]].concat());
    let compare = std::panic::AssertUnwindSafe(|| suite.compare::<f32>("it", &buf, &want, &plain));
    let message = std::panic::catch_unwind(compare).err().map(|e| *e.downcast::<String>().unwrap());
    message.unwrap_or_default()
}

#[test]
fn a_wrong_result_is_caught() {
    assert_eq!(caught(&[1.0, -2.0, 3.0, 0.0], 77.0), "");
    assert!(caught(&[1.0, -2.0, 3.00001, 0.0], 77.0).contains("element 2 of 4 is 3.0"));
    assert!(caught(&[1.0, f32::NAN, 3.0, 0.0], 77.0).contains("element 1 of 4 is NaN"));
    assert!(caught(&[1.0, -2.0, 3.0, f32::INFINITY], 77.0).contains("element 3 of 4 is inf"));
    assert!(caught(&[1.0, -2.0, 3.0, 0.0], 76.0).contains("wrote beyond the end"));
}
