use std::sync::Barrier;

use super::*;
use crate::fixture::Fixture;

struct Texts {
    fixture: Fixture,
    tokenizer: Tokenizer,
}

impl Texts {
    fn new() -> Self {
        let fixture = Fixture::new(&[]);
        let tokenizer = Tokenizer::open(&fixture.path("tokenizer.json")).unwrap();
        fs::write(fixture.path("text"), "w0 w1\nw2\n").unwrap();
        Self { fixture, tokenizer }
    }

    fn cache(&self) -> TokenCache {
        TokenCache::at(&self.fixture.path("cache"))
    }

    fn tokens_of(&self, name: &str, eos_id: u32) -> Result<PathBuf> {
        let text = Text {
            path: &self.fixture.path(name),
            format: TextFormat::Lines,
            tokenizer: &self.tokenizer,
            eos_id,
        };
        self.cache().tokens(&text).map(|(path, integer)| {
            assert_eq!(integer, IntegerType::Uint16);
            path
        })
    }

    fn n_files(&self) -> usize {
        fs::read_dir(self.fixture.path("cache/tokens")).map_or(0, Iterator::count)
    }
}

fn ids(path: &Path) -> Vec<u16> {
    let bytes = fs::read(path).unwrap();
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|b| u16::from_le_bytes(*b))
        .collect()
}

#[test]
fn a_text_is_tokenised_once() {
    let texts = Texts::new();
    let path = texts.tokens_of("text", 0).unwrap();
    assert_eq!(ids(&path), [1, 2, 0, 3, 0]);
    let made = fs::metadata(&path).unwrap().modified().unwrap();
    fs::copy(texts.fixture.path("text"), texts.fixture.path("copy")).unwrap();
    assert_eq!(
        texts.tokens_of("copy", 0).unwrap(),
        path,
        "content counts, not the name"
    );
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), made);

    assert_ne!(texts.tokens_of("text", 5).unwrap(), path);
    fs::write(texts.fixture.path("text"), "w0 w1\nw3\n").unwrap();
    assert_eq!(ids(&texts.tokens_of("text", 0).unwrap()), [1, 2, 0, 4, 0]);
}

#[test]
fn damage_is_noticed_and_made_good() {
    let texts = Texts::new();
    let path = texts.tokens_of("text", 0).unwrap();
    let record = path.with_extension("json");
    let good = (fs::read(&path).unwrap(), fs::read(&record).unwrap());
    let damages: [&dyn Fn(); 5] = [
        &|| fs::write(&path, [9, 0, 2, 0, 0, 0, 3, 0, 0, 0]).unwrap(),
        &|| fs::write(&path, &good.0[..4]).unwrap(),
        &|| fs::remove_file(&path).unwrap(),
        &|| fs::remove_file(&record).unwrap(),
        &|| fs::write(&record, &good.1[..20]).unwrap(),
    ];
    for damage in damages {
        damage();
        texts.tokens_of("text", 0).unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&record).unwrap()), good);
    }
}

#[test]
fn what_fails_leaves_nothing() {
    let texts = Texts::new();
    fs::write(texts.fixture.path("bad"), b"w0 w1\n\xff\n").unwrap();
    let error = texts.tokens_of("bad", 0).unwrap_err();
    assert!(matches!(error, Error::Line { line: 2, .. }), "{error}");
    assert_eq!(texts.n_files(), 1, "the lock");
}

#[test]
fn what_a_killed_process_left_is_no_hindrance() {
    let texts = Texts::new();
    let path = texts.tokens_of("text", 0).unwrap();
    fs::remove_file(path.with_extension("json")).unwrap();
    fs::write(path.with_extension("partial"), [9; 100]).unwrap();
    assert_eq!(ids(&texts.tokens_of("text", 0).unwrap()), [1, 2, 0, 3, 0]);
    assert_eq!(texts.n_files(), 3, "tokens, record and lock");
}

#[test]
fn many_at_once_make_it_once() {
    const N_THREADS: usize = 8;
    let texts = Texts::new();
    fs::write(texts.fixture.path("long"), "w0 w1 w2 w3\n".repeat(20_000)).unwrap();
    let together = Barrier::new(N_THREADS);
    thread::scope(|scope| {
        for _ in 0..N_THREADS {
            scope.spawn(|| {
                together.wait();
                let path = texts.tokens_of("long", 0).unwrap();
                assert_eq!(fs::metadata(path).unwrap().len(), 200_000);
            });
        }
    });
    assert_eq!(texts.n_files(), 3, "tokens, record and lock");
}

#[test]
fn without_a_directory_it_says_what_to_set() {
    let texts = Texts::new();
    let text = Text {
        path: &texts.fixture.path("text"),
        format: TextFormat::Lines,
        tokenizer: &texts.tokenizer,
        eos_id: 0,
    };
    let error = TokenCache { directory: None }.tokens(&text).unwrap_err();
    assert!(error.to_string().contains("IMPRINT_CACHE_DIR"), "{error}");
}
