//! Pages of a listing: how long they are, and where the next one goes on.

use tonic::Status;

use crate::status::invalid;

/// Changes when what follows it does.
const VERSION: u8 = 1;

/// How long a call's pages are.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub default: usize,
    pub most: usize,
}

/// A listing: the call and the arguments that choose its rows, whose key has `N` parts.
pub struct Listing<'a, const N: usize> {
    pub call: &'a str,
    pub of: &'a str,
}

/// The page that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<const N: usize> {
    pub size: usize,
    /// The key of the last row before it.
    pub after: Option<[i32; N]>,
}

impl<const N: usize> Listing<'_, N> {
    /// The page that a request's `page_size` and `page_token` ask for.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a negative size and a token that this listing did not give.
    pub fn page(&self, sizes: Sizes, size: i32, token: &str) -> Result<Page<N>, Status> {
        let size = match usize::try_from(size) {
            Ok(0) => sizes.default,
            Ok(size) => size.min(sizes.most),
            Err(_) => return Err(invalid("page_size", &format!("{size} is below 0"))),
        };
        let after = match token {
            "" => None,
            token => Some(self.parse(token).ok_or_else(|| {
                let problem = "it is no token of this call with these arguments; begin again \
                               without one";
                invalid("page_token", problem)
            })?),
        };
        Ok(Page { size, after })
    }

    /// The token of the page behind the last row of this one; empty where there is none.
    pub fn next(&self, last: Option<[i32; N]>, has_more: bool) -> String {
        match last {
            Some(last) if has_more => self.token(last),
            _ => String::new(),
        }
    }

    fn token(&self, last: [i32; N]) -> String {
        let key = last.iter().flat_map(|part| part.to_be_bytes());
        let bytes: Vec<u8> = key.collect();
        let mut token = format!("{VERSION:02x}{:08x}", self.check(&bytes));
        for byte in bytes {
            token += &format!("{byte:02x}");
        }
        token
    }

    fn parse(&self, token: &str) -> Option<[i32; N]> {
        let hex = |text: &str| u8::from_str_radix(text, 16).ok();
        let is_ours = token.len() == 2 * (1 + 4 + 4 * N)
            && token.bytes().all(|b| b.is_ascii_hexdigit())
            && hex(&token[..2]) == Some(VERSION);
        if !is_ours {
            return None;
        }
        let key: Vec<u8> = (10..token.len())
            .step_by(2)
            .map(|at| hex(&token[at..at + 2]))
            .collect::<Option<_>>()?;
        if u32::from_str_radix(&token[2..10], 16).ok()? != self.check(&key) {
            return None;
        }
        let mut parts = [0; N];
        for (part, bytes) in parts.iter_mut().zip(key.chunks_exact(4)) {
            *part = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Some(parts)
    }

    /// Over the listing and the key, so that a token of another listing is noticed.
    fn check(&self, key: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for part in [self.call.as_bytes(), self.of.as_bytes(), key] {
            crc.update(&(part.len() as u64).to_be_bytes());
            crc.update(part);
        }
        crc.finalize()
    }
}

/// Cuts rows, of which one more was fetched than the page holds; whether there is a next page.
pub fn cut<T>(rows: &mut Vec<T>, size: usize) -> bool {
    let has_more = rows.len() > size;
    rows.truncate(size);
    has_more
}

#[cfg(test)]
mod tests;
