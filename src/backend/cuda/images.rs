//! The kernels that this build carries (build.rs compiled them), and which of them a GPU can run.

/// One file of `cuda/`, compiled.
pub struct Image {
    /// The file's name without its ending.
    pub name: &'static str,
    /// What is inside: machine code (`sm_80`) and PTX (`compute_80`).
    pub archs: &'static [&'static str],
    /// A fat binary, as `cuModuleLoadData` takes it.
    pub bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// All architectures of this build, as in `sm_80, sm_90a, compute_80`.
pub fn architectures() -> String {
    IMAGES.first().map_or(String::new(), |image| image.archs.join(", "))
}

/// What the driver would load on a GPU of this compute capability: machine code of the same major version, the newest minor
/// that is not above it, else PTX that it compiles itself.
pub fn image_for(archs: &[&'static str], major: u32, minor: u32) -> Option<&'static str> {
    let have = 10 * major + minor;
    let number =
        |arch: &str, prefix: &str| arch.strip_prefix(prefix)?.trim_end_matches('a').parse::<u32>().ok();
    let code = |arch: &&&'static str| {
        let exact_only = arch.ends_with('a');
        number(arch, "sm_").is_some_and(|n| n / 10 == major && n <= have && (n == have || !exact_only))
    };
    let newest = |prefix: &'static str| move |arch: &&&'static str| number(arch, prefix);
    archs.iter().filter(code).max_by_key(newest("sm_")).copied().or_else(|| {
        let ptx = archs.iter().filter(|arch| number(arch, "compute_").is_some_and(|n| n <= have));
        ptx.max_by_key(newest("compute_")).copied()
    })
}

#[cfg(test)]
mod tests {
    use super::image_for;

    const ARCHS: &[&str] = &["sm_80", "sm_86", "sm_90a", "compute_80"];

    #[test]
    fn a_gpu_gets_the_newest_code_of_its_generation_else_ptx() {
        for (major, minor, want) in
            [(8, 0, "sm_80"), (8, 6, "sm_86"), (8, 9, "sm_86"), (9, 0, "sm_90a"), (10, 0, "compute_80")]
        {
            assert_eq!(image_for(ARCHS, major, minor), Some(want), "{major}.{minor}");
        }
        assert_eq!(image_for(ARCHS, 7, 5), None);
        assert_eq!(image_for(&[], 8, 0), None);
    }
}
