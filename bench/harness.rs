//! What the benchmarks share: timing with median and spread, rows with shares of the machine's peak, random buffers.
#![allow(dead_code)]

#[cfg(feature = "bench-cublas")]
#[path = "cublas.rs"]
mod cublas;

use pose_engine::backend::cpu::{Cpu, CpuFloat};
use pose_engine::backend::cuda::{Cuda, CudaFloat};
use pose_engine::backend::device::{Device, threads_or_all};
use pose_engine::backend::{Backend, Float, MatmulShape, Peaks};
use pose_engine::random::{Purpose, Stream};
use serde_json::json;
use std::time::{Duration, Instant};

/// Seconds of one call: the median of at least five after a warm-up, and the middle half's width as a share of it.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub median: f64,
    pub spread: f64,
}

/// A backend with a clock.
pub trait Stopwatch: Backend {
    /// Seconds of one call.
    fn seconds(&self, call: &mut dyn FnMut()) -> f64;

    /// The device, in a few words.
    fn about(&self) -> String;

    /// What the device can do at most, measured now.
    fn peaks(&self) -> Peaks;

    /// Its GB/s alone.
    fn bandwidth(&self) -> f64 {
        self.peaks().bandwidth_gbs
    }

    /// `y = x·wᵀ` by the device vendor's own library; false where the benchmark was built without it.
    fn vendor_nt(
        &self, _y: &mut Self::Buf<Self::Act>, _x: &Self::Buf<Self::Act>, _w: &Self::Buf<Self::Act>,
        _s: MatmulShape,
    ) -> bool {
        false
    }
}

impl<E: CpuFloat> Stopwatch for Cpu<E> {
    fn seconds(&self, call: &mut dyn FnMut()) -> f64 {
        let begin = Instant::now();
        call();
        begin.elapsed().as_secs_f64()
    }

    fn about(&self) -> String {
        format!("cpu, {} threads, {}", self.threads(), self.isa())
    }

    fn peaks(&self) -> Peaks {
        self.measure_peak()
    }

    fn bandwidth(&self) -> f64 {
        self.measure_bandwidth()
    }
}

/// What is timed on any device, in one dtype or in both.
pub trait Bench {
    fn run<B: Stopwatch>(&self, b: &B);
}

/// Runs it on the device, in bf16 and then, if `both`, in f32; ends the program where the device cannot be used.
pub fn run_on(device: Device, threads: usize, both: bool, bench: &impl Bench) {
    let on = |ordinal: usize| -> pose_engine::error::Result<()> {
        bench.run(&Cuda::<half::bf16>::new(ordinal)?);
        if both {
            bench.run(&Cuda::<f32>::new(ordinal)?);
        }
        Ok(())
    };
    if let Device::Cuda(ordinal) = device {
        if let Err(problem) = on(ordinal) {
            eprintln!("{problem}");
            std::process::exit(1);
        }
        return;
    }
    let threads = threads_or_all(threads);
    bench.run(&Cpu::<half::bf16>::new(threads).expect("a CPU"));
    if both {
        bench.run(&Cpu::<f32>::new(threads).expect("a CPU"));
    }
}

/// Written before each call on a GPU, so that the call finds nothing of its own in the second-level cache.
const FLUSH: usize = 256 << 20;

impl<E: CudaFloat> Stopwatch for Cuda<E> {
    fn seconds(&self, call: &mut dyn FnMut()) -> f64 {
        let flush = self.alloc::<u8>(FLUSH).expect("memory for the benchmark");
        let timed = Cuda::seconds(self, || {
            call();
            Ok(())
        });
        drop(flush);
        timed.expect("the device still works")
    }

    fn about(&self) -> String {
        self.description().name.clone()
    }

    fn peaks(&self) -> Peaks {
        /// A millisecond or so.
        const ROUNDS: usize = 4096;
        self.measure_peak(ROUNDS).expect("the device still works")
    }

