//! Search sees what was changed as soon as the change is answered.

use mapx_embeddings::domain::recommendation::{PlaceDraft, ServiceDraft};

use super::*;

pub async fn an_edited_row_is_found_by_its_new_words_and_vector(shelf: Shelf) {
    let id = shelf.save(near("lighthouse", 0.9)).await;
    shelf.update(id, Patch { description: Some("harbour".into()), ..Patch::default() }).await;
    assert!(shelf.with_words("lighthouse").await.is_empty());
    assert_eq!(shelf.with_words("harbour").await, [id]);
    // The old vector serves until the new one is there.
    assert_cosines(&shelf.by_meaning(0.0, anyone(10)).await, &[(id, 0.9)]);
    assert!(shelf.finish(id, 2, at(0.4)).await);
    assert_cosines(&shelf.by_meaning(0.0, anyone(10)).await, &[(id, 0.4)]);
    let patch = Patch {
        title: Some(Some("beacon".into())),
        labels: Some(vec!["seaside".into()]),
        embedding: Some(at(0.7)),
        content_type: Some(ContentType::Place),
        ..Patch::default()
    };
    shelf.update(id, patch).await;
    assert_eq!(shelf.with_words("beacon seaside harbour").await, [id]);
    let places = Scope { content_type: Some(ContentType::Place), ..anyone(10) };
    assert_cosines(&shelf.by_meaning(0.0, places).await, &[(id, 0.7)]);
    shelf.update(id, Patch { title: Some(None), labels: Some(vec![]), ..Patch::default() }).await;
    assert!(shelf.by_words("beacon seaside", Match::Any, anyone(10)).await.is_empty());
}

pub async fn a_deleted_row_is_found_no_more(shelf: Shelf) {
    let id = shelf.save(near("lighthouse", 0.9)).await;
    let other = shelf.save(near("lighthouse", 0.8)).await;
    shelf.db.delete(id, owner()).await.expect("deleted");
    assert_eq!(shelf.with_words("lighthouse").await, [other]);
    assert_eq!(ids(&shelf.by_meaning(0.0, anyone(10)).await), [other]);
    assert!(!shelf.finish(id, 1, at(0.9)).await, "nor by a vector that comes late");
    assert_eq!(ids(&shelf.by_meaning(0.0, anyone(10)).await), [other]);
}

fn place(google: &str, name: &str, address: &str) -> Option<PlaceDraft> {
    Some(PlaceDraft {
        google_place_id: Some(google.into()),
        name: Some(name.into()),
        address: Some(address.into()),
        category: Some("Marina".into()),
        ..PlaceDraft::default()
    })
}

pub async fn a_renamed_place_is_found_by_its_new_name(shelf: Shelf) {
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(shelf.save(Draft { place: place("g1", "Lighthouse", "Cliff 1"), ..near("a walk", 0.9) }).await);
    }
    let other = shelf.save(Draft { place: place("g2", "Lighthouse", "Pier 9"), ..text("a walk") }).await;
    assert_eq!(shelf.with_words("lighthouse cliff marina").await, all);
    all.push(shelf.save(Draft { place: place("g1", "Beacon", "Cliff 1"), ..text("a swim") }).await);
    assert_eq!(shelf.with_words("beacon cliff").await, all);
    assert_eq!(shelf.with_words("lighthouse").await, [other]);
    shelf
        .execute("UPDATE places SET address = 'Dune 4', category_name = 'Ruin' WHERE google_place_id = 'g1'")
        .await;
    assert_eq!(shelf.with_words("beacon dune ruin").await, all, "by another program too");
}

pub async fn a_renamed_service_is_found_by_its_new_name(shelf: Shelf) {
    let service = |address: &str| {
        Some(ServiceDraft {
            name: Some("Ana".into()),
            service_type: Some("Plumber".into()),
            business_name: Some("Pipes Ltd".into()),
            address: Some(address.into()),
            metadata: None,
        })
    };
    let one = shelf.save(Draft { service: service("Pier 9"), ..near("quick", 0.9) }).await;
    assert_eq!(shelf.with_words("ana plumber pipes pier").await, [one]);
    let two = shelf.save(Draft { service: service("Cliff 1"), ..text("kind") }).await;
    assert_eq!(shelf.with_words("ana cliff").await, [one, two]);
    assert!(shelf.with_words("pier").await.is_empty());
    shelf.execute("UPDATE services SET name = 'Berta', business_name = NULL").await;
    assert_eq!(shelf.with_words("berta plumber").await, [one, two]);
    assert!(shelf.by_words("ana pipes", Match::Any, anyone(10)).await.is_empty());
}

pub async fn a_row_moves_to_another_place(shelf: Shelf) {
    let id = shelf.save(Draft { place: place("g1", "Lighthouse", "Cliff 1"), ..text("a walk") }).await;
    shelf.update(id, Patch { place: place("g2", "Beacon", "Pier 9"), ..Patch::default() }).await;
    assert_eq!(shelf.with_words("beacon pier").await, [id]);
    assert!(shelf.with_words("lighthouse").await.is_empty());
}

pub async fn a_late_vector_of_an_old_text_is_not_found(shelf: Shelf) {
    let id = shelf.save(text("lighthouse")).await;
    shelf.update(id, Patch { description: Some("harbour".into()), ..Patch::default() }).await;
    assert!(!shelf.finish(id, 1, at(0.9)).await);
    assert!(shelf.by_meaning(-1.0, anyone(10)).await.is_empty());
    assert!(shelf.finish(id, 2, at(0.5)).await);
    assert_cosines(&shelf.by_meaning(-1.0, anyone(10)).await, &[(id, 0.5)]);
}
