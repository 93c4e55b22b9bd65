//! Which vector instructions the machine has, and the macro that compiles one generic body for each of them.

use crate::error::{Error, Result};
use std::fmt;

/// A set of vector instructions that the kernels are compiled for. Ordered: each contains the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What the compilation target guarantees; vectorised by the compiler alone.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// AVX-512 with dot products of bf16 and of integers (VNNI, which every processor with the former has).
    Avx512Bf16,
    /// The same instructions; but large products of bf16 are computed in f32, of operands that are widened as they are packed. For
    /// processors whose bf16 dot products have less than half the rate of their f32 multiply-adds.
    Avx512Bf16Wide,
    /// AVX-512 as above with AMX: large products of bf16 in tile registers.
    Amx,
}

impl Isa {
    const ALL: [Isa; 6] =
        [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Avx512Bf16Wide, Isa::Amx];

    /// The fastest that this machine has. It depends on the kind of processor, and for AMX on the system's permission, and never on a
    /// measurement, so that the results of a run have the same bits each time.
    pub fn detect() -> Isa {
        let fits = |isa: &Isa| match isa {
            Isa::Avx512Bf16Wide => pairs_are_slow(),
            _ => true,
        };
        Isa::available().into_iter().rfind(fits).unwrap_or(Isa::Portable)
    }

    /// Whether two bf16 are multiplied at once, in whatever products.
    pub(super) fn has_pairs(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Avx512Bf16Wide | Isa::Amx)
    }

    /// The one that `POSE_CPU_ISA` names, as it is displayed; the fastest that this machine has where it names none.
    pub fn chosen() -> Result<Isa> {
        let Some(name) = std::env::var_os("POSE_CPU_ISA").filter(|name| !name.is_empty()) else {
            return Ok(Isa::detect());
        };
        Isa::ALL.into_iter().find(|isa| name == *isa.to_string()).ok_or_else(|| {
            let all = Isa::ALL.map(|isa| isa.to_string()).join(", ");
            Error::usage("POSE_CPU_ISA", name.display(), format!("must be one of {all}"))
        })
    }

    /// All that this machine has, narrowest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// All that the kernels are written for, narrowest first.
    pub fn all() -> [Isa; 6] {
        Isa::ALL
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let pairs =
            avx512 && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni");
        match self {
            Isa::Portable => true,
            Isa::Avx2 => avx2,
            Isa::Avx512 => avx512,
            Isa::Avx512Bf16 | Isa::Avx512Bf16Wide => pairs,
            Isa::Amx => pairs && super::matmul::amx::permitted(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Isa::Portable
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Avx512Bf16Wide => "avx512-bf16-wide",
            Isa::Amx => "amx",
        })
    }
}

/// What the processor says of itself under `leaf`.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)] // newer compilers know that it is safe
pub(super) fn cpuid(leaf: u32) -> std::arch::x86_64::CpuidResult {
    // SAFETY: every processor of x86-64 has the instruction.
    unsafe { std::arch::x86_64::__cpuid_count(leaf, 0) }
}

/// Whether bf16 dot products are so slow that f32 multiply-adds do the work sooner. In Intel's vectors (Emerald Rapids: 175 GFLOP/s in
/// pairs and 350 in f32 on two cores) they are, AMD's compute pairs at twice the rate of f32 (Zen 4: 450 and 225).
fn pairs_are_slow() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vendor = cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Proof that this machine has an [`Isa`]: there is no other way to make one than [`Simd::new`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Simd(Isa);

impl Simd {
    pub(super) fn new(isa: Isa) -> Result<Simd> {
        if isa.is_available() {
            return Ok(Simd(isa));
        }
        let have = Isa::available().iter().map(Isa::to_string).collect::<Vec<_>>().join(", ");
        Err(Error::Device {
            device: "cpu".into(),
            problem: format!("no {isa} here; this machine has {have}"),
        })
    }

    pub(super) fn isa(self) -> Isa {
        self.0
    }

    pub(super) fn width(self) -> Width {
        match self.0 {
            Isa::Portable => Width::Any,
            Isa::Avx2 => Width::Avx2,
            Isa::Avx512 => Width::Avx512,
            Isa::Avx512Bf16 | Isa::Avx512Bf16Wide | Isa::Amx => Width::Avx512Bf16,
        }
    }
}

/// What loops over vectors of f32 are compiled for.
pub(super) enum Width {
    /// Whatever the compilation target guarantees.
    Any,
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Avx2,
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Avx512,
    /// AVX-512 that rounds to bf16.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Avx512Bf16,
}

/// Compiles `body::<.., FMA>` for every ISA and makes a function that runs the one for its first argument, a [`Simd`].
///
/// `FMA` tells the body whether a fused multiply-add is one instruction. The body must be `#[inline(always)]`: only then
/// is it compiled with the features of the function that it is called from.
macro_rules! per_isa {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $([$($g:ident: $bound:path),*])? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
            => $body:ident;
    )*) => { $(
        $(#[$meta])*
        $vis fn $name<$($($g: $bound),*)?>(simd: $crate::backend::cpu::isa::Simd, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512<$($($g: $bound),*)?>($($arg: $ty),*) $(-> $ret)? {
                $body::<$($($g,)*)? true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($($g: $bound),*)?>($($arg: $ty),*) $(-> $ret)? {
                $body::<$($($g,)*)? true>($($arg),*)
            }
            use $crate::backend::cpu::isa::Width;
            match simd.width() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a Simd of this width exists only where the CPU has these features (Simd::new).
                Width::Avx512 | Width::Avx512Bf16 => unsafe { avx512::<$($($g),*)?>($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Width::Avx2 => unsafe { avx2::<$($($g),*)?>($($arg),*) },
                _ => $body::<$($($g,)*)? false>($($arg),*),
            }
        }
    )* };
}
pub(super) use per_isa;
