//! The fuzz entry points over random bytes and over damaged good inputs; a broken invariant panics.

use crate::forge::{Forged, authority, p256};
use mezite_ssh::fuzz;
use proptest::prelude::*;

const ENTRIES: [fn(&[u8]); 5] = [fuzz::certificate, fuzz::public_key, fuzz::text, fuzz::key_exchange, fuzz::wire];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_bytes(data: Vec<u8>) {
        ENTRIES.iter().for_each(|entry| entry(&data));
    }

    #[test]
    fn damaged_inputs(edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4)) {
        let texts = [authority().to_openssh("c").as_bytes().to_vec(), authority().public().to_openssh("c").into_bytes()];
        let blobs = [Forged::user().signed(), authority().public().to_wire(), p256().1.to_wire()];
        for mut input in blobs.into_iter().chain(texts) {
            for (position, value) in &edits {
                let position = position % input.len();
                input[position] = *value;
            }
            ENTRIES.iter().for_each(|entry| entry(&input));
        }
    }
}
