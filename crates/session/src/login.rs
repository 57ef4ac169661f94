//! What the machine's own login rules add to a session, beyond what the files say.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;

/// Most bytes shown of `/etc/motd`.
const MOTD_MAX: u64 = 64 << 10;

/// An admitted login. Dropping it ends what the rules began for it.
pub(crate) trait Login {
    /// `NAME=value` entries, stronger than all others.
    fn env(&self) -> Vec<CString>;
    /// What a shell on a terminal begins with.
    fn greeting(&self) -> Vec<u8>;
}

/// A login by the files alone.
impl Login for () {
    fn env(&self) -> Vec<CString> {
        Vec::new()
    }

    /// A machine without the file has no message.
    fn greeting(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let read = File::open("/etc/motd").and_then(|file| file.take(MOTD_MAX).read_to_end(&mut text));
        read.map(|_| text).unwrap_or_default()
    }
}
