//! Keeping a static program from loading the host's libraries.

/// Pins glibc's name service switch to the modules built into a static program.
///
/// A static program reads `/etc/nsswitch.conf` too, and loads the modules named there together with the host's libc; where
/// that libc is of another version the process dies. To be the first call of `main`, before any thread exists. Does
/// nothing in a dynamic program. Lost by it: mDNS, `nss-myhostname`, LDAP users (which the agent asks `getent` for).
pub fn pin_nss() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    pin();
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
#[expect(unsafe_code, reason = "glibc offers this setting as a C function only")]
fn pin() {
    use std::ffi::{c_char, c_int};

    unsafe extern "C" {
        fn __nss_configure_lookup(database: *const c_char, line: *const c_char) -> c_int;
    }
    let pins = [
        (c"passwd", c"files"),
        (c"group", c"files"),
        (c"hosts", c"files dns"),
        (c"services", c"files"),
        (c"protocols", c"files"),
    ];
    for (database, line) in pins {
        // SAFETY: both are NUL-terminated statics, which glibc keeps by reference, and no other thread exists yet. A
        // failure leaves that database as the host configured it.
        unsafe { __nss_configure_lookup(database.as_ptr(), line.as_ptr()) };
    }
}