    #[cfg(feature = "bench-cublas")]
    fn vendor_nt(
        &self, y: &mut Self::Buf<Self::Act>, x: &Self::Buf<Self::Act>, w: &Self::Buf<Self::Act>,
        s: MatmulShape,
    ) -> bool {
        cublas::nt::<E>(self.stream(), [y, x, w].map(|buf| buf.device_address()), s);
        true
    }
}

pub fn time<B: Stopwatch>(b: &B, mut call: impl FnMut()) -> Timing {
    const LEAST: usize = 5;
    const FOR: Duration = Duration::from_millis(400);
    b.seconds(&mut call);
    let (mut seconds, start) = (Vec::new(), Instant::now());
    while seconds.len() < LEAST || (start.elapsed() < FOR && seconds.len() < 2000) {
        seconds.push(b.seconds(&mut call));
    }
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| seconds[(share * (seconds.len() - 1) as f64) as usize];
    Timing { median: at(0.5), spread: (at(0.75) - at(0.25)) / at(0.5) }
}

/// GFLOP/s of multiply-adds of a type.
pub fn peak_of(dtype: &str, peaks: &Peaks) -> f64 {
    if dtype == "bf16" { peaks.bf16_gflops } else { peaks.f32_gflops }
}

/// Prints rows against the peaks that were measured in the same run, for people or, as JSON objects, for programs.
pub struct Table {
    dtype: String,
    pub peak_gflops: f64,
    pub peak_gbs: f64,
    json: bool,
}

impl Table {
    pub fn new(dtype: &str, peaks: &Peaks, json: bool) -> Table {
        let peak_gflops = peak_of(dtype, peaks);
        let table = Table { dtype: dtype.into(), peak_gflops, peak_gbs: peaks.bandwidth_gbs, json };
        table.head();
        table
    }

    fn head(&self) {
        let Table { dtype, peak_gflops, peak_gbs, json } = self;
        if *json {
            println!("{}", json!({ "dtype": dtype, "peak_gflops": peak_gflops, "peak_gbs": peak_gbs }));
            return;
        }
        println!("\n{dtype}: peak {peak_gflops:.0} GFLOP/s, {peak_gbs:.1} GB/s, both measured now");
        println!(
            "{:44} {:>10} {:>7} {:>9} {:>5} {:>8} {:>5}",
            "", "ms", "+/-", "GFLOP/s", "peak", "GB/s", "peak"
        );
    }

    /// `flops` and `bytes`: what the operation's contract says must be done and moved.
    pub fn row(&self, name: &str, t: Timing, flops: f64, bytes: f64) {
        let (gflops, gbs) = (flops / t.median / 1e9, bytes / t.median / 1e9);
        if self.json {
            let (dtype, seconds, spread) = (&self.dtype, t.median, t.spread);
            println!(
                "{}",
                json!({ "dtype": dtype, "name": name.trim(), "seconds": seconds, "spread": spread,
                        "gflops": gflops, "gbs": gbs })
            );
            return;
        }
        println!(
            "{name:44} {:10.3} {:6.1}% {gflops:9.1} {:4.0}% {gbs:8.1} {:4.0}%",
            1e3 * t.median,
            100.0 * t.spread,
            100.0 * gflops / self.peak_gflops,
            100.0 * gbs / self.peak_gbs,
        );
    }
}

/// `len` numbers between -0.5 and 0.5.
pub fn random<B: Backend, T: Float>(b: &B, len: usize) -> B::Buf<T> {
    let mut stream = Stream::new(1, Purpose::Task, 0, len as u32);
    let values: Vec<T> = (0..len).map(|_| T::from_f64(stream.unit_f64() - 0.5)).collect();
    let mut buf = b.alloc(len).expect("memory for the benchmark");
    b.upload(&mut buf, 0, &values).expect("the buffer is as long as its content");
    buf
}
