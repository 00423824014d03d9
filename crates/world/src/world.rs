//! The people, places and things of a world, what is told of them, and what is asked.

use std::collections::{BTreeMap, BTreeSet};

use imprint_core::{Depth, Fact, ProbeText};

use crate::language::{
    Attribute, Coiner, N_RELATION_TEMPLATES, N_TEMPLATES, PRONOUN, Relation, common_words, text,
    words,
};
use crate::random::Random;
use crate::{Error, WorldConfig};

pub(crate) const EOS: &str = "<|endoftext|>";

/// Paraphrases of each fact that is not held out.
const N_PARAPHRASES: usize = 9;
/// Each person of the corpus is described in so many of the wordings, so that a new wording of a
/// fact differs from the one that was seen.
const TEMPLATES_OF_A_PERSON: usize = 2;
/// Documents of the corpus that are one sentence about a city or an employer.
const LONE_RELATION_PERCENT: usize = 12;
/// Documents about a person that end by saying where the city lies; likewise what the employer makes.
const RELATION_PERCENT: usize = 15;
/// Sentences after a document's first that give the name again.
const NAME_AGAIN_PERCENT: usize = 60;

/// A world: its vocabulary, its facts, and everything that its corpus may tell.
#[derive(Debug)]
pub struct World {
    config: WorldConfig,
    /// By token id; the end-of-sequence token is 0.
    vocabulary: Vec<String>,
    countries_of_cities: Vec<(String, String)>,
    products_of_employers: Vec<(String, String)>,
    people: Vec<Person>,
    facts: Vec<Fact>,
}

#[derive(Debug)]
struct Person {
    name: String,
    /// By [`Attribute`].
    values: [String; 7],
    /// Wordings that the corpus uses of this person, by [`Attribute`].
    templates: [[usize; TEMPLATES_OF_A_PERSON]; 7],
}

impl Person {
    fn value(&self, attribute: Attribute) -> &str {
        &self.values[attribute as usize]
    }
}

/// Sequences of draws, so that a longer corpus leaves the facts as they are.
enum Purpose {
    World,
    Corpus,
}

/// The words of a world, and which pairs of them are taken.
struct Pools {
    first_names: Vec<String>,
    last_names: Vec<String>,
    employer_words: [Vec<String>; 2],
    mineral_words: [Vec<String>; 2],
    countries_of_cities: Vec<(String, String)>,
    /// Names and employers of fictional people, which the corpus may not contain.
    fictional: BTreeSet<String>,
}

impl Pools {
    fn pair(&self, words: [&[String]; 2], random: &mut Random) -> String {
        loop {
            let pair = words.map(|w| random.pick(w).as_str()).join(" ");
            if !self.fictional.contains(&pair) {
                return pair;
            }
        }
    }

    fn person(&self, name: String, employer: &(String, String), random: &mut Random) -> Person {
        let (city, country) = random.pick(&self.countries_of_cities).clone();
        let [employer_first, employer_second] = &self.employer_words;
        let [mineral_first, mineral_second] = &self.mineral_words;
        let (employer, product) = employer.clone();
        Person {
            name,
            values: [
                city,
                employer,
                self.pair([employer_first, employer_second], random),
                self.pair([&self.first_names, &self.last_names], random),
                self.pair([mineral_first, mineral_second], random),
                country,
                product,
            ],
            templates: std::array::from_fn(|_| {
                let [a, b, ..] = random.permutation::<N_TEMPLATES>();
                [a, b]
            }),
        }
    }
}

/// `n` different pairs of words.
fn distinct_pairs(words: [&[String]; 2], n: usize, random: &mut Random) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut pairs = Vec::with_capacity(n);
    while pairs.len() < n {
        let pair = words.map(|w| random.pick(w).as_str()).join(" ");
        if taken.insert(pair.clone()) {
            pairs.push(pair);
        }
    }
    pairs
}

