//! Who finds what.

use super::*;

/// Who finds the row, by meaning and by words alike: nobody in particular, its owner, a follower, a stranger.
async fn finders(shelf: &Shelf, id: i64) -> [bool; 4] {
    let mut finders = [false; 4];
    let viewers = [None, Some(owner()), Some(user(2)), Some(user(3))];
    for (finds, viewer) in finders.iter_mut().zip(viewers) {
        let scope = Scope { viewer, ..anyone(10) };
        let by_meaning = ids(&shelf.by_meaning(0.0, scope).await).contains(&id);
        let by_words = shelf.by_words("lighthouse", Match::All, scope).await.contains(&id);
        assert_eq!(by_meaning, by_words, "{viewer:?}");
        *finds = by_meaning;
    }
    finders
}

pub async fn everybody_finds_what_they_may_see(shelf: Shelf) {
    let all = [true; 4];
    let friends = [false, true, true, false];
    let mine = [false, true, false, false];
    let public = shelf.save(near("lighthouse", 0.9)).await;
    let id = shelf.save(for_friends(near("lighthouse", 0.8))).await;
    assert_eq!(finders(&shelf, public).await, all);
    assert_eq!(finders(&shelf, id).await, mine);
    shelf.db.follow(user(2), owner()).await.expect("follows");
    // Being followed shows nothing.
    shelf.db.follow(owner(), user(3)).await.expect("follows");
    assert_eq!(finders(&shelf, id).await, friends);
    let visible = |visibility| Patch { visibility: Some(visibility), ..Patch::default() };
    shelf.update(id, visible(Visibility::Public)).await;
    assert_eq!(finders(&shelf, id).await, all);
    shelf.update(id, visible(Visibility::Friends)).await;
    assert_eq!(finders(&shelf, id).await, friends);
    shelf.db.unfollow(user(2), owner()).await.expect("unfollows");
    assert_eq!(finders(&shelf, id).await, mine);
    shelf.update(public, visible(Visibility::Friends)).await;
    assert_eq!(finders(&shelf, public).await, mine);
}

pub async fn a_viewer_who_follows_nobody_or_many(shelf: Shelf) {
    let of = |n| Draft { user_id: user(n), ..for_friends(near("lighthouse", 0.5)) };
    let rows = shelf.save_all((10..60).map(of).collect()).await;
    for n in (10..60).step_by(2) {
        shelf.db.follow(user(2), user(n)).await.expect("follows");
    }
    let followed: Vec<i64> = rows.into_iter().step_by(2).collect();
    for (viewer, expected) in [(user(2), followed), (user(3), vec![])] {
        let scope = Scope { viewer: Some(viewer), ..anyone(100) };
        assert_eq!(ids(&shelf.by_meaning(0.0, scope).await), expected);
        assert_eq!(shelf.by_words("lighthouse", Match::All, scope).await, expected);
    }
}
