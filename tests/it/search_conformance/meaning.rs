//! The nearest vectors.

use super::*;

pub async fn the_nearest_come_first_with_their_exact_cosines(shelf: Shelf) {
    let mut expected = Vec::new();
    for cosine in [0.3, 0.95, -0.6, 0.0, 1.0, 0.7] {
        expected.push((shelf.save(near("a row", cosine)).await, cosine));
    }
    // Written back by a worker, it is found as one that came along.
    let late = shelf.save(text("a row")).await;
    assert_eq!(shelf.by_meaning(-1.0, anyone(10)).await.len(), 6);
    assert!(shelf.finish(late, 1, at(0.5)).await);
    expected.push((late, 0.5));
    expected.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    assert_cosines(&shelf.by_meaning(-1.0, anyone(10)).await, &expected);
}

pub async fn nothing_under_the_floor_is_found(shelf: Shelf) {
    let mut rows = Vec::new();
    for cosine in [0.9, 0.5, 0.1, -0.4] {
        rows.push((shelf.save(near("a row", cosine)).await, cosine));
    }
    for (floor, found) in [(0.95, 0), (0.6, 1), (0.3, 2), (0.0, 3), (-0.9, 4)] {
        assert_cosines(&shelf.by_meaning(floor, anyone(10)).await, &rows[..found]);
    }
}

pub async fn at_most_k_are_found(shelf: Shelf) {
    let drafts: Vec<Draft> = (0..30).map(|n| near("a row", 0.9 - n as f32 * 0.05)).collect();
    let all = shelf.save_all(drafts).await;
    for k in [1, 7, 30, 100] {
        assert_eq!(ids(&shelf.by_meaning(-1.0, anyone(k)).await), all[..k.min(30)], "k = {k}");
    }
}

pub async fn equally_near_rows_come_by_id(shelf: Shelf) {
    let drafts = (0..20).map(|n| Draft { embedding: Some(leaning(0.5, 1.0, n as f32)), ..text("a row") }).collect();
    let all = shelf.save_all(drafts).await;
    let same = shelf.save_all((0..20).map(|_| near("a row", 0.8)).collect()).await;
    let found = shelf.by_meaning(0.0, anyone(40)).await;
    assert_eq!(ids(&found)[..20], same);
    // Rounding decides among those whose vectors differ; none of them is missing.
    let mut rest = ids(&found)[20..].to_vec();
    rest.sort_unstable();
    assert_eq!(rest, all);
}

pub async fn only_the_content_type_that_was_asked_for(shelf: Shelf) {
    let mut of = Vec::new();
    for content_type in [ContentType::Place, ContentType::Service, ContentType::Unclear] {
        of.push((content_type, shelf.save(Draft { content_type, ..near("lighthouse", 0.9) }).await));
    }
    for (content_type, id) in of {
        let scope = Scope { content_type: Some(content_type), ..anyone(10) };
        assert_eq!(ids(&shelf.by_meaning(0.0, scope).await), [id]);
        assert_eq!(shelf.by_words("lighthouse", Match::All, scope).await, [id]);
    }
}

/// 5,000 rows, of which 50 are public, and not the nearest ones.
pub async fn a_filter_that_lets_a_hundredth_through_still_gives_k_of_k(shelf: Shelf) {
    let draft = |n: usize| {
        let public = n % 100 == 7;
        let cosine = if public { 0.1 + n as f32 / 20_000.0 } else { 0.4 + n as f32 / 10_000.0 };
        let draft = Draft { embedding: Some(leaning(cosine, 1.0, n as f32 / 5_000.0)), ..text("a row") };
        if public { draft } else { for_friends(draft) }
    };
    let all = shelf.save_all((0..5_000).map(draft).collect()).await;
    let mut public: Vec<i64> = all.iter().copied().skip(7).step_by(100).collect();
    public.reverse();
    // A database that knows its own figures plans otherwise than one that guesses.
    shelf.execute("ANALYZE recommendations").await;
    for k in [10, 50] {
        assert_eq!(ids(&shelf.by_meaning(0.0, anyone(k)).await), public[..k], "k = {k}");
    }
    // By content type too, in the same way.
    shelf.execute("UPDATE recommendations SET content_type = 'place' WHERE id % 100 = 3").await;
    let shelf = shelf.reopened("model-a").await;
    let places = Scope { viewer: Some(owner()), content_type: Some(ContentType::Place), k: 50 };
    assert_eq!(shelf.by_meaning(0.0, places).await.len(), 50);
}

