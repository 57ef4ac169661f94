use super::*;
use proptest::prelude::*;

fn encoded(secret: &SharedSecret) -> Vec<u8> {
    secret.encoded().to_vec()
}

#[test]
fn both_ends_agree() {
    for algorithm in KexAlgorithm::ALL {
        let (client, init) = ClientKex::start(algorithm).unwrap();
        let (reply, server) = server_reply(algorithm, &init).unwrap();
        let client = client.finish(&reply).unwrap();
        assert_eq!(encoded(&client), encoded(&server), "{algorithm:?}");
        assert_eq!(KexAlgorithm::from_name(algorithm.name()), Some(algorithm));
    }
    assert_eq!(KexAlgorithm::from_name("diffie-hellman-group14-sha256"), None);
}

#[test]
fn shares_have_the_lengths_of_the_draft() {
    let (_, init) = ClientKex::start(KexAlgorithm::MlKem768X25519Sha256).unwrap();
    assert_eq!(init.len(), 1184 + 32);
    assert_eq!(server_reply(KexAlgorithm::MlKem768X25519Sha256, &init).unwrap().0.len(), 1088 + 32);
}

#[test]
fn shares_of_another_length_are_refused() {
    for algorithm in KexAlgorithm::ALL {
        let (_, init) = ClientKex::start(algorithm).unwrap();
        let (reply, _) = server_reply(algorithm, &init).unwrap();
        for wrong in [&init[1..], &[&init[..], &[0]].concat(), &[]] {
            assert_eq!(server_reply(algorithm, wrong).unwrap_err(), KexError::ShareLength);
        }
        for wrong in [&reply[1..], &[&reply[..], &[0]].concat(), &[]] {
            let (client, _) = ClientKex::start(algorithm).unwrap();
            assert_eq!(client.finish(wrong).unwrap_err(), KexError::ShareLength);
        }
    }
}

#[test]
fn points_of_small_order_are_refused() {
    let mut one = [0; 32];
    one[0] = 1;
    // p = 2^255 - 19, which is another spelling of zero.
    let mut zero = [0xff; 32];
    zero[0] = 0xed;
    zero[31] = 0x7f;
    for point in [[0; 32], one, zero] {
        for algorithm in KexAlgorithm::ALL {
            let (_, init) = ClientKex::start(algorithm).unwrap();
            let (reply, _) = server_reply(algorithm, &init).unwrap();
            let replaced = |share: &[u8]| [&share[..share.len() - 32], &point].concat();
            assert_eq!(server_reply(algorithm, &replaced(&init)).unwrap_err(), KexError::BadShare);
            let (client, _) = ClientKex::start(algorithm).unwrap();
            assert_eq!(client.finish(&replaced(&reply)).unwrap_err(), KexError::BadShare);
        }
    }
}

#[test]
fn an_encapsulation_key_with_coefficients_out_of_range_is_refused() {
    // FIPS 203 section 7.2, the modulus check.
    let (_, mut init) = ClientKex::start(KexAlgorithm::MlKem768X25519Sha256).unwrap();
    init[..1152].fill(0xff);
    assert_eq!(server_reply(KexAlgorithm::MlKem768X25519Sha256, &init).unwrap_err(), KexError::BadShare);
}

#[test]
fn a_changed_ciphertext_gives_another_secret() {
    let algorithm = KexAlgorithm::MlKem768X25519Sha256;
    let (client, init) = ClientKex::start(algorithm).unwrap();
    let (mut reply, server) = server_reply(algorithm, &init).unwrap();
    reply[7] ^= 1;
    assert_ne!(encoded(&client.finish(&reply).unwrap()), encoded(&server));
}

#[test]
fn secrets_enter_hashes_as_mpint_or_string() {
    let mut bytes = [0; 32];
    bytes[1] = 0x80;
    let classic = SharedSecret::classic(Zeroizing::new(bytes));
    assert_eq!(encoded(&classic)[..6], [0, 0, 0, 32, 0, 0x80]);
    let hybrid = SharedSecret::hybrid(&[1], &[2]);
    assert_eq!(encoded(&hybrid), [&[0, 0, 0, 32][..], &sha256(&[&[1, 2]])].concat());
}

#[test]
fn keys_extend_by_hashing_what_came_before() {
    let secret = SharedSecret::hybrid(b"a", b"b");
    let hash = [7; 32];
    let session = b"session";
    let long = derive_key(&secret, &hash, session, b'C', 80);
    let first = sha256(&[&encoded(&secret), &hash, b"C", session]);
    let second = sha256(&[&encoded(&secret), &hash, &first]);
    let third = sha256(&[&encoded(&secret), &hash, &first, &second]);
    assert_eq!(**long, [first, second, third].concat()[..80]);
    assert_eq!(*derive_key(&secret, &hash, session, b'C', 12), long[..12]);
    assert_ne!(*derive_key(&secret, &hash, session, b'D', 12), long[..12]);
    assert!(derive_key(&secret, &hash, session, b'C', 0).is_empty());
}

#[test]
fn every_field_changes_the_exchange_hash() {
    let secret = SharedSecret::hybrid(b"a", b"b");
    let fields: [&[u8]; 7] = [b"1", b"2", b"3", b"4", b"5", b"6", b"7"];
    let hash = |f: [&[u8]; 7], secret: &SharedSecret| {
        let [client_version, server_version, client_kexinit, server_kexinit, host_key, client_init, server_reply] = f;
        exchange_hash(
            &Exchange {
                client_version,
                server_version,
                client_kexinit,
                server_kexinit,
                host_key,
                client_init,
                server_reply,
            },
            secret,
        )
    };
    let mut all = vec![hash(fields, &secret), hash(fields, &SharedSecret::hybrid(b"a", b"c"))];
    for index in 0..7 {
        let mut changed = fields;
        changed[index] = b"x";
        all.push(hash(changed, &secret));
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 9);
}

#[test]
fn debug_shows_no_secret() {
    assert_eq!(format!("{:?}", SharedSecret::hybrid(b"a", b"b")), "SharedSecret { .. }");
    assert_eq!(format!("{:?}", ClientKex::start(KexAlgorithm::Curve25519Sha256).unwrap().0), "ClientKex { .. }");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_shares_never_panic(share in proptest::collection::vec(any::<u8>(), 0..1300)) {
        for algorithm in KexAlgorithm::ALL {
            drop(server_reply(algorithm, &share));
            drop(ClientKex::start(algorithm).unwrap().0.finish(&share));
        }
    }
}