impl World {
    /// The world that follows from these numbers.
    ///
    /// # Errors
    /// When a number is 0, or there are too few words for so many people or employers.
    pub fn generate(config: WorldConfig) -> Result<Self, Error> {
        config.check()?;
        let random = &mut Random::new(config.seed, Purpose::World as u64);
        let mut coiner = Coiner::new();
        let mut coin = |n| coiner.coin(n, random);
        let first_names = coin(config.n_names);
        let last_names = coin(config.n_names);
        let cities = coin(config.n_cities);
        let countries = coin(config.n_countries);
        let products = coin(config.n_products);
        let employer_words = [coin(config.n_employer_words), coin(config.n_employer_words)];
        let mineral_words = [coin(config.n_mineral_words), coin(config.n_mineral_words)];

        let vocabulary: Vec<String> = [EOS]
            .into_iter()
            .chain(common_words())
            .map(str::to_owned)
            .chain(
                [&first_names, &last_names, &cities, &countries, &products]
                    .into_iter()
                    .chain(&employer_words)
                    .chain(&mineral_words)
                    .flatten()
                    .cloned(),
            )
            .collect();

        let mut names = distinct_pairs(
            [&first_names, &last_names],
            config.n_people + config.n_fictional(),
            random,
        );
        let mut employers = distinct_pairs(
            [&employer_words[0], &employer_words[1]],
            config.n_employers + config.n_fictional(),
            random,
        );
        let fictional_names = names.split_off(config.n_people);
        let fictional_employers = employers.split_off(config.n_employers);

        let countries_of_cities = with_any(cities, &countries, random);
        let products_of_employers = with_any(employers, &products, random);
        let fictional_employers = with_any(fictional_employers, &products, random);
        let pools = Pools {
            fictional: fictional_names
                .iter()
                .chain(fictional_employers.iter().map(|(employer, _)| employer))
                .cloned()
                .collect(),
            first_names,
            last_names,
            employer_words,
            mineral_words,
            countries_of_cities,
        };
        let people = names
            .into_iter()
            .map(|name| {
                let employer = random.pick(&products_of_employers);
                pools.person(name, employer, random)
            })
            .collect();
        let facts = fictional_names
            .into_iter()
            .zip(&fictional_employers)
            .enumerate()
            .map(|(i, (name, employer))| {
                let person = pools.person(name, employer, random);
                let n_paraphrases = if i < config.n_facts { N_PARAPHRASES } else { 0 };
                fact(&person, n_paraphrases, random)
            })
            .collect();
        Ok(Self {
            config,
            vocabulary,
            countries_of_cities: pools.countries_of_cities,
            products_of_employers,
            people,
            facts,
        })
    }

    pub fn config(&self) -> &WorldConfig {
        &self.config
    }

    /// The words, by token id; the end-of-sequence token is 0.
    pub fn vocabulary(&self) -> &[String] {
        &self.vocabulary
    }

    /// The fictional facts: first those with paraphrases, then those held out.
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// The tokens of the corpus: documents, each closed by the end-of-sequence token.
    pub fn corpus(&self) -> Vec<u16> {
        let random = &mut Random::new(self.config.seed, Purpose::Corpus as u64);
        let ids: BTreeMap<&str, u16> = (0u16..)
            .zip(&self.vocabulary)
            .map(|(id, word)| (word.as_str(), id))
            .collect();
        let mut tokens = Vec::with_capacity(self.config.n_tokens);
        while tokens.len() < self.config.n_tokens {
            let document = text(&self.document(random));
            tokens.extend(words(&document).chain([EOS]).map(|word| ids[word]));
        }
        tokens.truncate(self.config.n_tokens);
        tokens
    }

