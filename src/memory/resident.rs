//! What the operating system says of this process.

use std::path::Path;

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

/// Memory that can be taken without swapping, in bytes, by the system and by the control groups that this process is in; None where
/// it is not said.
pub fn available_bytes() -> Option<usize> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let system = line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(groups.lines().filter_map(left_in_groups).fold(system, usize::min))
}

/// Where one version of control groups keeps what it says of memory (the kernel's admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst).
struct Hierarchy {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// In memory.stat: pages of files that are given back before anyone goes short.
    inactive: &'static str,
}

const V2: Hierarchy = Hierarchy {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    inactive: "inactive_file",
};
const V1: Hierarchy = Hierarchy {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    inactive: "total_inactive_file",
};

/// What the group that a line of /proc/self/cgroup names, and those that it is in, leave; None without a limit.
fn left_in_groups(line: &str) -> Option<usize> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    let hierarchy = match controllers {
        "" => V2,
        _ if controllers.split(',').any(|name| name == "memory") => V1,
        _ => return None,
    };
    let inner = Path::new(path.trim_start_matches('/'));
    inner.ancestors().filter_map(|group| hierarchy.left_in(&Path::new(hierarchy.root).join(group))).min()
}

impl Hierarchy {
    fn left_in(&self, group: &Path) -> Option<usize> {
        let read = |file: &str| std::fs::read_to_string(group.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<usize>().ok();
        let (limit, used) = (number(self.limit)?, number(self.used)?);
        let stat = read("memory.stat").unwrap_or_default();
        let inactive =
            stat.lines().find_map(|line| line.strip_prefix(self.inactive)?.trim().parse::<usize>().ok());
        Some(limit.saturating_sub(used.saturating_sub(inactive.unwrap_or(0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_leaves_what_is_not_used_and_what_would_be_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        assert_eq!(V2.left_in(dir.path()), None);
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(V2.left_in(dir.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(V2.left_in(dir.path()), Some(300));
        write("memory.stat", "anon 100\ninactive_file 200\nactive_file 400\n");
        assert_eq!(V2.left_in(dir.path()), Some(500));
        write("memory.max", "400\n");
        assert_eq!(V2.left_in(dir.path()), Some(0));
    }

    #[test]
    fn lines_that_say_nothing_of_memory_limit_nothing() {
        for line in ["", "0", "3:", "3:cpu,cpuacct:/a", "4:memory_more:/"] {
            assert_eq!(left_in_groups(line), None, "{line:?}");
        }
    }
}
