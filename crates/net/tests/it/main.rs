//! What `mezite-net` promises, over real sockets on the loopback.

mod ca;
mod listener;
mod ssh;
mod tls;
mod tunnel;
