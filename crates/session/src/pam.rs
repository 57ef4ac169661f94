//! The machine's PAM stack, loaded when a session starts: account, credentials, session (pam(3), Linux-PAM).
//!
//! No module is asked to authenticate: the certificate did. So no module gets an answer either, and one that asks for a
//! secret fails. What PAM decides comes on top of [`crate::may_log_in`]; it can refuse more and admit nobody else.
#![expect(unsafe_code, reason = "libpam is a C library, loaded at run time")]

use std::cell::RefCell;
use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;

use libloading::Library;

use crate::login::Login;

const LIBRARY: &str = "libpam.so.0";
/// Most text kept of what modules say, in bytes.
const SAID_MAX: usize = 64 << 10;
/// Most of it shown with a refusal.
const REASON_MAX: usize = 1024;

// Numbers of Linux-PAM's security/_pam_types.h.
const SUCCESS: c_int = 0;
const BUF_ERR: c_int = 5;
const CONV_ERR: c_int = 19;
const ITEM_USER: c_int = 2;
const ITEM_TTY: c_int = 3;
const ITEM_RHOST: c_int = 4;
const ESTABLISH_CRED: c_int = 2;
const DELETE_CRED: c_int = 4;
const ERROR_MSG: c_int = 3;
const TEXT_INFO: c_int = 4;
const MESSAGES_MAX: usize = 32;

/// The service whose stack applies: `mezd` where the administrator has written one, else `sshd`, else `other`.
#[must_use]
pub fn pam_service() -> &'static str {
    service_in(&["/etc/pam.d", "/usr/lib/pam.d"])
}

fn service_in(places: &[&str]) -> &'static str {
    let there = |service: &&str| places.iter().any(|place| Path::new(place).join(service).is_file());
    ["mezd", "sshd"].into_iter().find(there).unwrap_or("other")
}

/// An open PAM session. Dropping it closes the session and takes the credentials back, so it must outlive the leader.
pub(crate) struct Session {
    pam: Pam,
    handle: *mut Handle,
    /// `converse` writes to it.
    said: Rc<RefCell<Said>>,
    service: String,
    /// What `pam_end` is told.
    status: c_int,
    established: bool,
    opened: bool,
}

impl Session {
    /// Asks the account modules of `service`, establishes the credentials of `user` and opens the session. `tty` is the
    /// terminal's path, `remote` the client's address.
    ///
    /// # Errors
    /// A sentence for the user: PAM cannot be loaded, or what it refused and why.
    pub(crate) fn open(service: &str, user: &str, tty: Option<&str>, remote: Option<&str>) -> Result<Self, String> {
        let mut session = Self::begin(Pam::load(LIBRARY)?, service, user)?;
        // As sshd says it without a terminal; some modules refuse a login from nowhere.
        session.set(ITEM_TTY, tty.unwrap_or("ssh"))?;
        if let Some(remote) = remote {
            session.set(ITEM_RHOST, remote)?;
        }
        session.ask("the account", session.pam.acct_mgmt, 0)?;
        // Modules that have not authenticated the user may have nothing to establish; sshd goes on, too. It gives the user
        // less, never more.
        match session.ask("to establish credentials", session.pam.setcred, ESTABLISH_CRED) {
            Ok(()) => session.established = true,
            Err(reason) => complain(&reason),
        }
        session.ask("to open a session", session.pam.open_session, 0)?;
        session.opened = true;
        session.still(user)?;
        Ok(session)
    }

    fn begin(pam: Pam, service: &str, user: &str) -> Result<Self, String> {
        let (name, login) = (text(service)?, text(user)?);
        let said = Rc::new(RefCell::new(Said::default()));
        let conversation = Conversation { converse, data: Rc::as_ptr(&said).cast_mut().cast() };
        let mut handle = std::ptr::null_mut();
        // SAFETY: the strings and the conversation live through the call, which copies them; `said` outlives the handle.
        let status = unsafe { (pam.start)(name.as_ptr(), login.as_ptr(), &raw const conversation, &raw mut handle) };
        if status != SUCCESS || handle.is_null() {
            return Err(format!("PAM service {service} cannot be used (error {status}), see the machine's log"));
        }
        Ok(Self { pam, handle, said, service: service.to_owned(), status, established: false, opened: false })
    }

    fn set(&mut self, item: c_int, value: &str) -> Result<(), String> {
        let value = text(value)?;
        // SAFETY: the handle is open; the item is a string and PAM copies it.
        self.status = unsafe { (self.pam.set_item)(self.handle, item, value.as_ptr().cast()) };
        if self.status == SUCCESS { Ok(()) } else { Err(self.refusal("to begin")) }
    }

    fn ask(&mut self, what: &str, call: Call, flags: c_int) -> Result<(), String> {
        // SAFETY: the handle is open and `call` is one of libpam's functions of this shape.
        self.status = unsafe { call(self.handle, flags) };
        if self.status == SUCCESS { Ok(()) } else { Err(self.refusal(what)) }
    }

