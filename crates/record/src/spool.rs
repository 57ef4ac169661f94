//! Recordings on the node's disk until Auth has them: `ROOT/<session id>/{meta.json,NNNNNN.chunk,seal.json}`.
//!
//! Every file is written under another name, synced, renamed, and the directory synced: a file that is there is whole.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::chunk::{Chain, Chunk, MAX_CHUNK};
use crate::metadata::{MAX_METADATA, Metadata, is_session_id};
use crate::seal::{Corrupt, Seal};

const META: &str = "meta.json";
const SEAL: &str = "seal.json";
/// Most bytes of `seal.json`.
const MAX_SEAL: usize = 4096;

/// The spool of one process.
#[derive(Debug)]
pub struct Spool {
    root: PathBuf,
    quarantine: PathBuf,
    live: Mutex<HashSet<String>>,
    /// A recording became ready for upload.
    pub(crate) ready: Notify,
    /// Held for as long as the spool is in use.
    _lock: File,
}

impl Spool {
    /// Opens `data_dir/spool`, made with mode 0700 when absent; what cannot be uploaded goes to `data_dir/quarantine`.
    ///
    /// # Errors
    /// When the directories cannot be made, or another process uses them.
    pub fn open(data_dir: &Path) -> io::Result<Arc<Self>> {
        let (root, quarantine) = (data_dir.join("spool"), data_dir.join("quarantine"));
        for path in [&root, &quarantine] {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(root.join(".lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::WouldBlock, format!("{} is in use by another process", root.display()))
            }
            fs::TryLockError::Error(error) => error,
        })?;
        Ok(Arc::new(Self { root, quarantine, live: Mutex::default(), ready: Notify::new(), _lock: lock }))
    }

    /// The sessions whose recordings wait in the spool, those still being recorded left out.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn waiting(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if is_session_id(&name) && !self.live().contains(&name) {
                found.push(name);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Begins a recording. Its directory must not exist.
    pub(crate) fn create(self: &Arc<Self>, metadata: &Metadata) -> io::Result<Writing> {
        let id = metadata.session_id.as_str();
        if !is_session_id(id) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the session id is not a UUID"));
        }
        let json = serde_json::to_vec(metadata)?;
        if json.len() > MAX_METADATA {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the session's metadata is too long"));
        }
        if !self.live().insert(id.to_owned()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let live = Live { spool: Arc::clone(self), id: id.to_owned() };
        let path = self.root.join(id);
        DirBuilder::new().mode(0o700).create(&path)?;
        let begun = sync_dir(&self.root).and_then(|()| write_file(&path, META, &json));
        if let Err(error) = begun {
            // Nothing was recorded: better no directory than one without a description.
            let _ = fs::remove_dir_all(&path);
            return Err(error);
        }
        Ok(Writing { path, chain: Chain::new(id), metadata: json.into(), _live: live })
    }

    /// A recording that waits for upload. One that no seal closes lost its recorder: it is closed here as incomplete.
    pub(crate) fn load(&self, id: &str) -> Result<Waiting, LoadError> {
        let path = self.root.join(id);
        let metadata = match read_file(&path.join(META), MAX_METADATA) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let nothing = chunk_numbers(&path)?.is_empty();
                return Err(if nothing { LoadError::Empty } else { LoadError::Metadata });
            }
            Err(error) => return Err(error.into()),
        };
        let parsed: Metadata = serde_json::from_slice(&metadata).map_err(|_| LoadError::Metadata)?;
        if metadata.len() > MAX_METADATA || parsed.session_id != id {
            return Err(LoadError::Metadata);
        }
        let seal = match read_file(&path.join(SEAL), MAX_SEAL) {
            Ok(json) => serde_json::from_slice(&json).map_err(|_| Corrupt::Seal)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => recover(&path, &parsed)?,
            Err(error) => return Err(error.into()),
        };
        let waiting = Waiting { path, metadata: metadata.into(), seal };
        waiting.verify(id)?;
        Ok(waiting)
    }

    /// Deletes a recording that Auth holds.
    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        let path = self.root.join(id);
        // Renamed first: what an interruption leaves must not look like a recording with a hole.
        let gone = self.root.join(format!(".done-{id}"));
        fs::rename(&path, &gone)?;
        fs::remove_dir_all(&gone)?;
        sync_dir(&self.root)
    }

    /// Moves a recording out of the way for a person to look at.
    pub(crate) fn quarantine(&self, id: &str) -> io::Result<()> {
        fs::rename(self.root.join(id), self.quarantine.join(id))?;
        sync_dir(&self.quarantine)?;
        sync_dir(&self.root)
    }

    /// Deletes what an interrupted [`Spool::remove`] left.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".done-") {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn live(&self) -> MutexGuard<'_, HashSet<String>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a recording as being made, until its writer is gone in whatever way.
