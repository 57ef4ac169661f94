//! Recordings on the local disk: files that are only ever added (F415, F416).
//!
//! ```text
//! recordings/index                     one line of JSON per sealed recording, in the order of their seals
//! recordings/1b/1b4e28ba-…/meta.json   written when the upload begins
//! recordings/1b/1b4e28ba-…/000000.chunk …
//! recordings/1b/1b4e28ba-…/seal.json   written last; after it nothing is added
//! recordings/.tmp/                     files being written; emptied at start
//! ```
//! A file gets its name by a hard link once it is whole and on the disk, so a name never stands for half a file and is
//! never given twice.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use mezite_core::{Fault, Invalid, name};
use uuid::Uuid;

use crate::fault;

/// Largest file of a recording, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// Most chunks of one recording.
const MAX_CHUNKS: u64 = 999_999;
const META: &str = "meta.json";
const SEAL: &str = "seal.json";

/// The directory of recordings. Clones share it.
#[derive(Clone, Debug)]
pub struct Recordings {
    root: Arc<Path>,
}

/// Path of a recording below the directory of recordings: what `sessions.recording_path` holds.
pub(crate) fn relative(session_id: &str) -> Option<String> {
    let head = session_id.get(..2).filter(|_| name::is_uuid(session_id))?;
    Some(format!("{head}/{session_id}"))
}

impl Recordings {
    /// Opens the directory, making it (mode 0700) if it is missing, and clears what a crash left half-written.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when it cannot be made or written.
    pub async fn open(root: PathBuf) -> Result<Self, Fault> {
        let this = Self { root: root.into() };
        this.run(|root| {
            let tmp = root.join(".tmp");
            make_dir(root)?;
            match fs::remove_dir_all(&tmp) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fault::io("clear", shown(&tmp), &e)),
                _ => make_dir(&tmp),
            }
        })
        .await?;
        Ok(this)
    }

    /// Writes the metadata of a recording, which begins it. Saying the same again changes nothing.
    ///
    /// # Errors
    /// [`Fault::Conflict`] when it exists with other content; [`Fault::Invalid`] when the id is no UUID.
    pub async fn begin(&self, session_id: &str, meta: Bytes) -> Result<(), Fault> {
        let dir = self.dir(session_id)?;
        self.run(move |root| {
            make_dir(&dir)?;
            put(root, &dir.join(META), &meta)
        })
        .await
    }

    /// How many chunks are held, counted from 0 up to the first gap.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the directory cannot be read.
    pub async fn held(&self, session_id: &str) -> Result<u64, Fault> {
        let dir = self.dir(session_id)?;
        self.run(move |_| held(&dir)).await
    }

    /// Appends chunk `number`, at most 4 MiB, and returns when it is on the disk. A chunk sent again with the same content
    /// changes nothing.
    ///
    /// # Errors
    /// [`Fault::Conflict`] when the number leaves a gap, the chunk exists with other content, or the recording is sealed;
    /// [`Fault::Unavailable`] when the disk is full: nothing of the chunk is kept then, and it can be sent again.
    pub async fn append(&self, session_id: &str, number: u64, data: Bytes) -> Result<(), Fault> {
        let dir = self.dir(session_id)?;
        self.run(move |root| {
            let path = dir.join(chunk_name(number)?);
            if !exists(&path)? {
                if exists(&dir.join(SEAL))? {
                    return Err(Fault::Conflict("the recording is sealed".into()));
                }
                if let Some(before) = number.checked_sub(1)
                    && !exists(&dir.join(chunk_name(before)?))?
                {
                    return Err(Fault::Conflict(format!("chunk {number} leaves a gap; {} are held", held(&dir)?)));
                }
            }
            put(root, &path, &data)
        })
        .await
    }

    /// One chunk; `None` when it is not held.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when it cannot be read.
    pub async fn chunk(&self, session_id: &str, number: u64) -> Result<Option<Bytes>, Fault> {
        let path = self.dir(session_id)?.join(chunk_name(number)?);
        self.run(move |_| get(&path)).await
    }

    /// The metadata; `None` when there is no such recording.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when it cannot be read.
    pub async fn meta(&self, session_id: &str) -> Result<Option<Bytes>, Fault> {
        let path = self.dir(session_id)?.join(META);
        self.run(move |_| get(&path)).await
    }

    /// Seals a recording with one line of JSON, which also goes into the index. Nothing can be added to it afterwards.
    /// Sealing again with the same line changes nothing.
    ///
    /// # Errors
    /// [`Fault::Conflict`] when it is sealed with another line; [`Fault::Invalid`] when the text is not one line.
    pub async fn seal(&self, session_id: &str, line: &str) -> Result<(), Fault> {
        if line.contains('\n') {
            return Err(Invalid::new("seal", "must be one line").into());
        }
        let dir = self.dir(session_id)?;
        let line = format!("{line}\n");
        self.run(move |root| {
            make_dir(&dir)?;
            let path = dir.join(SEAL);
            let first = !exists(&path)?;
            put(root, &path, line.as_bytes())?;
            // Sealing again heals an index that a crash left without the line.
            if first || !is_in_index(root, &line)? { add_to_index(root, &line) } else { Ok(()) }
        })
        .await
    }

    /// The line a recording was sealed with; `None` while it is open.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when it cannot be read.
    pub async fn sealed(&self, session_id: &str) -> Result<Option<Bytes>, Fault> {
        let path = self.dir(session_id)?.join(SEAL);
        self.run(move |_| get(&path)).await
    }

    /// The id is checked before it becomes part of a path.
    fn dir(&self, session_id: &str) -> Result<PathBuf, Fault> {
        let below = relative(session_id).ok_or_else(|| Invalid::new("session_id", "must be a lower-case UUID"))?;
        Ok(self.root.join(below))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let root = Arc::clone(&self.root);
        let done = tokio::task::spawn_blocking(move || work(&root)).await;
        done.map_err(|e| Fault::Bug(format!("recordings: {e}")))?
    }
}

