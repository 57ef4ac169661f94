//! The engine seen from outside: the certificate corpus, and a foreign implementation.

#[cfg(test)]
mod certificate;
#[cfg(test)]
mod forge;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod keygen;
