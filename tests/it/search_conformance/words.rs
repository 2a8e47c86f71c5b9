//! The rows with the words.

use mapx_embeddings::domain::recommendation::{PlaceDraft, ServiceDraft};

use super::*;

pub async fn a_row_without_a_vector_is_found_by_its_words(shelf: Shelf) {
    let id = shelf.save(text("a lighthouse at dusk")).await;
    assert_eq!(shelf.with_words("lighthouse").await, [id]);
    let found = shelf.find(Some(&east()), -1.0, &["lighthouse".into()], anyone(10)).await;
    assert!(found.by_meaning.is_empty() && found.cosines.is_empty(), "{found:?}");
    assert_eq!(found.by_words.len(), 1);
}

pub async fn all_or_any(shelf: Shelf) {
    let both = shelf.save(text("lighthouse with a harbour")).await;
    let one = shelf.save(text("lighthouse")).await;
    let other = shelf.save(text("harbour")).await;
    shelf.save(text("neither of them")).await;
    assert_eq!(shelf.with_words("harbour lighthouse").await, [both]);
    let any = shelf.by_words("harbour lighthouse", Match::Any, anyone(10)).await;
    assert_eq!(any[0], both, "more of the words are better: {any:?}");
    assert_eq!(any.len(), 3);
    assert!(any.contains(&one) && any.contains(&other));
    assert!(shelf.with_words("lighthouse submarine").await.is_empty());
}

pub async fn other_forms_of_an_english_word(shelf: Shelf) {
    let id = shelf.save(text("She repaired two dripping taps")).await;
    for form in ["repair", "repairs", "repairing", "tap", "drip", "dripped"] {
        assert_eq!(shelf.with_words(form).await, [id], "{form}");
    }
}

pub async fn accents_count_neither_here_nor_there(shelf: Shelf) {
    let with = shelf.save(text("Un café très agréable à Málaga")).await;
    let without = shelf.save(text("Un cafe tres agreable a Malaga")).await;
    // The accent as a character of its own.
    let apart = shelf.save(text("Un cafe\u{301} tre\u{300}s agre\u{301}able a\u{300} Ma\u{301}laga")).await;
    for query in ["café", "cafe", "cafe\u{301}", "CAFÉ", "malaga très", "Málaga tres", "agréable"] {
        assert_eq!(shelf.with_words(query).await, [with, without, apart], "{query}");
    }
}

pub async fn case_does_not_count(shelf: Shelf) {
    let id = shelf.save(text("LIGHTHOUSE Ångström İstanbul")).await;
    for query in ["lighthouse", "Lighthouse", "ÅNGSTRÖM", "ångström", "istanbul", "İSTANBUL"] {
        assert_eq!(shelf.with_words(query).await, [id], "{query}");
    }
}

/// Where nothing else is asked for; else they narrow nothing.
pub async fn stop_words_alone_are_words(shelf: Shelf) {
    let id = shelf.save(text("To be or not to be")).await;
    let other = shelf.save(text("The Who were here")).await;
    assert_eq!(shelf.with_words("to be or not to be").await, [id]);
    assert_eq!(shelf.with_words("the who").await, [other]);
    assert_eq!(shelf.with_words("where is who").await, [] as [i64; 0]);
}

pub async fn operators_and_quotes_are_plain_words(shelf: Shelf) {
    let id = shelf.save(text("near the old mill or not and title description")).await;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_string()).collect::<Vec<_>>();
    for plain in ["near", "or", "and", "not", "title", "AND", "NEAR", "mill"] {
        assert_eq!(shelf.by_these(&words(&[plain]), Match::All, anyone(10)).await, [id], "{plain}");
    }
    // What `content_words` would never let through finds what it may, and breaks nothing.
    let odd = [
        "mill*",
        "mill:*",
        "title:mill",
        "!mill",
        "mill & old",
        "(mill",
        "mill)",
        "\"mill\"",
        "'mill'",
        "mill'",
        "''",
        "\\",
        "\\'",
        "mill\\",
        "<->",
        "a <-> b",
        "*",
        ":",
        "&",
        "|",
        "%",
        "_",
        "--",
        ";",
        "$1",
        "?",
        "{mill}",
        "^mill",
        "mill:A",
        "-mill",
        "+mill",
        "\n",
        "",
    ];
    for word in odd {
        for wanted in [Match::All, Match::Any] {
            let by_words = ByWords { words: &words(&["mill", word]), wanted };
            let found = shelf.db.find(None, Some(by_words), anyone(10)).await;
            let found = found.unwrap_or_else(|error| panic!("{word:?} {wanted:?}: {error}"));
            assert!(found.by_words.len() <= 1 && (wanted == Match::All || found.by_words.len() == 1), "{word:?}");
        }
    }
}

pub async fn a_very_long_list_of_words(shelf: Shelf) {
    let id = shelf.save(text("lighthouse")).await;
    let mut many: Vec<String> = (0..2_000).map(|n| format!("word{n}")).collect();
    many.push("lighthouse".into());
    assert_eq!(shelf.by_these(&many, Match::Any, anyone(10)).await, [id]);
    assert!(shelf.by_these(&many, Match::All, anyone(10)).await.is_empty());
}

pub async fn a_very_long_word(shelf: Shelf) {
    let long = "x".repeat(50_000);
    let id = shelf.save(text(&format!("lighthouse {long}"))).await;
    assert_eq!(shelf.with_words("lighthouse").await, [id]);
    // Found or not, it breaks nothing; beside another word it hides nothing.
    shelf.by_these(std::slice::from_ref(&long), Match::All, anyone(10)).await;
    let either = [long, "lighthouse".into()];
    assert_eq!(shelf.by_these(&either, Match::Any, anyone(10)).await, [id]);
}

