//! The client's directory (`~/.mezite`): private, written atomically, one writer at a time.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Largest file of ours that is read.
const MAX_FILE: u64 = 1 << 20;

/// Reads a whole file of at most 1 MiB; `None` when it does not exist.
///
/// # Errors
/// When the file exists and cannot be read as text.
pub fn read(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, &error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| Error::io("read", path, &error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::Local(format!("{} is larger than 1 MiB", path.display())));
    }
    Ok(Some(text))
}

/// Reads a secret: as [`read`], but not one that others could have read, or changed.
///
/// # Errors
/// As [`read`], and when the file's mode gives anybody but its owner a right.
pub fn read_secret(path: &Path) -> Result<Option<Zeroizing<String>>> {
    let Some(text) = read(path)?.map(Zeroizing::new) else { return Ok(None) };
    let mode = fs::metadata(path).map_err(|error| Error::io("read", path, &error))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(Some(text));
    }
    let message =
        format!("{} is open to other users of this machine; run `msh logout`, then `msh login`", path.display());
    Err(Error::Local(message))
}

/// Replaces `path` in one step: readers see the old content or the new, never a part. Missing directories are made with
/// mode 0700. The file has exactly `mode`.
///
/// # Errors
/// When the directory cannot be made or the file not written; the old content stays.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let failed = |error: &std::io::Error| Error::io("write", path, error);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_dir(dir)?;
    let name = path.file_name().ok_or_else(|| Error::Local(format!("{} is not a file name", path.display())))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = dir.join(temporary);
    let attempt = || {
        // A leftover of a killed process with the same id must not lend its mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(&error)
    })
}

/// Makes a directory and its parents, each with mode 0700; an existing one is left as it is.
///
/// # Errors
/// When one of them cannot be made.
pub fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| Error::io("create", dir, &error))
}

/// Holds the directory's lock until dropped, so that two logins do not mix their files.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

/// Waits for the lock of `dir`.
///
/// # Errors
/// When the lock file cannot be opened.
pub fn lock(dir: &Path) -> Result<Lock> {
    make_dir(dir)?;
    let path: PathBuf = dir.join("lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.and_then(|file| file.lock().map(|()| file)).map_err(|error| Error::io("lock", &path, &error))?;
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_can_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("session");
        write(&file, b"token", 0o600).unwrap();
        assert_eq!(read_secret(&file).unwrap().unwrap().as_str(), "token");
        for mode in [0o640, 0o604, 0o602] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert!(read_secret(&file).unwrap_err().to_string().contains("session is open to"), "{mode:o}");
        }
        assert!(read_secret(&dir.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/secret");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("two"));
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        assert_eq!(read(&dir.path().join("absent")).unwrap(), None);
    }

    #[test]
    fn a_huge_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        fs::write(&path, vec![b'a'; (MAX_FILE + 1) as usize]).unwrap();
        assert!(read(&path).is_err());
    }
}
