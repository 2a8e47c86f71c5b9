//! Vectors of two models never meet.

use super::*;

pub async fn vectors_of_another_model_are_not_searched(shelf: Shelf) {
    let old = shelf.save(near("lighthouse", 0.9)).await;
    let shelf = shelf.reopened("model-b").await;
    assert!(shelf.by_meaning(-1.0, anyone(10)).await.is_empty());
    assert_eq!(shelf.db.vectors().await.expect("a count"), 0);
    let found = shelf.find(Some(&east()), -1.0, &["lighthouse".into()], anyone(10)).await;
    assert_eq!(found.by_words.len(), 1, "its words are of no model");
    assert!(found.cosines.is_empty(), "a cosine between two models means nothing: {found:?}");
    let new = shelf.save(near("lighthouse", 0.2)).await;
    assert_cosines(&shelf.by_meaning(-1.0, anyone(10)).await, &[(new, 0.2)]);
    assert!(shelf.finish(old, 1, at(0.6)).await);
    assert_cosines(&shelf.by_meaning(-1.0, anyone(10)).await, &[(old, 0.6), (new, 0.2)]);
}

pub async fn a_database_opened_again_finds_the_same(shelf: Shelf) {
    let public = shelf.save(near("lighthouse", 0.9)).await;
    let hidden = shelf.save(for_friends(near("lighthouse", 0.8))).await;
    let shelf = shelf.reopened("model-a").await;
    assert_cosines(&shelf.by_meaning(-1.0, anyone(10)).await, &[(public, 0.9)]);
    let mine = Scope { viewer: Some(owner()), ..anyone(10) };
    assert_cosines(&shelf.by_meaning(-1.0, mine).await, &[(public, 0.9), (hidden, 0.8)]);
    assert_eq!(shelf.by_words("lighthouse", Match::All, mine).await, [public, hidden]);
}
