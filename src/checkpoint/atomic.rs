//! Directories that exist whole or not at all.
//!
//! Files go into a hidden directory beside the target, `.NAME.tmp-PID`; they are forced to disk, hashed into a manifest,
//! and one rename makes them the target. A process that dies on the way leaves only the hidden directory, which the next
//! one removes.

use super::manifest::{MANIFEST, Manifest, sync};
use crate::error::{Error, Result};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What to do with something that stands where we want to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    /// The user asked for it, or it is known to be incomplete. It stays until its successor is complete.
    Replace,
}

/// Whether `path` exists and is not an empty directory: what is there is never overwritten unasked.
pub fn is_occupied(path: &Path) -> bool {
    let empty = fs::read_dir(path).map(|mut entries| entries.next().is_none()).unwrap_or(false);
    path.symlink_metadata().is_ok() && !empty
}

/// An error where [`is_occupied`], of the flag that names the place.
pub fn refuse_existing(path: &Path) -> Result<()> {
    if is_occupied(path) {
        let problem = "exists already and is never overwritten unasked; give another name or remove it";
        return Err(Error::usage("--out", path.display(), problem));
    }
    Ok(())
}

/// A directory in the making. Dropped before [`Staging::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    temp: PathBuf,
    existing: Existing,
}

impl Staging {
    /// Begins `target`; its parents are made where they are missing.
    pub fn create(target: &Path, existing: Existing) -> Result<Staging> {
        let Some(name) = target.file_name().and_then(|n| n.to_str()) else {
            return Err(Error::file(target, "is not a name that a directory can be made under"));
        };
        let parent = parent_of(target);
        fs::create_dir_all(&parent).map_err(|e| Error::io(&parent, "making the directory", e))?;
        clean_up(&parent, |of, pid| of == name && !is_running(pid));
        if existing == Existing::Refuse {
            refuse_existing(target)?;
        }
        let temp = parent.join(format!(".{name}.tmp-{}", std::process::id()));
        fs::create_dir(&temp).map_err(|e| Error::io(&temp, "making the directory", e))?;
        Ok(Staging { target: target.into(), temp, existing })
    }

    /// Where the files go until they are complete.
    pub fn dir(&self) -> &Path {
        &self.temp
    }

    /// Writes a small file; directories in `relative` are made.
    pub fn write(&self, relative: &str, bytes: &[u8]) -> Result<()> {
        let path = self.temp.join(relative);
        let parent = parent_of(&path);
        fs::create_dir_all(&parent).map_err(|e| Error::io(&parent, "making the directory", e))?;
        fs::write(&path, bytes).map_err(|e| Error::io(&path, "writing", e))
    }

    /// Forces everything to disk, writes the manifest, and makes the directory the target.
    pub fn commit(self) -> Result<Manifest> {
        let manifest = Manifest::of(&self.temp)?;
        let path = self.temp.join(MANIFEST);
        let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::file(&path, e.to_string()))?;
        fs::File::create(&path)
            .and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
            .map_err(|e| Error::io(&path, "writing", e))?;
        sync(&self.temp)?;
        self.rename()?;
        sync(&parent_of(&self.target))?;
        Ok(manifest)
    }

    fn rename(&self) -> Result<()> {
        let moving = |e| Error::io(&self.target, "renaming the finished directory", e);
        if self.existing == Existing::Refuse {
            refuse_existing(&self.target)?;
        }
        let old = self.temp.with_extension(format!("old-{}", std::process::id()));
        let replaced = match fs::rename(&self.target, &old) {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(moving(e)),
        };
        if let Err(e) = fs::rename(&self.temp, &self.target) {
            if replaced {
                // the old one comes back; if that fails too, clean_up does it at the next start
                let _ = fs::rename(&old, &self.target);
            }
            return Err(moving(e));
        }
        if replaced {
            let _ = fs::remove_dir_all(&old);
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // gone already after a commit; on an error nothing half-written may stay, and there is no one to tell
        let _ = fs::remove_dir_all(&self.temp);
    }
}

/// Writes a small file in the place of the one before, so that no reader and no death meets half of it: a hidden file beside it,
/// `.NAME.new`, is forced to disk and renamed. Where that fails, nothing is left of it.
pub fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("file");
    let temp = path.with_file_name(format!(".{name}.new"));
    let written = fs::File::create(&temp).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&temp, path)).inspect_err(|_| _ = fs::remove_file(&temp))
}

/// Whether a name is that of a file which [`replace_file`] did not come to the end of.
pub fn is_unfinished(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".new"))
}

pub(super) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

/// Removes a directory so that no reader meets a part of it: one rename hides it first.
pub(super) fn discard(dir: &Path) -> Result<()> {
    let removing = |e| Error::io(dir, "removing", e);
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let hidden = parent_of(dir).join(format!(".{name}.tmp-{}", std::process::id()));
    fs::rename(dir, &hidden).map_err(removing)?;
    fs::remove_dir_all(&hidden).map_err(removing)
}

/// Removes what dead processes left in `parent`. Names that are `ours` are staged by no one else, as those of a run by the process
/// that holds it: of these a process with the number in the name may live, but it is another one.
pub(super) fn sweep(parent: &Path, ours: impl Fn(&str) -> bool) {
    clean_up(parent, |name, pid| ours(name) || !is_running(pid));
}

/// Removes what is `dead` (by the name that it was to have and the process that made it) of earlier attempts, and brings back
/// a predecessor that was moved aside for a successor that never came. Nothing here is worth stopping for: a leftover is hidden
/// and harmless.
fn clean_up(parent: &Path, dead: impl Fn(&str, u32) -> bool) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let Some((name, kind, pid)) = file.to_str().and_then(leftover) else { continue };
        if !dead(name, pid) {
            continue;
        }
        let target = parent.join(name);
        match kind {
            "tmp" => _ = fs::remove_dir_all(entry.path()),
            "old" if target.exists() => _ = fs::remove_dir_all(entry.path()),
            "old" => _ = fs::rename(entry.path(), target),
            _ => {}
        }
    }
}

/// `.NAME.KIND-PID` in its parts.
fn leftover(file: &str) -> Option<(&str, &str, u32)> {
    let (name, rest) = file.strip_prefix('.')?.rsplit_once('.')?;
    let (kind, pid) = rest.split_once('-')?;
    Some((name, kind, pid.parse().ok()?))
}

/// Whether another process of this number lives. Our own number means a leftover: containers number from 1 every time,
/// and a process stages a target once at a time.
fn is_running(pid: u32) -> bool {
    let processes = Path::new("/proc");
    pid != std::process::id()
        && (!processes.join("self").exists() || processes.join(pid.to_string()).exists())
}
