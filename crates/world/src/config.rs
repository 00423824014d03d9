//! How large a world is.

use serde::{Deserialize, Serialize};

use crate::Error;

/// Words of one kind; nine kinds of so many are still fewer than 16 bits can number.
const MOST_WORDS: usize = 5_000;

/// The numbers from which, and from which alone, a world follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldConfig {
    pub seed: u64,
    /// People of whom the corpus tells.
    pub n_people: usize,
    /// Words for first names, and as many for last names.
    pub n_names: usize,
    pub n_cities: usize,
    pub n_countries: usize,
    pub n_products: usize,
    /// Words for the first half of an employer's name or a book's title, and as many for the second.
    pub n_employer_words: usize,
    /// Words for the first half of a mineral's name, and as many for the second.
    pub n_mineral_words: usize,
    /// Employers of whom the corpus tells.
    pub n_employers: usize,
    /// Facts with paraphrases.
    pub n_facts: usize,
    /// Facts without, which no built-in scenario shows: the null control.
    pub n_held_out: usize,
    /// Tokens of the corpus.
    pub n_tokens: usize,
}

impl WorldConfig {
    /// The world of the demo: 574 words, 2 million tokens, 20 facts and 10 held out.
    pub fn demo() -> Self {
        Self {
            seed: 0,
            n_people: 150,
            n_names: 100,
            n_cities: 60,
            n_countries: 12,
            n_products: 24,
            n_employer_words: 40,
            n_mineral_words: 40,
            n_employers: 200,
            n_facts: 20,
            n_held_out: 10,
            n_tokens: 2_000_000,
        }
    }

    /// The world of the statistical test: 446 words, 0.4 million tokens, 20 facts and 8 held out.
    pub fn ci() -> Self {
        Self {
            n_names: 60,
            n_cities: 48,
            n_products: 20,
            n_employer_words: 32,
            n_mineral_words: 32,
            n_employers: 30,
            n_held_out: 8,
            n_tokens: 400_000,
            ..Self::demo()
        }
    }

    pub(crate) fn n_fictional(&self) -> usize {
        self.n_facts + self.n_held_out
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let words = [
            ("n_names", self.n_names),
            ("n_cities", self.n_cities),
            ("n_countries", self.n_countries),
            ("n_products", self.n_products),
            ("n_employer_words", self.n_employer_words),
            ("n_mineral_words", self.n_mineral_words),
        ];
        let others = [
            ("n_people", self.n_people),
            ("n_employers", self.n_employers),
            ("n_facts", self.n_facts),
            ("n_tokens", self.n_tokens),
        ];
        let refuse = |field, problem: String| Err(Error::Config { field, problem });
        if let Some((field, _)) = words.iter().chain(&others).find(|(_, n)| *n == 0) {
            return refuse(field, "must be 1 at least".to_owned());
        }
        if let Some((field, n)) = words.iter().find(|(_, n)| *n > MOST_WORDS) {
            return refuse(field, format!("{n} words are more than {MOST_WORDS}"));
        }
        // A spouse and a book are drawn among the pairs that no fictional fact has taken.
        let pairs = [
            ("n_names", self.n_names, self.n_people),
            ("n_employer_words", self.n_employer_words, self.n_employers),
        ];
        for (field, n_words, n_corpus) in pairs {
            let needed = n_corpus + self.n_fictional();
            if needed > n_words * n_words {
                return refuse(
                    field,
                    format!(
                        "{n_words} × {n_words} pairs of words are fewer than the {needed} needed"
                    ),
                );
            }
        }
        Ok(())
    }
}
