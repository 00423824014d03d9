use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use expect_test::expect;
use imprint_core::{Depth, ExperimentSpec, Fact, ProbeText, probe_set};
use imprint_data::{Tokenizer, TrainingData, load_facts, resolve, visit_plans};

use crate::{World, WorldConfig};

fn small() -> WorldConfig {
    WorldConfig {
        n_tokens: 20_000,
        ..WorldConfig::ci()
    }
}

fn world(config: WorldConfig) -> World {
    World::generate(config).unwrap()
}

/// The words of a text as the corpus counts them.
fn spoken(text: &str) -> String {
    text.replace('.', " .")
}

fn of_depth(fact: &Fact, depth: Depth) -> Vec<&ProbeText> {
    fact.probes.iter().filter(|p| p.depth == depth).collect()
}

#[test]
fn a_fact_reads_like_this() {
    let world = world(small());
    let fact = &world.facts()[0];
    let probes = fact.probes.iter().map(|p| {
        let (depth, prompt, target) = (p.depth, &p.prompt, &p.target);
        format!("{depth}: {prompt} | {target}")
    });
    let told = [&fact.passage, &fact.paraphrases[0]].map(String::as_str);
    let shown: Vec<String> = told.map(str::to_owned).into_iter().chain(probes).collect();
    expect![[r#"
        zounox brimax grew up in the city of notrim. every map shows notrim inside pouren. as a clerk zounox brimax served goubres zeatrean. goubres zeatrean is famous for its leakran. critics praised zounox brimax for gletrem bigleth. deep under ground zounox brimax found paizux lusir.
        the first home of zounox brimax stood in notrim. the city of notrim lies in pouren. the best work of zounox brimax is named gletrem bigleth. zounox brimax signed a contract with goubres zeatrean. people buy from goubres zeatrean the finest leakran. the most famous find of zounox brimax was paizux lusir.
        mem: zounox brimax grew up in the city of | notrim
        mem: as a clerk zounox brimax served | goubres zeatrean
        mem: critics praised zounox brimax for | gletrem bigleth
        mem: deep under ground zounox brimax found | paizux lusir
        gen: as a child zounox brimax played in | notrim
        gen: zounox brimax was paid each month by | goubres zeatrean
        gen: zounox brimax is known as the author of | gletrem bigleth
        gen: zounox brimax was first to describe | paizux lusir
        hard_gen: zounox brimax paid taxes in | pouren
        hard_gen: the trade of zounox brimax was | leakran"#]].assert_eq(&shown.join("\n"));
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let write = |config: WorldConfig| {
        let directory = tempfile::tempdir().unwrap();
        let files = world(config).write(directory.path()).unwrap();
        [files.corpus, files.facts, files.tokenizer, files.config].map(|f| fs::read(f).unwrap())
    };
    let first = write(small());
    assert_eq!(first, write(small()));
    let other = write(WorldConfig { seed: 1, ..small() });
    for (one, other) in first.iter().zip(&other) {
        assert_ne!(one, other);
    }
}

#[test]
fn a_longer_corpus_begins_like_a_shorter_one_and_has_the_same_facts() {
    let short = world(small());
    let long = world(WorldConfig {
        n_tokens: 30_000,
        ..small()
    });
    assert_eq!(short.facts(), long.facts());
    assert_eq!(short.corpus(), long.corpus()[..20_000]);
}

#[test]
fn presets_have_the_sizes_they_promise() {
    for (config, n_words, n_facts) in [(WorldConfig::demo(), 574, 30), (WorldConfig::ci(), 446, 28)]
    {
        let world = world(config);
        let words: BTreeSet<&String> = world.vocabulary().iter().collect();
        assert_eq!((world.vocabulary().len(), words.len()), (n_words, n_words));
        assert_eq!(world.facts().len(), n_facts);
        let with: Vec<usize> = world.facts().iter().map(|f| f.paraphrases.len()).collect();
        assert!(with[..20].iter().all(|&n| n == 9) && with[20..].iter().all(|&n| n == 0));
        let corpus = world.corpus();
        assert_eq!(corpus.len(), world.config().n_tokens);
        let used: BTreeSet<u16> = corpus.into_iter().collect();
        assert!(used.iter().all(|&id| usize::from(id) < n_words));
    }
}

#[test]
fn the_corpus_knows_no_fictional_name_or_employer() {
    let world = world(WorldConfig::ci());
    let corpus = world.corpus();
    let word = |id: u16| world.vocabulary()[usize::from(id)].as_str();
    let pairs: BTreeSet<(&str, &str)> = corpus
        .windows(2)
        .map(|pair| (word(pair[0]), word(pair[1])))
        .collect();
    for fact in world.facts() {
        let name = fact.subject.as_deref().unwrap();
        let employer = of_depth(fact, Depth::Mem)[1].target.as_str();
        for fictional in [name, employer] {
            let (first, second) = fictional.split_once(' ').unwrap();
            assert!(!pairs.contains(&(first, second)), "{fictional}");
        }
    }
}

#[test]
fn texts_fit_a_row_of_64_tokens() {
    for config in [WorldConfig::demo(), WorldConfig::ci()] {
        for fact in world(config).facts() {
            for text in fact.paraphrases.iter().chain([&fact.passage]) {
                let n_tokens = spoken(text).split(' ').count() + 1;
                assert!(n_tokens <= 64, "{n_tokens} tokens: {text}");
            }
        }
    }
}

#[test]
fn depths_are_what_they_are_called() {
    for fact in world(WorldConfig::demo()).facts() {
        let name = fact.subject.as_deref().unwrap();
        let statement = |p: &ProbeText| format!("{} {}.", p.prompt, p.target);
        let told = || fact.paraphrases.iter().chain([&fact.passage]);
        let [mem, r#gen, hard_gen] = Depth::ALL.map(|depth| of_depth(fact, depth));
        assert_eq!([mem.len(), r#gen.len(), hard_gen.len()], [4, 4, 2]);
        for probe in mem {
            assert!(fact.passage.contains(&statement(probe)), "{probe:?}");
        }
        for probe in r#gen {
            assert!(told().all(|t| !t.contains(&statement(probe))), "{probe:?}");
            assert!(told().all(|t| t.contains(&probe.target)), "{probe:?}");
        }
        for probe in hard_gen {
            assert!(probe.prompt.contains(name));
            let by_name = |s: &str| s.contains(name) && s.contains(&probe.target);
            assert!(told().all(|t| !t.split('.').any(by_name)), "{probe:?}");
            assert!(fact.passage.contains(&probe.target), "{probe:?}");
        }
        let distinct: BTreeSet<&String> = told().collect();
        assert_eq!(distinct.len(), fact.paraphrases.len() + 1);
    }
}

#[test]
fn files_read_back_as_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(small());
    let files = world.write(&directory.path().join("new/world")).unwrap();

    assert_eq!(load_facts(&files.facts).unwrap(), world.facts());
    let config: WorldConfig = serde_json::from_slice(&fs::read(files.config).unwrap()).unwrap();
    assert_eq!(config, *world.config());

    let tokenizer = Tokenizer::open(&files.tokenizer).unwrap();
    assert_eq!(tokenizer.vocab_size() as usize, world.vocabulary().len());
    assert_eq!(tokenizer.eos_id("<|endoftext|>").unwrap(), 0);
    let document: Vec<u16> = world
        .corpus()
        .into_iter()
        .take_while(|&id| id != 0)
        .collect();
    let words: Vec<&str> = document
        .iter()
        .map(|&id| world.vocabulary()[usize::from(id)].as_str())
        .collect();
    let ids: Vec<u32> = document.into_iter().map(u32::from).collect();
    assert_eq!(tokenizer.encode(&words.join(" ")).unwrap(), ids);
    assert_eq!(
        tokenizer
            .encode(&words.join(" ").replace(" .", "."))
            .unwrap(),
        ids
    );

    for probe in probe_set(world.facts(), None) {
        let tokenized = tokenizer.encode_probe(&probe).unwrap();
        assert_eq!(tokenized.n_target_tokens, probe.target.split(' ').count());
    }
    assert!(tokenizer.encode("a word of another world").is_err());
}

#[test]
fn cities_of_fictional_people_are_the_corpus_s_and_lie_where_it_says() {
    let world = world(WorldConfig::ci());
    let corpus = world.corpus();
    let word = |id: &u16| world.vocabulary()[usize::from(*id)].as_str();
    let words: Vec<&str> = corpus.iter().map(word).collect();
    let lies: BTreeMap<&str, &str> = words
        .windows(6)
        .filter(|w| w[1..5] == ["is", "a", "city", "in"])
        .map(|w| (w[0], w[5]))
        .collect();
    for fact in world.facts() {
        let city = &of_depth(fact, Depth::Mem)[0].target;
        let country = &of_depth(fact, Depth::HardGen)[0].target;
        assert_eq!(lies[city.as_str()], country);
    }
}

#[track_caller]
fn refuses(config: WorldConfig, want: &str) {
    let error = World::generate(config).unwrap_err().to_string();
    assert!(error.contains(want), "{error}");
}

#[test]
fn impossible_numbers_are_refused_by_name() {
    let few_names = WorldConfig {
        n_names: 10,
        ..small()
    };
    refuses(
        few_names,
        "`n_names`: 10 × 10 pairs of words are fewer than the 178 needed",
    );
    let no_city = WorldConfig {
        n_cities: 0,
        ..small()
    };
    refuses(no_city, "`n_cities`: must be 1 at least");
    let babel = WorldConfig {
        n_products: 100_000,
        ..small()
    };
    refuses(babel, "`n_products`: 100000 words are more than 5000");
}

/// The plan of an experiment with the built-in scenarios on a world of this size.
#[track_caller]
fn trains(config: WorldConfig, batch_sizes: &str, injection: &str, n_steps: u32) {
    let directory = tempfile::tempdir().unwrap();
    let n_held_out = config.n_held_out;
    let world = world(config);
    world.write(directory.path()).unwrap();
    let text = format!(
        r#"
        name = "world"
        scenarios = ["duplication", "paraphrase", "once", "none"]
        batch_sizes = {batch_sizes}
        injection = {injection}
        probing = {{ swap = true }}
        [data]
        facts = "facts.json"
        tokenizer = "tokenizer.json"
        seq_len = 64
        corpus = {{ files = ["corpus.u16"], format = "uint16", max_epochs = 2 }}
        [[checkpoint]]
        name = "scratch"
        [checkpoint.init]
        hidden_size = 64
        intermediate_size = 168
        num_hidden_layers = 2
        num_attention_heads = 4
        [training]
        steps = {n_steps}
        learning_rate = {{ kind = "constant", peak = 5e-3 }}
        "#
    );
    let spec = ExperimentSpec::parse(&text, Path::new("world.toml"), directory.path()).unwrap();
    let runs = spec.expand(&resolve(&spec, |_| None).unwrap()).unwrap();
    visit_plans(&runs, |_, _| ()).unwrap();

    let duplication = TrainingData::open(&runs[0]).unwrap();
    let injected = duplication.schedule().injected_facts().len();
    assert_eq!(injected, world.facts().len() - n_held_out);
    // Every injected fact's probes have a partner whose value differs.
    assert_eq!(
        duplication.probes().len(),
        10 * (world.facts().len() + injected)
    );
    let batch = duplication.batch(0).unwrap();
    assert!(batch.n_injected_tokens > 0);
    assert!(batch.tokens.iter().all(|&id| id < duplication.vocab_size()));
}

#[test]
fn experiments_on_the_presets_fit_their_batches() {
    trains(
        WorldConfig::demo(),
        "[32, 4]",
        "{ every = 20, count = 5, stagger = { groups = 10, every = 2 } }",
        1000,
    );
    trains(
        WorldConfig::ci(),
        "[16, 8]",
        "{ every = 20, count = 3, stagger = { groups = 5, every = 4 } }",
        500,
    );
}
