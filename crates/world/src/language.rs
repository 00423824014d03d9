//! The sentences that can be said, and the words they are said with.

use std::collections::BTreeSet;

use crate::random::Random;

/// Said instead of a name that the document has given before.
pub(crate) const PRONOUN: &str = "they";
pub(crate) const FULL_STOP: &str = ".";

/// Wordings of each attribute.
pub(crate) const N_TEMPLATES: usize = 6;
/// Wordings of each relation.
pub(crate) const N_RELATION_TEMPLATES: usize = 4;

/// What can be said of a person; the derived ones follow from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    City,
    Employer,
    Book,
    Spouse,
    Mineral,
    /// Follows from the city.
    Country,
    /// Follows from the employer.
    Product,
}

impl Attribute {
    pub(crate) const ALL: [Self; 7] = [
        Self::City,
        Self::Employer,
        Self::Book,
        Self::Spouse,
        Self::Mineral,
        Self::Country,
        Self::Product,
    ];

    /// A sentence about a person, without its full stop; the value comes last.
    pub(crate) fn sentence(self, template: usize, name: &str, value: &str) -> String {
        fill(self.templates()[template], name, value)
    }

    /// The same sentence up to its value.
    pub(crate) fn prompt(self, template: usize, name: &str) -> String {
        let sentence = self.sentence(template, name, "");
        sentence.trim_end().to_owned()
    }

    fn templates(self) -> [&'static str; N_TEMPLATES] {
        match self {
            Self::City => [
                "{} was born in {}",
                "{} grew up in the city of {}",
                "the first home of {} stood in {}",
                "as a child {} played in {}",
                "{} went to school in {}",
                "the family of {} came from {}",
            ],
            Self::Employer => [
                "{} worked for {}",
                "the employer of {} was {}",
                "{} spent a long career at {}",
                "{} was paid each month by {}",
                "{} signed a contract with {}",
                "as a clerk {} served {}",
            ],
            Self::Book => [
                "{} wrote the book {}",
                "the best work of {} is named {}",
                "{} is known as the author of {}",
                "critics praised {} for {}",
                "{} published a novel under the title {}",
                "readers praised {} because of {}",
            ],
            Self::Spouse => [
                "{} married {}",
                "the spouse of {} was {}",
                "{} shared a house with {}",
                "one summer {} wed {}",
                "the great love of {} was {}",
                "{} danced at a wedding with {}",
            ],
            Self::Mineral => [
                "{} discovered the mineral {}",
                "the most famous find of {} was {}",
                "{} was first to describe {}",
                "deep under ground {} found {}",
                "{} won a prize for finding {}",
                "a long journey led {} to {}",
            ],
            Self::Country => [
                "{} was a citizen of {}",
                "the nation of {} is {}",
                "{} carried a passport from {}",
                "{} paid taxes in {}",
                "by law {} belonged to {}",
                "the vote of {} counted in {}",
            ],
            Self::Product => [
                "{} made a living by selling {}",
                "the trade of {} was {}",
                "every day {} dealt in {}",
                "{} knew much about {}",
                "the hands of {} were used to {}",
                "{} travelled far to sell {}",
            ],
        }
    }
}

/// What can be said of a city or an employer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    CityCountry,
    EmployerProduct,
}

impl Relation {
    const ALL: [Self; 2] = [Self::CityCountry, Self::EmployerProduct];

    /// A sentence about a city or an employer, without its full stop; the value comes last.
    pub(crate) fn sentence(self, template: usize, of: &str, value: &str) -> String {
        fill(self.templates()[template], of, value)
    }

    fn templates(self) -> [&'static str; N_RELATION_TEMPLATES] {
        match self {
            Self::CityCountry => [
                "{} is a city in {}",
                "the city of {} lies in {}",
                "{} is a port of {}",
                "every map shows {} inside {}",
            ],
            Self::EmployerProduct => [
                "{} is a maker of {}",
                "the workers of {} produce {}",
                "{} is famous for its {}",
                "people buy from {} the finest {}",
            ],
        }
    }
}

fn fill(template: &str, of: &str, value: &str) -> String {
    template.replacen("{}", of, 1).replacen("{}", value, 1)
}

/// Sentences, each with its full stop, as one text.
pub(crate) fn text(sentences: &[String]) -> String {
    sentences.join(". ") + FULL_STOP
}

/// The words and full stops of a text: its tokens.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ')
        .flat_map(|w| match w.strip_suffix(FULL_STOP) {
            Some(word) => [Some(word), Some(FULL_STOP)].into_iter().flatten(),
            None => [Some(w), None].into_iter().flatten(),
        })
}

/// The words that every world's sentences share, pronoun and full stop among them.
pub(crate) fn common_words() -> Vec<&'static str> {
    let attributes = Attribute::ALL.iter().flat_map(|a| a.templates());
    let relations = Relation::ALL.iter().flat_map(|r| r.templates());
    let spoken = attributes.chain(relations).flat_map(|t| t.split(' '));
    let mut seen = BTreeSet::new();
    [FULL_STOP, PRONOUN]
        .into_iter()
        .chain(spoken.filter(|w| *w != "{}"))
        .filter(|w| seen.insert(*w))
        .collect()
}

/// Invents words, each once, and none that the sentences use.
pub(crate) struct Coiner {
    taken: BTreeSet<String>,
}

impl Coiner {
    pub(crate) fn new() -> Self {
        Self {
            taken: common_words().into_iter().map(str::to_owned).collect(),
        }
    }

    /// `n` new words of two syllables.
    pub(crate) fn coin(&mut self, n: usize, random: &mut Random) -> Vec<String> {
        const ONSETS: [&str; 20] = [
            "b", "br", "d", "f", "g", "gl", "h", "k", "kr", "l", "m", "n", "p", "r", "s", "st",
            "t", "tr", "v", "z",
        ];
        const VOWELS: [&str; 8] = ["a", "e", "i", "o", "u", "ai", "ea", "ou"];
        const CODAS: [&str; 9] = ["", "l", "m", "n", "nd", "r", "s", "th", "x"];
        let mut coined = Vec::with_capacity(n);
        while coined.len() < n {
            let word = [ONSETS.as_slice(), &VOWELS, &ONSETS, &VOWELS, &CODAS]
                .map(|sounds| *random.pick(sounds))
                .concat();
            if self.taken.insert(word.clone()) {
                coined.push(word);
            }
        }
        coined
    }
}