pub async fn a_very_long_text_is_stored_and_found(shelf: Shelf) {
    // As many different words as a description can hold.
    let words: Vec<String> = (0..25_000).map(|n| format!("{n:x}é")).collect();
    let text_of_many = words.join(" ");
    assert!(text_of_many.chars().count() > 90_000);
    let id = shelf.save(text(&text_of_many)).await;
    assert_eq!(shelf.with_words("1000é").await, [id]);
}

pub async fn scripts_other_than_latin(shelf: Shelf) {
    for (description, query) in [
        ("Тихая БИБЛИОТЕКА у реки", "библиотека"),
        ("Ήσυχη βιβλιοθήκη στο λιμάνι", "ήσυχη ΒΙΒΛΙΟΘΉΚΗ"),
        ("静かな 図書館 と 机", "図書館"),
        ("조용한 도서관 자리", "도서관"),
        ("مكتبة هادئة قرب النهر", "هادئة"),
        ("ספרייה שקטה", "שקטה"),
        ("नदी के पास शांत पुस्तकालय हिन्दी", "पुस्तकालय"),
        ("नदी के पास हिन्दी किताबें", "हिन्दी"),
        ("ห้องสมุด เงียบ", "ห้องสมุด"),
        ("Thư viện yên tĩnh", "thư viện tĩnh"),
        ("𝔘nicode 📚 emoji", "emoji"),
    ] {
        let id = shelf.save(text(description)).await;
        assert_eq!(shelf.with_words(query).await.last(), Some(&id), "{query} in {description}");
    }
}

pub async fn addresses_numbers_and_hyphens(shelf: Shelf) {
    let id = shelf
        .save(text(
            "Open 24/7 at 12-14 Rua das Flores, www.example.com/menu, ana@example.com, Wi-Fi, e-bike, O'Neill",
        ))
        .await;
    for query in [
        "24",
        "7",
        "14",
        "rua flores",
        "wi-fi",
        "wifi fi",
        "e-bike",
        "bike",
        "O'Neill",
        "neill",
        "example.com",
        "example",
        "menu",
        "ana@example.com",
        "www.example.com/menu",
    ] {
        let expected: &[i64] = if query == "wifi fi" { &[] } else { &[id] };
        assert_eq!(shelf.with_words(query).await, expected, "{query}");
    }
}

pub async fn title_labels_and_subject_outrank_the_description(shelf: Shelf) {
    let filler = "a long walk along the river with many stops on the way";
    let described = shelf.save(text(&format!("{filler} lighthouse"))).await;
    let titled = shelf.save(Draft { title: Some("lighthouse".into()), ..text(filler) }).await;
    let labelled = shelf.save(Draft { labels: vec!["lighthouse".into()], ..text(filler) }).await;
    let place = PlaceDraft { name: Some("Lighthouse".into()), ..PlaceDraft::default() };
    let placed = shelf.save(Draft { place: Some(place), ..text(filler) }).await;
    let service = ServiceDraft { name: Some("Lighthouse".into()), ..ServiceDraft::default() };
    let served = shelf.save(Draft { service: Some(service), ..text(filler) }).await;
    let found = shelf.by_words("lighthouse", Match::All, anyone(10)).await;
    assert_eq!((found.first(), found.last()), (Some(&titled), Some(&described)), "{found:?}");
    let mut between = found[1..4].to_vec();
    between.sort_unstable();
    assert_eq!(between, [labelled, placed, served]);
}

pub async fn at_most_k_of_them(shelf: Shelf) {
    let all = shelf.save_all((0..30).map(|_| text("lighthouse")).collect()).await;
    for k in [1, 7, 30, 100] {
        let found = shelf.by_words("lighthouse", Match::All, anyone(k)).await;
        assert_eq!(found, all[..k.min(30)], "k = {k}, the equally good by id");
    }
}

pub async fn nothing_is_found_without_a_word(shelf: Shelf) {
    shelf.save(text("lighthouse")).await;
    for query in ["", "  ", "…!?", "submarine", "🏮"] {
        assert!(shelf.with_words(query).await.is_empty(), "{query:?}");
    }
}

pub async fn scores_are_above_zero_and_fall(shelf: Shelf) {
    for n in 1..=20 {
        shelf.save(text(&format!("{} lighthouse", "harbour ".repeat(n)))).await;
    }
    // In every row, where BM25's plain formula would turn negative.
    let words = ["lighthouse".to_string()];
    let found = shelf.find(None, 0.0, &words, anyone(100)).await.by_words;
    assert_eq!(found.len(), 20);
    assert!(found.iter().all(|(_, score)| *score > 0.0 && score.is_finite()), "{found:?}");
    assert!(found.is_sorted_by(|(_, a), (_, b)| a >= b), "{found:?}");
}

pub async fn those_found_by_words_have_their_cosines(shelf: Shelf) {
    let with = shelf.save(near("lighthouse", 0.3)).await;
    let without = shelf.save(text("lighthouse")).await;
    let below = shelf.save(near("lighthouse", -0.8)).await;
    shelf.save(near("harbour", 0.9)).await;
    let found = shelf.find(Some(&east()), 0.5, &["lighthouse".into()], anyone(10)).await;
    let mut words: Vec<i64> = found.by_words.iter().map(|(id, _)| *id).collect();
    words.sort_unstable();
    assert_eq!(words, [with, without, below]);
    let mut cosines = found.cosines;
    cosines.sort_by_key(|(id, _)| *id);
    assert_cosines(&cosines, &[(with, 0.3), (below, -0.8)]);
    let both = shelf.find(Some(&at(-0.5)), -1.0, &["lighthouse".into()], anyone(10)).await;
    assert!(both.cosines.iter().all(|hit| both.by_meaning.contains(hit)), "the same number on both sides");
}
