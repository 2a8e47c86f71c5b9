//! Reciprocal rank fusion of result lists (Cormack, Clarke and Büttcher, SIGIR 2009).

use std::collections::HashMap;

/// The constant of the paper: large enough that the first rank doesn't decide alone.
const K: f64 = 60.0;

/// Fuses lists of ids, each best first, into one: an id's score is the sum of `1 / (60 + rank)` over the
/// lists it stands in. Ties keep the order of first appearance, so the result is deterministic.
pub fn reciprocal_rank(lists: &[&[i64]]) -> Vec<i64> {
    let mut scores: HashMap<i64, f64> = HashMap::new();
    let mut order = Vec::new();
    for list in lists {
        for (position, id) in list.iter().enumerate() {
            let score = scores.entry(*id).or_insert_with(|| {
                order.push(*id);
                0.0
            });
            *score += 1.0 / (K + position as f64 + 1.0);
        }
    }
    order.sort_by(|a, b| scores[b].total_cmp(&scores[a]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_beats_a_single_first_place() {
        assert_eq!(reciprocal_rank(&[&[1, 2, 3], &[4, 2, 5]])[0], 2);
    }

    #[test]
    fn ties_keep_the_order_of_appearance() {
        assert_eq!(reciprocal_rank(&[&[1, 2], &[3, 4]]), [1, 3, 2, 4]);
        assert_eq!(reciprocal_rank(&[&[], &[9]]), [9]);
    }
}
