//! Tests of the public face of the crate: corpora and properties.

#[cfg(test)]
mod access;
#[cfg(test)]
mod cast;
#[cfg(test)]
mod chain;
#[cfg(test)]
mod checkpoint;
#[cfg(test)]
mod moderation;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod values;
