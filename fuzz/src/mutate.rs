//! Random changes to good inputs.

/// Largest input made.
const MAX: usize = 64 * 1024;
/// Values that parsers of lengths stumble over.
const LENGTHS: [u32; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff];

/// A small fast generator (xorshift64*); what it makes needs to be varied, not secret.
pub(crate) struct Mutator(u64);

impl Mutator {
    pub(crate) fn new() -> Self {
        Self(u64::from_be_bytes(mezite_net::clock::random()) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % bound).unwrap_or_default()
    }

    /// A seed with a few changes; now and then, noise.
    pub(crate) fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = match self.below(16) {
            0 => (0..self.below(512)).map(|_| self.next().to_be_bytes()[0]).collect(),
            _ => seeds.get(self.below(seeds.len())).cloned().unwrap_or_default(),
        };
        for _ in 0..=self.below(6) {
            self.change(&mut input, seeds);
        }
        input.truncate(MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(7) {
            0 => input.truncate(at),
            1 => input.insert(at, self.next().to_be_bytes()[0]),
            2 => {
                let end = (at + self.below(16)).min(input.len());
                input.drain(at..end);
            }
            3 => {
                let length = LENGTHS.get(self.below(LENGTHS.len())).copied().unwrap_or_default();
                for (byte, new) in input.iter_mut().skip(at).zip(length.to_be_bytes()) {
                    *byte = new;
                }
            }
            4 => {
                let other = seeds.get(self.below(seeds.len())).map(Vec::as_slice).unwrap_or_default();
                let from = self.below(other.len() + 1);
                let part: Vec<u8> = other.iter().skip(from).take(self.below(256)).copied().collect();
                input.splice(at..at, part);
            }
            5 => {
                let part: Vec<u8> = input.iter().skip(at).take(self.below(64)).copied().collect();
                input.splice(at..at, part);
            }
            _ => {
                let bit = self.below(8);
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
        }
    }
}
