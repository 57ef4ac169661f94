//! The file of an export: JSON, one object a line. `begin`, then each record followed by the checkpoint over it, if there is
//! one, then `end`, which signs the extent of the whole.
//!
//! [`FileVerifier`] needs public keys only. Changed, missing, added and moved lines are found; so is an end that was cut off.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::chain::{GENESIS, Hash, link};
use super::checkpoint::{Checkpoint, Extent, Mark, PublicKey, Signed, Unbelieved, hex};
use super::event::millis;
use crate::text::unhex;

/// The format written here.
pub const FORMAT: u32 = 1;
/// Longest line, in bytes, without its end: a record of 256 KiB and what stands around it.
pub const MAX_LINE: usize = 257 * 1024;
/// Most keys that one file may be signed with.
const MAX_KEYS: usize = 16;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<'a> {
    /// The first line.
    Begin(Begin),
    /// A record of the log.
    #[serde(borrow)]
    Record(Exported<'a>),
    /// A signed [`Checkpoint`] over the record before it.
    Checkpoint(Signed),
    /// The last line: a signed [`Extent`].
    End(Signed),
}

/// What the file is. Nothing of it is believed before `end` has confirmed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Number of the first record.
    pub first: u64,
    /// Hash of the record before it.
    #[serde(with = "hex")]
    pub before: Hash,
    /// When the export was made, to the millisecond.
    #[serde(with = "millis")]
    pub at: OffsetDateTime,
}

/// A record of the log in an export.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exported<'a> {
    /// Number in the chain.
    pub seq: u64,
    /// Id of the key of its MAC.
    pub key_id: String,
    /// MAC, in hex; only the hub can check it.
    pub mac: String,
    /// Hash of the record and all before it.
    #[serde(with = "hex")]
    pub hash: Hash,
    /// The canonical record, unchanged.
    #[serde(borrow)]
    pub event: &'a RawValue,
}

impl Exported<'_> {
    /// [`link`] of this record; the MAC is hashed in the form it has in the file.
    fn link(&self, previous: &Hash) -> Option<Hash> {
        let mac = unhex(&self.mac)?;
        Some(link(self.seq, previous, &self.key_id, &mac, self.event.get().as_bytes()))
    }
}

impl Line<'_> {
    /// The line with its end; `None` when it cannot be written as JSON.
    pub fn print(&self) -> Option<String> {
        let mut text = serde_json::to_string(self).ok()?;
        text.push('\n');
        Some(text)
    }
}

/// A signed statement of a file with the place in the log that it speaks of, unverified.
///
/// # Errors
/// What is wrong with the line. `None` for a line of another sort.
pub fn statement(line: &str) -> Result<Option<Signed>, &'static str> {
    match serde_json::from_str(line) {
        Ok(Line::Checkpoint(signed) | Line::End(signed)) => Ok(Some(signed)),
        Ok(_) => Ok(None),
        Err(_) => Err("is no line of an audit export"),
    }
}

/// The place that a signed statement of either sort speaks of.
///
/// # Errors
/// [`Unbelieved`].
pub fn mark(signed: &Signed, cluster: &str, trusted: &[PublicKey]) -> Result<Mark, Unbelieved> {
    let (of, mark) = match signed.open::<Checkpoint>(trusted) {
        Ok(checkpoint) => (checkpoint.cluster.clone(), Mark::from(&checkpoint)),
        Err(Unbelieved::WrongSignature) => {
            let extent = signed.open::<Extent>(trusted)?;
            (extent.cluster.clone(), Mark::from(&extent))
        }
        Err(other) => return Err(other),
    };
    if of == cluster { Ok(mark) } else { Err(Unbelieved::UnknownKey) }
}

/// What a file that verifies holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// What its end says.
    pub extent: Extent,
    /// Checkpoints in it.
    pub checkpoints: u64,
    /// The keys that signed it.
    pub keys: Vec<PublicKey>,
}

/// The first thing in a file that does not verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {flaw}", self.place())]
pub struct BadLine {
    /// Number of the line, from 1.
    pub line: u64,
    /// Number of the record it is about; for a missing record, the number that is missing. 0 when it is about none.
    pub seq: u64,
    /// What is wrong.
    pub flaw: Flaw,
}

