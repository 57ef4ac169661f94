//! Sessions started for real. Most need root, to become another user; without it they say so and pass.

#[cfg(test)]
mod ending;
#[cfg(test)]
mod exec;
#[cfg(test)]
#[cfg(feature = "pam")]
mod pam;
#[cfg(test)]
mod refusal;
#[cfg(test)]
mod sockets;
#[cfg(test)]
mod support;
#[cfg(test)]
mod terminal;
#[cfg(test)]
mod zygote;
