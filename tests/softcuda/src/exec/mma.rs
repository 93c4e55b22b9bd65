//! `mma.sync` m16n8k16 and `ldmatrix` (PTX ISA 9.0, section 9.7.14).
//!
//! Products of bf16 (or f16) are exact in f32; they are added to the sum by fused multiply-adds, k ascending. Hardware adds in
//! an order and with a width of its own: results agree within the rounding of f32 sums, not bit for bit.

/// The registers of a fragment, one array of lanes each.
pub type Lanes = [u64; 32];

fn halves(half: bool, x: u64) -> [f32; 2] {
    let one =
        |x: u16| if half { half::f16::from_bits(x).to_f32() } else { half::bf16::from_bits(x).to_f32() };
    [one(x as u16), one((x >> 16) as u16)]
}

/// d = a·b + c.
pub fn m16n8k16(half: bool, a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 4]) -> [Lanes; 4] {
    let (mut left, mut right) = ([[0f32; 16]; 16], [[0f32; 8]; 16]);
    let mut sums = [[0f32; 8]; 16];
    for lane in 0..32 {
        let (group, pair) = (lane / 4, lane % 4 * 2);
        for (i, a) in a.iter().enumerate() {
            // a0: (group, pair), a1: 8 rows down, a2: 8 columns right, a3: both
            let [x, y] = halves(half, a[lane]);
            let (row, column) = (group + 8 * (i % 2), pair + 8 * (i / 2));
            left[row][column] = x;
            left[row][column + 1] = y;
        }
        for (i, b) in b.iter().enumerate() {
            let [x, y] = halves(half, b[lane]);
            right[pair + 8 * i][group] = x;
            right[pair + 8 * i + 1][group] = y;
        }
        for (i, c) in c.iter().enumerate() {
            sums[group + 8 * (i / 2)][pair + i % 2] = f32::from_bits(c[lane] as u32);
        }
    }
    product(&left, &right, &mut sums);
    let mut d = [[0u64; 32]; 4];
    for lane in 0..32 {
        let (group, pair) = (lane / 4, lane % 4 * 2);
        for (i, d) in d.iter_mut().enumerate() {
            d[lane] = sums[group + 8 * (i / 2)][pair + i % 2].to_bits().into();
        }
    }
    d
}

fn product(left: &[[f32; 16]; 16], right: &[[f32; 8]; 16], sums: &mut [[f32; 8]; 16]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has AVX2 and FMA.
        unsafe { product_fma(left, right, sums) };
        return;
    }
    product_of(left, right, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn product_fma(left: &[[f32; 16]; 16], right: &[[f32; 8]; 16], sums: &mut [[f32; 8]; 16]) {
    product_of(left, right, sums);
}

#[inline(always)]
fn product_of(left: &[[f32; 16]; 16], right: &[[f32; 8]; 16], sums: &mut [[f32; 8]; 16]) {
    for (row, sums) in left.iter().zip(sums) {
        for (x, right) in row.iter().zip(right) {
            for (sum, y) in sums.iter_mut().zip(right) {
                *sum = x.mul_add(*y, *sum);
            }
        }
    }
}

/// What lane `lane` gets of an 8x8 matrix of 16-bit elements: elements 2·(lane%4) and the next of row lane/4, or of column lane/4.
pub fn matrix_part(rows: &[[u16; 8]; 8], lane: usize, transposed: bool) -> u64 {
    let (group, pair) = (lane / 4, lane % 4 * 2);
    let at = |i: usize| if transposed { rows[pair + i][group] } else { rows[group][pair + i] };
    u64::from(at(0)) | u64::from(at(1)) << 16
}