impl BadLine {
    fn place(&self) -> String {
        match self.seq {
            0 => format!("line {}", self.line),
            seq => format!("line {}, record {seq}", self.line),
        }
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is none of ours.
    #[error("it is no line of an audit export")]
    NotOurs,
    /// The format is one of another release.
    #[error("the file has format {0}, and this release reads format {FORMAT}")]
    Format(u32),
    /// It stands where no such line may stand.
    #[error("it does not belong here")]
    Misplaced,
    /// A record is missing.
    #[error("this record is missing")]
    Gap,
    /// A record stands twice or in another order.
    #[error("record {0} stands here, out of order")]
    OutOfOrder(u64),
    /// The record, or its place, was changed.
    #[error("its content or place in the chain was changed")]
    Changed,
    /// A signature.
    #[error("the checkpoint cannot be believed: {0}")]
    Unbelieved(#[from] Unbelieved),
    /// A checkpoint over other records.
    #[error("the checkpoint here is over other records: something from record {0} on was changed")]
    OtherRecords(u64),
    /// The signed extent is not that of the file.
    #[error("the signed end says records {0} to {1}, and the file holds others")]
    OtherExtent(u64, u64),
    /// The end is not there.
    #[error("the file ends here, without its signed end: its tail was cut off")]
    Cut,
}

/// Verifies a file line by line, in constant memory.
#[derive(Clone, Debug)]
pub struct FileVerifier {
    /// `None`: whoever signed it, to be told in [`Contents::keys`].
    trusted: Option<Vec<PublicKey>>,
    line: u64,
    begin: Option<Begin>,
    seq: u64,
    hash: Hash,
    /// The newest record that a checkpoint covers.
    signed: u64,
    checkpoints: u64,
    keys: Vec<PublicKey>,
    extent: Option<Extent>,
}

impl FileVerifier {
    /// A verifier that believes these keys; with `None` any key, which the caller has to compare by [`Contents::keys`].
    pub const fn new(trusted: Option<Vec<PublicKey>>) -> Self {
        Self {
            trusted,
            line: 0,
            begin: None,
            seq: 0,
            hash: GENESIS,
            signed: 0,
            checkpoints: 0,
            keys: Vec::new(),
            extent: None,
        }
    }

    /// Verifies the next line, without its end.
    ///
    /// # Errors
    /// [`BadLine`]; the file is not to be read further.
    pub fn push(&mut self, line: &str) -> Result<(), BadLine> {
        self.line += 1;
        let text = Some(line).filter(|line| line.len() <= MAX_LINE);
        let read: Option<Line<'_>> = text.and_then(|text| serde_json::from_str(text).ok());
        // Written in another way it would say the same, and not be what the hub wrote.
        let as_written = |read: &Line<'_>| read.print().is_some_and(|printed| printed.trim_end_matches('\n') == line);
        let read = read.filter(as_written).ok_or_else(|| self.bad(0, Flaw::NotOurs))?;
        match (read, &self.begin, &self.extent) {
            (Line::Begin(begin), None, None) => self.begin(begin),
            (Line::Record(record), Some(_), None) => self.record(&record),
            (Line::Checkpoint(signed), Some(_), None) => self.checkpoint(&signed),
            (Line::End(signed), Some(begin), None) => {
                let begin = begin.clone();
                self.end(&signed, &begin)
            }
            _ => Err(self.bad(0, Flaw::Misplaced)),
        }
    }

    /// The answer, after the last line.
    ///
    /// # Errors
    /// [`BadLine`] when the end is missing.
    pub fn finish(self) -> Result<Contents, BadLine> {
        let (line, seq, begun) = (self.line, self.seq, self.begin.is_some());
        match self.extent {
            Some(extent) => Ok(Contents { extent, checkpoints: self.checkpoints, keys: self.keys }),
            None => Err(BadLine { line, seq: if begun { seq + 1 } else { 0 }, flaw: Flaw::Cut }),
        }
    }

    fn bad(&self, seq: u64, flaw: Flaw) -> BadLine {
        BadLine { line: self.line, seq, flaw }
    }

    fn begin(&mut self, begin: Begin) -> Result<(), BadLine> {
        if begin.format != FORMAT {
            return Err(self.bad(0, Flaw::Format(begin.format)));
        }
        let Some(before) = begin.first.checked_sub(1) else { return Err(self.bad(0, Flaw::NotOurs)) };
        (self.seq, self.signed, self.hash) = (before, before, begin.before);
        self.begin = Some(begin);
        Ok(())
    }

    fn record(&mut self, record: &Exported<'_>) -> Result<(), BadLine> {
        let next = self.seq.saturating_add(1);
        if record.seq > next {
            return Err(self.bad(next, Flaw::Gap));
        }
        if record.seq < next {
            return Err(self.bad(next, Flaw::OutOfOrder(record.seq)));
        }
        match record.link(&self.hash).filter(|hash| *hash == record.hash) {
            Some(hash) => {
                (self.seq, self.hash) = (next, hash);
                Ok(())
            }
            None => Err(self.bad(next, Flaw::Changed)),
        }
    }

    fn checkpoint(&mut self, signed: &Signed) -> Result<(), BadLine> {
        let checkpoint: Checkpoint = self.open(signed)?;
        let cluster = self.begin.as_ref().map(|begin| begin.cluster.as_str());
        if (checkpoint.seq, checkpoint.hash, Some(checkpoint.cluster.as_str())) != (self.seq, self.hash, cluster) {
            return Err(self.bad(self.seq, Flaw::OtherRecords(self.signed.saturating_add(1))));
        }
        self.signed = self.seq;
        self.checkpoints += 1;
        Ok(())
    }

    fn end(&mut self, signed: &Signed, begin: &Begin) -> Result<(), BadLine> {
        let extent: Extent = self.open(signed)?;
        let same = extent.cluster == begin.cluster
            && (extent.first, extent.before, extent.at) == (begin.first, begin.before, begin.at);
        if !same || extent.last < self.seq {
            return Err(self.bad(0, Flaw::OtherExtent(extent.first, extent.last)));
        }
        if extent.last > self.seq {
            return Err(self.bad(self.seq.saturating_add(1), Flaw::Gap));
        }
        if extent.hash != self.hash {
            return Err(self.bad(self.seq, Flaw::OtherRecords(self.signed.saturating_add(1))));
        }
        self.extent = Some(extent);
        Ok(())
    }

    fn open<S: super::checkpoint::Statement>(&mut self, signed: &Signed) -> Result<S, BadLine> {
        let trusted = self.trusted.as_deref().unwrap_or(std::slice::from_ref(signed.key()));
        let opened = signed.open(trusted).map_err(|why| self.bad(self.seq, why.into()))?;
        if !self.keys.contains(signed.key()) {
            if self.keys.len() == MAX_KEYS {
                return Err(self.bad(self.seq, Unbelieved::UnknownKey.into()));
            }
            self.keys.push(*signed.key());
        }
        Ok(opened)
    }
}
