//! Matrix products and the bias gradient.

use super::*;

pub fn matmul_nt(
    y: &mut Buf, x: &Buf, w: &Buf, bias: Option<&Buf>, residual: Option<&Buf>, s: MatmulShape,
) -> Result<()> {
    let MatmulShape { m, n, k } = s;
    let (x, w) = (part("matmul_nt", "x", x, m * k)?, part("matmul_nt", "w", w, n * k)?);
    let bias = bias.map(|b| part("matmul_nt", "bias", b, n)).transpose()?;
    let residual = residual.map(|r| part("matmul_nt", "residual", r, m * n)).transpose()?;
    let y = part_mut("matmul_nt", "y", y, m * n)?;
    for i in 0..m {
        for j in 0..n {
            let dot: f64 = (0..k).map(|l| x[i * k + l] * w[j * k + l]).sum();
            y[i * n + j] = dot + bias.map_or(0.0, |b| b[j]) + residual.map_or(0.0, |r| r[i * n + j]);
        }
    }
    Ok(())
}

pub fn matmul_nn(dx: &mut Buf, dy: &Buf, w: &Buf, write: Write, s: MatmulShape) -> Result<()> {
    let MatmulShape { m, n, k } = s;
    let (dy, w) = (part("matmul_nn", "dy", dy, m * n)?, part("matmul_nn", "w", w, n * k)?);
    let dx = part_mut("matmul_nn", "dx", dx, m * k)?;
    if write == Write::Overwrite {
        dx.fill(0.0);
    }
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                dx[i * k + l] += dy[i * n + j] * w[j * k + l];
            }
        }
    }
    Ok(())
}

pub fn matmul_tn(dw: &mut Buf, dy: &Buf, x: &Buf, s: MatmulShape) -> Result<()> {
    let MatmulShape { m, n, k } = s;
    let (dy, x) = (part("matmul_tn", "dy", dy, m * n)?, part("matmul_tn", "x", x, m * k)?);
    let dw = part_mut("matmul_tn", "dw", dw, n * k)?;
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                dw[j * k + l] += dy[i * n + j] * x[i * k + l];
            }
        }
    }
    Ok(())
}

pub fn bias_backward(db: &mut Buf, dy: &Buf, m: usize, n: usize) -> Result<()> {
    let dy = part("bias_backward", "dy", dy, m * n)?;
    let db = part_mut("bias_backward", "db", db, n)?;
    for row in dy.chunks_exact(n.max(1)) {
        db.iter_mut().zip(row).for_each(|(b, d)| *b += d);
    }
    Ok(())
}