    fn refusal(&self, what: &str) -> String {
        // SAFETY: the handle is open; the text is static or lives as long as the library.
        let why = unsafe { owned((self.pam.strerror)(self.handle, self.status)) }.unwrap_or_default();
        let said = self.said.borrow();
        let errors = String::from_utf8_lossy(&said.errors);
        let colon = if errors.trim().is_empty() { "" } else { ": " };
        let why = String::from_utf8_lossy(&why);
        format!("PAM service {} refused {what}: {why}{colon}{}", self.service, errors.trim())
    }

    /// A module may make another user of the one that logs in; then its decisions were about somebody else.
    fn still(&self, user: &str) -> Result<(), String> {
        let mut item = std::ptr::null();
        // SAFETY: the handle is open; the item of a user is a string that PAM keeps, or null.
        let name = unsafe {
            (self.pam.get_item)(self.handle, ITEM_USER, &raw mut item);
            owned(item.cast())
        };
        if name.as_deref() == Some(user.as_bytes()) {
            return Ok(());
        }
        Err(format!("PAM service {} changed the user's name, which mezd does not follow", self.service))
    }
}

impl Login for Session {
    fn env(&self) -> Vec<CString> {
        let mut entries = Vec::new();
        // SAFETY: the list is ours: an array of strings, each and the array from malloc, the last one null.
        unsafe {
            let list = (self.pam.getenvlist)(self.handle);
            let mut next = list;
            while !next.is_null() && !(*next).is_null() {
                entries.push(CStr::from_ptr(*next).to_owned());
                libc::free((*next).cast());
                next = next.add(1);
            }
            libc::free(list.cast());
        }
        entries
    }

    fn greeting(&self) -> Vec<u8> {
        self.said.borrow().all.clone()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.said.take();
        if self.opened
            && let Err(reason) = self.ask("to close the session", self.pam.close_session, 0)
        {
            complain(&reason);
        }
        if self.established
            && let Err(reason) = self.ask("to delete credentials", self.pam.setcred, DELETE_CRED)
        {
            complain(&reason);
        }
        // SAFETY: the handle is open and not used again.
        unsafe { (self.pam.end)(self.handle, self.status) };
    }
}

/// Standard error is the agent's log.
fn complain(reason: &str) {
    let _ = writeln!(io::stderr(), "session starter: {reason}");
}

fn text(value: &str) -> Result<CString, String> {
    CString::new(value).map_err(|_| "a value for PAM has a NUL byte".to_owned())
}

/// A copy of a C string.
///
/// # Safety
/// `string` is null or points to a NUL-terminated string.
unsafe fn owned(string: *const c_char) -> Option<Vec<u8>> {
    // SAFETY: as the caller promises.
    (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) }.to_bytes().to_vec())
}

/// `pam_handle_t`.
#[repr(C)]
struct Handle([u8; 0]);

type Call = unsafe extern "C" fn(*mut Handle, c_int) -> c_int;

/// The functions of libpam, pam(3).
struct Pam {
    start: unsafe extern "C" fn(*const c_char, *const c_char, *const Conversation, *mut *mut Handle) -> c_int,
    end: Call,
    set_item: unsafe extern "C" fn(*mut Handle, c_int, *const c_void) -> c_int,
    get_item: unsafe extern "C" fn(*const Handle, c_int, *mut *const c_void) -> c_int,
    acct_mgmt: Call,
    setcred: Call,
    open_session: Call,
    close_session: Call,
    getenvlist: unsafe extern "C" fn(*mut Handle) -> *mut *mut c_char,
    strerror: unsafe extern "C" fn(*mut Handle, c_int) -> *const c_char,
    /// The functions are its.
    _library: Library,
}

impl Pam {
    fn load(name: &str) -> Result<Self, String> {
        let failed = |error: libloading::Error| {
            // The loader's own words are the source.
            let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            format!("PAM cannot be loaded: {why}; install it, or remove mezd-session to start sessions without PAM")
        };
        // SAFETY: libpam's constructors ask nothing of its user, and these are its functions with the types of its headers.
        unsafe {
            let library = Library::new(name).map_err(failed)?;
            Ok(Self {
                start: *library.get(c"pam_start").map_err(failed)?,
                end: *library.get(c"pam_end").map_err(failed)?,
                set_item: *library.get(c"pam_set_item").map_err(failed)?,
                get_item: *library.get(c"pam_get_item").map_err(failed)?,
                acct_mgmt: *library.get(c"pam_acct_mgmt").map_err(failed)?,
                setcred: *library.get(c"pam_setcred").map_err(failed)?,
                open_session: *library.get(c"pam_open_session").map_err(failed)?,
                close_session: *library.get(c"pam_close_session").map_err(failed)?,
                getenvlist: *library.get(c"pam_getenvlist").map_err(failed)?,
                strerror: *library.get(c"pam_strerror").map_err(failed)?,
                _library: library,
            })
        }
    }
}

/// `struct pam_conv`.
#[repr(C)]
struct Conversation {
    converse: unsafe extern "C" fn(c_int, *mut *const Words, *mut *mut Answer, *mut c_void) -> c_int,
    data: *mut c_void,
}