pub async fn thousands_of_rows_lose_hardly_a_neighbour(shelf: Shelf) {
    // Points all over the sphere, the same in every run.
    let mut state = 7_u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    let vectors: Vec<Embedding> = (0..3_000)
        .map(|_| Embedding::new((0..DIMENSIONS).map(|_| number()).collect(), DIMENSIONS).expect("a direction"))
        .collect();
    let drafts = vectors.iter().map(|v| Draft { embedding: Some(v.clone()), ..text("a row") }).collect();
    let all = shelf.save_all(drafts).await;
    let mut exact: Vec<(i64, f32)> = all.iter().zip(&vectors).map(|(id, v)| (*id, v.as_slice()[0])).collect();
    exact.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let found = shelf.by_meaning(-1.0, anyone(50)).await;
    assert_eq!(found.len(), 50);
    let hits = found.iter().filter(|(id, _)| exact[..50].iter().any(|(near, _)| near == id)).count();
    assert!(hits >= 48, "{hits} of the 50 nearest");
    for (id, cosine) in &found {
        let (_, expected) = exact.iter().find(|(row, _)| row == id).expect("a row");
        assert!((cosine - expected).abs() < EPSILON, "{id}: {cosine}, not {expected}");
    }
    assert!(found.is_sorted_by(|(_, a), (_, b)| a >= b), "nearest first");
}

pub async fn nothing_is_found_where_nothing_is(shelf: Shelf) {
    let found = shelf.find(Some(&east()), -1.0, &["lighthouse".into()], anyone(10)).await;
    assert!(found.by_meaning.is_empty() && found.by_words.is_empty() && found.cosines.is_empty());
    assert_eq!(shelf.db.vectors().await.expect("a count"), 0);
    let found = shelf.db.find(None, None, anyone(10)).await.expect("an answer");
    assert!(found.by_meaning.is_empty() && found.by_words.is_empty());
    let id = shelf.save(near("a row", 0.2)).await;
    let scope = anyone(10);
    assert!(shelf.by_meaning(0.5, scope).await.is_empty());
    assert!(shelf.by_words("submarine", Match::Any, scope).await.is_empty());
    assert_eq!(ids(&shelf.by_meaning(0.0, scope).await), [id]);
    assert_eq!(shelf.db.vectors().await.expect("a count"), 1);
}

pub async fn both_at_once_find_what_each_finds_alone(shelf: Shelf) {
    for n in 0..40_u8 {
        let words = ["lighthouse at dusk", "harbour", "lighthouse"][usize::from(n) % 3];
        let draft = if n % 4 == 0 { text(words) } else { near(words, 0.9 - f32::from(n) * 0.02) };
        shelf.save(if n % 5 == 0 { for_friends(draft) } else { draft }).await;
    }
    let lighthouse = ["lighthouse".to_string()];
    for scope in [anyone(10), anyone(100), Scope { viewer: Some(owner()), ..anyone(30) }] {
        for floor in [-1.0, 0.5] {
            let both = shelf.find(Some(&east()), floor, &lighthouse, scope).await;
            assert_cosines(&both.by_meaning, &shelf.by_meaning(floor, scope).await);
            let words: Vec<i64> = both.by_words.iter().map(|(id, _)| *id).collect();
            assert_eq!(words, shelf.by_words("lighthouse", Match::All, scope).await);
            assert!(!words.is_empty() && !both.by_meaning.is_empty() && !both.cosines.is_empty());
        }
    }
}
