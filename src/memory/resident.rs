//! What the operating system says of this process.

/// A field of /proc/self/status in bytes; None where there is no such file.
fn status_bytes(field: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Resident memory of this process in bytes, (now, at its peak since [`reset_peak`]); None where /proc is missing.
pub fn resident_bytes() -> Option<(usize, usize)> {
    Some((status_bytes("VmRSS:")?, status_bytes("VmHWM:")?))
}

/// Forgets the peak so far, so that the next reading speaks of what follows. What the process has freed goes back to the
/// system first: tokenizing a library of books leaves much of that. Where the system cannot do either, nothing happens.
pub fn reset_peak() {
    release();
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn release() {
    // SAFETY: malloc_trim takes a number and touches nothing but the allocator's own free memory, which no one refers to;
    // glibc says that any thread may call it at any time (MT-Safe).
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn release() {}

/// What a run of this program could have in all, in bytes: what is available, and what this process has of it.
pub fn within_reach_bytes() -> Option<usize> {
    Some(available_bytes()? + resident_bytes().map_or(0, |(now, _)| now))
}

/// Memory that can be taken without swapping, in bytes, by the system and by this process's cgroup; None where it is
/// not said.
pub fn available_bytes() -> Option<usize> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let system = line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    let cgroup = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    Some(cgroup.map_or(system, |(max, used)| system.min(max.saturating_sub(used))))
}
