//! Blocks of network addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

use crate::error::Invalid;

/// An address, or a block of addresses as `ADDRESS/PREFIX` (RFC 4632 section 3.1). IPv4 is written as IPv4: an IPv4 address
/// inside an IPv6 one counts as IPv4 everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `address` lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.mask(address.to_canonical()) == Some(self.address)
    }

    /// `address` with the bits beyond the prefix cleared; `None` when it is of the other family.
    fn mask(&self, address: IpAddr) -> Option<IpAddr> {
        match (self.address, address) {
            (IpAddr::V4(_), IpAddr::V4(address)) => {
                let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Some(IpAddr::V4((address.to_bits() & !host).into()))
            }
            (IpAddr::V6(_), IpAddr::V6(address)) => {
                let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Some(IpAddr::V6((address.to_bits() & !host).into()))
            }
            _ => None,
        }
    }
}

impl FromStr for Network {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |message: String| Err(Invalid::new("", message));
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let Ok(address) = address.parse::<IpAddr>() else {
            return refuse(format!("{text:?} is neither an address nor a block such as 10.0.0.0/8"));
        };
        if address.to_canonical() != address {
            return refuse(format!("{text:?} is an IPv4 address inside an IPv6 one; write it as IPv4"));
        }
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let digits = |bits: &str| bits.bytes().all(|b| b.is_ascii_digit());
        let prefix = match prefix {
            None => Some(width),
            Some(bits) => bits.parse().ok().filter(|prefix| digits(bits) && *prefix <= width),
        };
        let Some(prefix) = prefix else { return refuse(format!("{text:?} has no prefix between 0 and {width}")) };
        let block = Self { address, prefix };
        match block.mask(address) {
            Some(first) if first == address => Ok(block),
            Some(first) => refuse(format!("{text:?} has bits beyond its prefix; write {first}/{prefix}")),
            None => refuse(format!("{text:?} is no block of addresses")),
        }
    }
}

impl TryFrom<String> for Network {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_its_addresses_in_either_writing() {
        let holds = |block: &str, address: &str| block.parse::<Network>().unwrap().contains(address.parse().unwrap());
        for (block, address, expected) in [
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "::ffff:192.0.2.7", true),
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "192.0.2.1", false),
            ("::/0", "::ffff:192.0.2.1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::1", "2001:db8::2", false),
        ] {
            assert_eq!(holds(block, address), expected, "{block} {address}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10.0.0/8",
            "10.0.0.0/8/8",
            " 10.0.0.1",
            "*",
            "localhost",
            "2001:db8::1/64",
            "::ffff:10.0.0.1",
            "::ffff:10.0.0.0/104",
            "010.0.0.1",
            "1.2",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text:?}");
        }
        let error = "10.1.2.3/8".parse::<Network>().unwrap_err().to_string();
        assert!(error.contains("write 10.0.0.0/8"), "{error}");
    }
}