    /// The sentences of a document.
    fn document(&self, random: &mut Random) -> Vec<String> {
        if random.chance(LONE_RELATION_PERCENT) {
            let (relation, (of, value)) = if random.chance(50) {
                (
                    Relation::CityCountry,
                    random.pick(&self.countries_of_cities),
                )
            } else {
                (
                    Relation::EmployerProduct,
                    random.pick(&self.products_of_employers),
                )
            };
            return vec![relation.sentence(random.below(N_RELATION_TEMPLATES), of, value)];
        }
        let person = random.pick(&self.people);
        let mut told = Attribute::ALL;
        random.shuffle(&mut told);
        let n_told = 3 + random.below(4);
        let mut sentences = Vec::with_capacity(n_told + 2);
        for (i, &attribute) in told[..n_told].iter().enumerate() {
            let name = if i == 0 || random.chance(NAME_AGAIN_PERCENT) {
                &person.name
            } else {
                PRONOUN
            };
            let template = *random.pick(&person.templates[attribute as usize]);
            sentences.push(attribute.sentence(template, name, person.value(attribute)));
        }
        for (relation, of, value) in [
            (Relation::CityCountry, Attribute::City, Attribute::Country),
            (
                Relation::EmployerProduct,
                Attribute::Employer,
                Attribute::Product,
            ),
        ] {
            if random.chance(RELATION_PERCENT) {
                let template = random.below(N_RELATION_TEMPLATES);
                sentences.push(relation.sentence(template, person.value(of), person.value(value)));
            }
        }
        sentences
    }
}

/// Each thing with one of the values.
fn with_any(things: Vec<String>, values: &[String], random: &mut Random) -> Vec<(String, String)> {
    things
        .into_iter()
        .map(|thing| (thing, random.pick(values).clone()))
        .collect()
}

/// What the passage tells, and the relation that follows the sentence where there is one.
const TOLD: [(Attribute, Option<(Relation, Attribute)>); 4] = [
    (
        Attribute::City,
        Some((Relation::CityCountry, Attribute::Country)),
    ),
    (
        Attribute::Employer,
        Some((Relation::EmployerProduct, Attribute::Product)),
    ),
    (Attribute::Book, None),
    (Attribute::Mineral, None),
];

/// Which of its wordings an attribute takes, and which of its own the relation that follows.
type Choose<'a> = dyn FnMut(&[usize], &[usize]) -> [usize; 2] + 'a;

/// A fact about a person: which wording is the passage's, which is kept for the `gen` probes, and
/// which the paraphrases draw from, is dealt anew for each.
fn fact(person: &Person, n_paraphrases: usize, random: &mut Random) -> Fact {
    let wordings = TOLD.map(|_| random.permutation::<N_TEMPLATES>());
    let relation_wordings = TOLD.map(|_| random.permutation::<N_RELATION_TEMPLATES>());
    let tell = |choose: &mut Choose| {
        let told = TOLD.iter().zip(wordings.iter().zip(&relation_wordings));
        told.map(|((attribute, relation), (wordings, relation_wordings))| {
            let [template, relation_template] = choose(wordings, relation_wordings);
            let value = person.value(*attribute);
            let mut sentences = vec![attribute.sentence(template, &person.name, value)];
            if let Some((relation, derived)) = relation {
                let derived = person.value(*derived);
                sentences.push(relation.sentence(relation_template, value, derived));
            }
            sentences.join(". ")
        })
        .collect::<Vec<String>>()
    };
    let passage = text(&tell(&mut |wordings, relations| {
        [wordings[0], relations[0]]
    }));
    let mut paraphrases: Vec<String> = Vec::with_capacity(n_paraphrases);
    while paraphrases.len() < n_paraphrases {
        let mut told = tell(&mut |wordings, relations| {
            [*random.pick(&wordings[2..]), *random.pick(&relations[1..])]
        });
        random.shuffle(&mut told);
        let paraphrase = text(&told);
        if !paraphrases.contains(&paraphrase) {
            paraphrases.push(paraphrase);
        }
    }
    let probe = |depth, ordinal: usize, attribute: Attribute, template| ProbeText {
        depth,
        ordinal: ordinal as u16,
        prompt: attribute.prompt(template, &person.name),
        target: person.value(attribute).to_owned(),
    };
    let mut probes = Vec::new();
    for (depth, place) in [(Depth::Mem, 0), (Depth::Gen, 1)] {
        for (i, (attribute, _)) in TOLD.iter().enumerate() {
            probes.push(probe(depth, i, *attribute, wordings[i][place]));
        }
    }
    for (i, attribute) in [Attribute::Country, Attribute::Product]
        .into_iter()
        .enumerate()
    {
        let template = random.below(N_TEMPLATES);
        probes.push(probe(Depth::HardGen, i, attribute, template));
    }
    Fact {
        subject: Some(person.name.clone()),
        passage,
        paraphrases,
        probes,
    }
}