/// `struct pam_message`.
#[repr(C)]
struct Words {
    style: c_int,
    text: *const c_char,
}

/// `struct pam_response`; all zero is no answer.
#[repr(C)]
struct Answer {
    text: *mut c_char,
    code: c_int,
}

/// What modules have told the user, a line each.
#[derive(Default)]
struct Said {
    all: Vec<u8>,
    /// Those of it that say why not.
    errors: Vec<u8>,
}

impl Said {
    fn add(&mut self, style: c_int, line: &[u8]) {
        add_line(&mut self.all, line, SAID_MAX);
        if style == ERROR_MSG {
            add_line(&mut self.errors, line, REASON_MAX);
        }
    }
}

fn add_line(text: &mut Vec<u8>, line: &[u8], max: usize) {
    let room = max.saturating_sub(text.len());
    text.extend(line.iter().chain(b"\n").take(room));
}

/// Takes what a module tells the user and answers nothing: the conversation function of pam_conv(3).
///
/// # Safety
/// Called by libpam, with `data` the `RefCell<Said>` of a [`Session`].
unsafe extern "C" fn converse(
    count: c_int,
    messages: *mut *const Words,
    answers: *mut *mut Answer,
    data: *mut c_void,
) -> c_int {
    let Some(count) = usize::try_from(count).ok().filter(|count| (1..=MESSAGES_MAX).contains(count)) else {
        return CONV_ERR;
    };
    for n in 0..count {
        // SAFETY: libpam passes `count` pointers to messages whose texts are strings, and our own data.
        let (style, line, said) = unsafe {
            let words = &**messages.add(n);
            (words.style, owned(words.text), &*data.cast::<RefCell<Said>>())
        };
        let (TEXT_INFO | ERROR_MSG, Some(line), Ok(mut said)) = (style, line, said.try_borrow_mut()) else {
            return CONV_ERR;
        };
        said.add(style, &line);
    }
    // SAFETY: the module frees the answers, so they come from calloc; `answers` is where it wants them.
    unsafe {
        let none = libc::calloc(count, size_of::<Answer>());
        if none.is_null() {
            return BUF_ERR;
        }
        *answers = none.cast();
    }
    SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_pam_refuses_and_says_what_to_do() {
        let Err(reason) = Pam::load("libpam-of-no-machine.so.0") else { panic!("loaded") };
        assert!(reason.starts_with("PAM cannot be loaded: libpam-of-no-machine.so.0"), "{reason}");
        assert!(reason.contains("remove mezd-session"), "{reason}");
    }

    #[test]
    fn the_own_service_comes_before_sshd_and_that_before_other() {
        let (local, vendor) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let places = [local.path().to_str().expect("path"), vendor.path().to_str().expect("path")];
        assert_eq!(service_in(&places), "other");
        std::fs::write(local.path().join("sshd"), "").expect("write");
        assert_eq!(service_in(&places), "sshd");
        std::fs::write(vendor.path().join("mezd"), "").expect("write");
        assert_eq!(service_in(&places), "mezd");
    }

    /// (result, what was said, whether there are answers)
    fn say(words: &[(c_int, &CStr)]) -> (c_int, String, bool) {
        let said = RefCell::new(Said::default());
        let words: Vec<Words> = words.iter().map(|&(style, text)| Words { style, text: text.as_ptr() }).collect();
        let mut pointers: Vec<*const Words> = words.iter().map(std::ptr::from_ref).collect();
        let mut answers = std::ptr::null_mut::<Answer>();
        let count = c_int::try_from(words.len()).expect("count");
        let data = (&raw const said).cast_mut().cast();
        // SAFETY: as libpam calls it.
        let result = unsafe { converse(count, pointers.as_mut_ptr(), &raw mut answers, data) };
        let answered = !answers.is_null();
        // SAFETY: from calloc, or null.
        unsafe { libc::free(answers.cast()) };
        let text = String::from_utf8(said.borrow().all.clone()).expect("UTF-8");
        (result, text, answered)
    }

    #[test]
    fn modules_may_tell_but_not_ask() {
        let told = say(&[(TEXT_INFO, c"welcome"), (ERROR_MSG, c"and beware")]);
        assert_eq!(told, (SUCCESS, "welcome\nand beware\n".to_owned(), true));
        for style in [1, 2, 5, 0, -1] {
            let (result, _, answered) = say(&[(style, c"Password: ")]);
            assert_eq!((result, answered), (CONV_ERR, false), "{style}");
        }
        assert_eq!(say(&[]).0, CONV_ERR);
        assert_eq!(say(&[(TEXT_INFO, c"x"); 33]).0, CONV_ERR);
    }

    #[test]
    fn what_modules_tell_is_bounded() {
        let mut said = Said::default();
        for _ in 0..100 {
            said.add(ERROR_MSG, &[b'x'; 1000]);
        }
        assert_eq!((said.all.len(), said.errors.len()), (SAID_MAX, REASON_MAX));
    }
}