#[derive(Debug)]
struct Live {
    spool: Arc<Spool>,
    id: String,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.spool.live().remove(&self.id);
        self.spool.ready.notify_one();
    }
}

/// A recording that is being made.
#[derive(Debug)]
pub(crate) struct Writing {
    path: PathBuf,
    chain: Chain,
    /// The JSON of `meta.json`.
    pub(crate) metadata: Bytes,
    _live: Live,
}

impl Writing {
    /// Makes the next chunk of `text`, on disk when this returns.
    pub(crate) fn append(&mut self, text: &[u8]) -> io::Result<Chunk> {
        let mut chain = self.chain.clone();
        let chunk = chain.append(text)?;
        write_file(&self.path, &chunk_name(chunk.number), &chunk.to_bytes())?;
        self.chain = chain;
        Ok(chunk)
    }

    /// Closes the recording.
    pub(crate) fn seal(&self, complete: bool, duration_ms: i64) -> io::Result<Seal> {
        let seal = self.chain.seal(complete, duration_ms);
        write_file(&self.path, SEAL, &serde_json::to_vec(&seal)?)?;
        Ok(seal)
    }
}

/// A sealed recording in the spool.
#[derive(Debug)]
pub(crate) struct Waiting {
    path: PathBuf,
    /// The JSON of `meta.json`.
    pub(crate) metadata: Bytes,
    /// Its end.
    pub(crate) seal: Seal,
}

impl Waiting {
    /// Reads one chunk.
    pub(crate) fn chunk(&self, number: u64) -> Result<Chunk, LoadError> {
        let bytes = read_file(&self.path.join(chunk_name(number)), 32 + MAX_CHUNK)?;
        Ok(Chunk::from_bytes(number, bytes.into())?)
    }

    fn verify(&self, id: &str) -> Result<(), LoadError> {
        let mut chain = Chain::new(id);
        for number in 0..self.seal.chunks {
            let chunk = match self.chunk(number) {
                Err(LoadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Corrupt::Missing { first: number, chunks: self.seal.chunks }.into());
                }
                other => other?,
            };
            chain.check(&chunk)?;
        }
        Ok(chain.finish(&self.seal)?)
    }
}

/// Why a directory of the spool is not ready for upload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// It was not even described: the process died before anything was recorded.
    #[error("the recording was never begun")]
    Empty,
    #[error("{META} does not describe this session")]
    Metadata,
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    #[error("reading the spool: {0}")]
    Io(#[from] io::Error),
}

/// Closes what a dead recorder left. A last chunk that a broken file system tore is dropped; damage before it is not ours
/// to paper over.
fn recover(path: &Path, metadata: &Metadata) -> Result<Seal, LoadError> {
    let numbers = chunk_numbers(path)?;
    let last = numbers.last().copied();
    let mut chain = Chain::new(&metadata.session_id);
    let mut end_ms = 0;
    for number in numbers {
        let bytes = read_file(&path.join(chunk_name(number)), 32 + MAX_CHUNK)?;
        let checked = Chunk::from_bytes(number, bytes.into()).and_then(|chunk| chain.check(&chunk).map(|()| chunk));
        match checked {
            Ok(chunk) => end_ms = last_moment_ms(&chunk).unwrap_or(end_ms),
            Err(Corrupt::Hash { .. } | Corrupt::Length { .. }) if Some(number) == last => {
                fs::remove_file(path.join(chunk_name(number)))?;
            }
            Err(corrupt) => return Err(corrupt.into()),
        }
    }
    let seal = chain.seal(false, end_ms);
    write_file(path, SEAL, &serde_json::to_vec(&seal).map_err(io::Error::from)?)?;
    Ok(seal)
}

/// The time of the last event of a chunk.
fn last_moment_ms(chunk: &Chunk) -> Option<i64> {
    let text = chunk.text().ok()?;
    let line = text.rsplit(|byte| *byte == b'\n').find(|line| line.starts_with(b"["))?;
    let (seconds, _, _) = serde_json::from_slice::<(f64, String, String)>(line).ok()?;
    let ms = std::time::Duration::try_from_secs_f64(seconds).ok()?.as_millis();
    i64::try_from(ms).ok()
}

/// The numbers of the chunks in a directory, in order.
fn chunk_numbers(path: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(path)? {
        numbers.extend(entry?.file_name().to_str().and_then(chunk_number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn chunk_name(number: u64) -> String {
    format!("{number:06}.chunk")
}

fn chunk_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".chunk")?.parse().ok()?;
    (chunk_name(number) == name).then_some(number)
}

/// Writes a file that is either whole or not there. On failure nothing is left.
fn write_file(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let written = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, directory.join(name)));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(directory)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Reads at most one byte more than `most`, by which the caller knows that a file is too long.
fn read_file(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
