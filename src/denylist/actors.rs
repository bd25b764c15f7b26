//! Who revoked what, by number: millions of rows share few actors.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::Row;

/// Numbers for actors, counted, so that those whom no row names are forgotten.
#[derive(Debug, Default)]
pub(super) struct Actors {
    numbers: HashMap<Arc<str>, u32>,
    /// Each actor, and how many rows name it; none at a number that is free.
    actors: Vec<Option<(Arc<str>, u32)>>,
    free: Vec<u32>,
}

impl Actors {
    pub(super) fn get(&self, number: u32) -> Option<&Arc<str>> {
        self.actors.get(number as usize)?.as_ref().map(|(actor, _)| actor)
    }

    /// The number of an actor, for so many more rows; none if the numbers have run out.
    pub(super) fn acquire(&mut self, actor: &Arc<str>, more: u32) -> Option<u32> {
        if let Some(&number) = self.numbers.get(actor) {
            let (_, rows) = self.actors.get_mut(number as usize)?.as_mut()?;
            *rows = rows.checked_add(more)?;
            return Some(number);
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None => u32::try_from(self.actors.len()).ok().filter(|number| *number != Row::NO_ACTOR)?,
        };
        if number as usize == self.actors.len() {
            self.actors.push(None);
        }
        *self.actors.get_mut(number as usize)? = Some((Arc::clone(actor), more));
        self.numbers.insert(Arc::clone(actor), number);
        Some(number)
    }

    /// A row that named an actor is gone.
    pub(super) fn release(&mut self, number: u32) {
        let Some(slot) = self.actors.get_mut(number as usize) else { return };
        if let Some((actor, rows)) = slot {
            *rows -= 1;
            if *rows == 0 {
                self.numbers.remove(actor);
                *slot = None;
                self.free.push(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again_once_no_row_names_them() {
        let mut actors = Actors::default();
        let (alice, bob): (Arc<str>, Arc<str>) = ("alice".into(), "bob".into());
        assert_eq!(actors.acquire(&alice, 1), Some(0));
        assert_eq!(actors.acquire(&alice, 1), Some(0));
        actors.release(0);
        assert_eq!(actors.get(0), Some(&alice), "one row still names her");
        actors.release(0);
        assert_eq!(actors.get(0), None);
        assert_eq!(actors.acquire(&bob, 1), Some(0));
        assert_eq!(actors.acquire(&alice, 1), Some(1));
        actors.release(Row::NO_ACTOR);
    }
}
