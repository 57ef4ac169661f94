use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

const ID: &str = "0b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a64";
const TEXTS: [&str; 3] =
    ["{\"version\": 2, \"width\": 80, \"height\": 24}\n", "[0.500, \"o\", \"a\"]\n", "[1.250, \"o\", \"b\"]\n"];

struct Fixture {
    spool: Arc<Spool>,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { spool: Spool::open(dir.path()).unwrap(), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("spool").join(ID).join(name)
    }

    fn create(&self) -> io::Result<Writing> {
        self.spool.create(&Metadata { session_id: ID.to_owned(), ..Metadata::default() })
    }

    /// A recording of three chunks whose recorder died.
    fn abandoned() -> Self {
        let fixture = Self::new();
        let mut writing = fixture.create().unwrap();
        for text in TEXTS {
            writing.append(text.as_bytes()).unwrap();
        }
        fixture
    }

    fn seal(&self) -> Result<Seal, Option<Corrupt>> {
        self.spool.load(ID).map(|waiting| waiting.seal).map_err(|error| match error {
            LoadError::Corrupt(corrupt) => Some(corrupt),
            _ => None,
        })
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn files_are_for_the_owner_only_and_named_as_documented() {
    let fixture = Fixture::new();
    let mut writing = fixture.create().unwrap();
    writing.append(b"text").unwrap();
    writing.seal(true, 1).unwrap();
    assert_eq!(fixture.names(), ["000000.chunk", "meta.json", "seal.json"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&fixture.path("")), 0o700);
    assert_eq!(mode(&fixture.dir.path().join("spool")), 0o700);
    for name in fixture.names() {
        assert_eq!(mode(&fixture.path(&name)), 0o600, "{name}");
    }
}

#[test]
fn a_session_is_recorded_once_and_under_a_uuid_only() {
    let fixture = Fixture::new();
    let first = fixture.create().unwrap();
    assert!(fixture.create().is_err(), "live");
    drop(first);
    assert!(fixture.create().is_err(), "on disk");
    for id in ["", ".", "../../etc", "0B5F6C1E-9A3D-4A51-8D0E-2F1F0C9B7A64"] {
        let metadata = Metadata { session_id: id.to_owned(), ..Metadata::default() };
        assert!(fixture.spool.create(&metadata).is_err(), "{id:?}");
    }
    assert!(fixture.seal().is_ok(), "the refusals changed nothing");
}

#[test]
fn a_spool_has_one_user() {
    let fixture = Fixture::new();
    assert!(Spool::open(fixture.dir.path()).is_err());
    let Fixture { spool, dir } = fixture;
    drop(spool);
    Spool::open(dir.path()).unwrap();
}

#[test]
fn a_recording_waits_only_once_its_writer_is_gone() {
    let fixture = Fixture::new();
    let writing = fixture.create().unwrap();
    assert!(fixture.spool.waiting().unwrap().is_empty());
    drop(writing);
    assert_eq!(fixture.spool.waiting().unwrap(), [ID]);
    fixture.spool.remove(ID).unwrap();
    assert!(fixture.spool.waiting().unwrap().is_empty());
}

#[test]
fn what_a_dead_recorder_left_is_closed_as_incomplete() {
    let fixture = Fixture::abandoned();
    fs::write(fixture.path("000003.chunk.tmp"), b"torn").unwrap();
    let seal = fixture.seal().unwrap();
    assert_eq!((seal.chunks, seal.complete, seal.duration_ms), (3, false, 1250));
    let waiting = fixture.spool.load(ID).unwrap();
    assert_eq!(waiting.seal, seal, "the second look finds the same seal");
    let read: Vec<_> = (0..3).map(|number| waiting.chunk(number).unwrap().text().unwrap()).collect();
    assert_eq!(read, TEXTS.map(|text| text.as_bytes().to_vec()));
}

#[test]
fn damage_before_the_end_is_told_and_not_papered_over() {
    let fixture = Fixture::abandoned();
    let whole = fs::read(fixture.path("000001.chunk")).unwrap();
    fs::write(fixture.path("000001.chunk"), &whole[..whole.len() - 1]).unwrap();
    assert_eq!(fixture.seal(), Err(Some(Corrupt::Hash { number: 1 })));
    fs::remove_file(fixture.path("000001.chunk")).unwrap();
    assert_eq!(fixture.seal(), Err(Some(Corrupt::Gap { expected: 1, found: 2 })));
    assert!(!fixture.names().contains(&"seal.json".to_owned()));

    let fixture = Fixture::abandoned();
    fixture.seal().unwrap();
    fs::remove_file(fixture.path("000002.chunk")).unwrap();
    assert_eq!(fixture.seal(), Err(Some(Corrupt::Missing { first: 2, chunks: 3 })), "sealed, then cut");
}

#[test]
fn a_directory_is_described_or_empty() {
    let fixture = Fixture::abandoned();
    fs::write(fixture.path(META), b"{\"session_id\": \"another\"}").unwrap();
    assert!(matches!(fixture.spool.load(ID), Err(LoadError::Metadata)));
    fs::remove_file(fixture.path(META)).unwrap();
    assert!(matches!(fixture.spool.load(ID), Err(LoadError::Metadata)), "chunks of an unknown session");
    for number in 0..3 {
        fs::remove_file(fixture.path(&chunk_name(number))).unwrap();
    }
    assert!(matches!(fixture.spool.load(ID), Err(LoadError::Empty)));
}

#[test]
fn a_write_that_fails_leaves_nothing_and_the_next_goes_on() {
    let fixture = Fixture::new();
    let mut writing = fixture.create().unwrap();
    writing.append(TEXTS[0].as_bytes()).unwrap();
    // A directory where the file is to go makes the write fail at its last step.
    fs::create_dir_all(fixture.path("000001.chunk/in the way")).unwrap();
    assert!(writing.append(b"lost").is_err());
    assert_eq!(fixture.names(), ["000000.chunk", "000001.chunk", "meta.json"]);
    fs::remove_dir_all(fixture.path("000001.chunk")).unwrap();
    assert_eq!(writing.append(TEXTS[1].as_bytes()).unwrap().number, 1);
    drop(writing);
    assert_eq!(fixture.seal().unwrap().chunks, 2);
}

#[test]
fn quarantine_keeps_everything() {
    let fixture = Fixture::abandoned();
    fixture.spool.quarantine(ID).unwrap();
    assert!(fixture.spool.waiting().unwrap().is_empty());
    assert!(fixture.dir.path().join("quarantine").join(ID).join("000002.chunk").exists());
}

#[test]
fn an_interrupted_removal_is_finished() {
    let fixture = Fixture::abandoned();
    let done = fixture.dir.path().join("spool").join(format!(".done-{ID}"));
    fs::rename(fixture.path(""), &done).unwrap();
    assert!(fixture.spool.waiting().unwrap().is_empty());
    fixture.spool.sweep().unwrap();
    assert!(!done.exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_torn_last_chunk_costs_that_chunk_only(at in any::<prop::sample::Index>()) {
        let fixture = Fixture::abandoned();
        let whole = fs::read(fixture.path("000002.chunk")).unwrap();
        fs::write(fixture.path("000002.chunk"), &whole[..at.index(whole.len())]).unwrap();
        let seal = fixture.seal().unwrap();
        prop_assert_eq!((seal.chunks, seal.complete, seal.duration_ms), (2, false, 500));
    }

    #[test]
    fn any_flipped_bit_of_a_sealed_chunk_is_found(
        number in 0..3_u64, at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let fixture = Fixture::abandoned();
        fixture.seal().unwrap();
        let path = fixture.path(&chunk_name(number));
        let mut stored = fs::read(&path).unwrap();
        let position = at.index(stored.len());
        stored[position] ^= 1 << bit;
        fs::write(&path, stored).unwrap();
        prop_assert_eq!(fixture.seal(), Err(Some(Corrupt::Hash { number })));
    }
}
