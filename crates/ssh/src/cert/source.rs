//! The `source-address` critical option: a comma-separated list of addresses and CIDR blocks.

use std::net::IpAddr;

/// Most blocks in a list.
const MAX_BLOCKS: usize = 256;

/// A block of addresses; the bits beyond the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    address: IpAddr,
    prefix: u8,
}

impl Block {
    /// Reads `ADDRESS` or `ADDRESS/PREFIX`. Address bits beyond the prefix are refused, as OpenSSH does.
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().ok()?;
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
        };
        let block = Self { address, prefix };
        (prefix <= width && block.mask(address)? == address).then_some(block)
    }

    /// `address` with the bits beyond the prefix cleared; `None` when it is of the other family.
    fn mask(self, address: IpAddr) -> Option<IpAddr> {
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

    /// Whether `address` lies in the block; an IPv4 address inside an IPv6 one counts as IPv4.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        self.mask(address.to_canonical()) == Some(self.address)
    }
}

/// All blocks of a list; `None` when any of them is malformed or there are too many.
pub(super) fn parse(list: &str) -> Option<Vec<Block>> {
    if list.split(',').nth(MAX_BLOCKS).is_some() {
        return None;
    }
    list.split(',').map(Block::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(list: &str, address: &str) -> Option<bool> {
        parse(list).map(|blocks| blocks.iter().any(|block| block.contains(address.parse().unwrap())))
    }

    #[test]
    fn addresses_match_their_blocks() {
        for (list, address, expected) in [
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.7/32", "192.0.2.7", true),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("192.0.2.0/24", "::ffff:192.0.2.9", true),
            ("198.51.100.0/24,2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("2001:db8::1", "2001:db8::1", true),
            ("2001:db8::1/128", "2001:db8::2", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("::/0", "::ffff:192.0.2.1", false),
            ("128.0.0.0/1", "255.0.0.1", true),
        ] {
            assert_eq!(allows(list, address), Some(expected), "{list} {address}");
        }
    }

    #[test]
    fn malformed_lists_allow_nobody() {
        for list in [
            "",
            ",",
            "192.0.2.0/24,",
            " 192.0.2.7",
            "192.0.2.0/24, 192.0.2.7",
            "192.0.2.1/24",
            "192.0.2.0/33",
            "192.0.2.0/-1",
            "192.0.2.0/+24",
            "192.0.2.0/",
            "192.0.2.0/255.255.255.0",
            "192.0.2.0/256",
            "2001:db8::1/64",
            "2001:db8::/129",
            "192.0.2",
            "192.0.2.*",
            "!192.0.2.7",
            "localhost",
            "192.0.2.7,bad",
        ] {
            assert_eq!(parse(list), None, "{list:?}");
        }
        assert!(parse(&vec!["192.0.2.7"; MAX_BLOCKS].join(",")).is_some());
        assert!(parse(&vec!["192.0.2.7"; MAX_BLOCKS + 1].join(",")).is_none());
    }
}
