//! Means with their standard errors.

/// Mean of `values` and the standard error of that mean, s/√n; no error for fewer than two.
pub fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, None);
    }
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
    (mean, Some((variance / n).sqrt()))
}

/// Standard error of a proportion, √(p(1−p)/n).
pub fn proportion_error(p: f64, n: usize) -> f64 {
    (p * (1.0 - p) / n.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn known_values() {
        let (mean, error) = mean_and_error(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean, 2.5);
        assert_relative_eq!(error.expect("four values have an error"), (5.0f64 / 3.0 / 4.0).sqrt());
        assert_eq!(mean_and_error(&[2.0]), (2.0, None));
        assert_relative_eq!(proportion_error(0.5, 100), 0.05);
    }
}