/// A file by its last two names: callers on other machines read it too, and where the hub keeps its data is none of their
/// business.
fn shown(path: &Path) -> String {
    let names = [path.parent().and_then(Path::file_name), path.file_name()];
    names.into_iter().flatten().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn chunk_name(number: u64) -> Result<String, Fault> {
    if number > MAX_CHUNKS {
        return Err(Invalid::new("number", format!("a recording has at most {} chunks", MAX_CHUNKS + 1)).into());
    }
    Ok(format!("{number:06}.chunk"))
}

fn held(dir: &Path) -> Result<u64, Fault> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(fault::io("read", shown(dir), &e)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| fault::io("read", shown(dir), &e))?.file_name();
        numbers.extend(name.to_str().and_then(|n| n.strip_suffix(".chunk")?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    let whole = numbers.iter().zip(0_u64..).take_while(|(number, expected)| *number == expected).count();
    Ok(u64::try_from(whole).unwrap_or(u64::MAX))
}

/// Gives `path` this content, all of it or nothing.
fn put(root: &Path, path: &Path, content: &[u8]) -> Result<(), Fault> {
    let failed = |e: io::Error| fault::io("write", shown(path), &e);
    if u64::try_from(content.len()).is_ok_and(|len| len > MAX_FILE) {
        return Err(Invalid::new("data", format!("is longer than {MAX_FILE} bytes")).into());
    }
    let tmp = root.join(".tmp").join(Uuid::new_v4().to_string());
    let written = write_synced(&tmp, content).and_then(|()| fs::hard_link(&tmp, path));
    // Also after an error: on a full disk the rest of it is in the way.
    let _ = fs::remove_file(&tmp);
    match written {
        Ok(()) => path.parent().map_or(Ok(()), sync_dir).map_err(failed),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match get(path)? {
            Some(held) if held == content => Ok(()),
            _ => Err(Fault::Conflict(format!("{} exists with other content", shown(path)))),
        },
        Err(e) => Err(failed(e)),
    }
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn get(path: &Path) -> Result<Option<Bytes>, Fault> {
    let failed = |e: io::Error| fault::io("read", shown(path), &e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(failed)?;
    if u64::try_from(content.len()).is_ok_and(|len| len > MAX_FILE) {
        return Err(Fault::Unavailable(format!("{} is longer than any file we write", shown(path))));
    }
    Ok(Some(content.into()))
}

fn exists(path: &Path) -> Result<bool, Fault> {
    path.try_exists().map_err(|e| fault::io("read", shown(path), &e))
}

fn is_in_index(root: &Path, line: &str) -> Result<bool, Fault> {
    let path = root.join("index");
    let search = || -> io::Result<bool> {
        for held in BufReader::new(File::open(&path)?).lines() {
            if held? == line.trim_end() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match search() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map_err(|e| fault::io("read", shown(&path), &e)),
    }
}

fn add_to_index(root: &Path, line: &str) -> Result<(), Fault> {
    let path = root.join("index");
    let add = || {
        let mut index = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        index.write_all(line.as_bytes())?;
        index.sync_all()
    };
    add().map_err(|e| fault::io("write", shown(&path), &e))
}

/// Makes a directory and those above it, private, and puts their names on the disk.
fn make_dir(dir: &Path) -> Result<(), Fault> {
    let make = || {
        if dir.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        dir.ancestors().skip(1).take(2).try_for_each(sync_dir)
    };
    make().map_err(|e| fault::io("make", shown(dir), &e))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() { Ok(()) } else { File::open(dir)?.sync_all() }
}
