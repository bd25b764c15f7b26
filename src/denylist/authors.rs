//! Who revoked what, by number: millions of rows share few authors.

use std::collections::HashMap;

use crate::model::{Author, Row};

/// Numbers for authors, counted, so that those whom no row names are forgotten.
#[derive(Debug, Default)]
pub(super) struct Authors {
    numbers: HashMap<Author, u32>,
    /// Each author, and how many rows name it; none at a number that is free.
    authors: Vec<Option<(Author, u32)>>,
    free: Vec<u32>,
}

impl Authors {
    pub(super) fn get(&self, number: u32) -> Option<&Author> {
        self.authors.get(number as usize)?.as_ref().map(|(author, _)| author)
    }

    /// The number of an author, for so many more rows; none if the numbers have run out.
    pub(super) fn acquire(&mut self, author: &Author, more: u32) -> Option<u32> {
        if let Some(&number) = self.numbers.get(author) {
            let (_, rows) = self.authors.get_mut(number as usize)?.as_mut()?;
            *rows = rows.checked_add(more)?;
            return Some(number);
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None => u32::try_from(self.authors.len()).ok().filter(|number| *number != Row::NO_AUTHOR)?,
        };
        if number as usize == self.authors.len() {
            self.authors.push(None);
        }
        *self.authors.get_mut(number as usize)? = Some((author.clone(), more));
        self.numbers.insert(author.clone(), number);
        Some(number)
    }

    /// A row that named an author is gone.
    pub(super) fn release(&mut self, number: u32) {
        let Some(slot) = self.authors.get_mut(number as usize) else { return };
        if let Some((author, rows)) = slot {
            *rows -= 1;
            if *rows == 0 {
                self.numbers.remove(author);
                *slot = None;
                self.free.push(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Life;

    #[test]
    fn numbers_are_used_again_once_no_row_names_them() {
        let mut authors = Authors::default();
        let author = |actor: &str, life| Author { life: Life::from_bytes([life; 16]), actor: Some(actor.into()) };
        let (alice, bob) = (author("alice", 1), author("bob", 1));
        assert_eq!(authors.acquire(&alice, 1), Some(0));
        assert_eq!(authors.acquire(&alice, 1), Some(0));
        authors.release(0);
        assert_eq!(authors.get(0), Some(&alice), "one row still names her");
        authors.release(0);
        assert_eq!(authors.get(0), None);
        assert_eq!(authors.acquire(&bob, 1), Some(0));
        assert_eq!(authors.acquire(&alice, 1), Some(1));
        assert_eq!(authors.acquire(&author("alice", 2), 1), Some(2), "of another life");
        authors.release(Row::NO_AUTHOR);
    }
}
