//! Several tasks in one message, where many are handed over at once.
//!
//! What a message costs hardly depends on its size: a place in the queue's log, a confirm, a delivery and an ack, here
//! and at the server. Of a drain with a model that takes no time that was half of all processor time. Few tasks, as
//! saves bring them, travel singly: nobody's task waits for its neighbours, and a queue's length is that of the backlog.
//!
//! A bundle is told by its body, a JSON array of pairs: a message's id and its body, as they would be alone.

use serde_json::value::RawValue;

use super::super::{Message, Outgoing, Route};

/// With fewer at once than make so many bundles, each travels alone: several workers are to have their share.
const AT_LEAST: usize = 8;

/// One message for the server.
pub(super) struct Parcel {
    pub outgoing: Outgoing,
    /// How many were handed over as this one.
    pub parts: usize,
}

impl Parcel {
    fn single(outgoing: Outgoing) -> Self {
        Self { outgoing, parts: 1 }
    }
}

/// One message each.
pub(super) fn singly(messages: Vec<Outgoing>) -> Vec<Parcel> {
    messages.into_iter().map(Parcel::single).collect()
}

/// The same in the same order, up to `size` in a message where there are many.
pub(super) fn pack(messages: Vec<Outgoing>, size: usize) -> Vec<Parcel> {
    if size < 2 || messages.len() < AT_LEAST * size {
        return singly(messages);
    }
    let mut parcels = Vec::with_capacity(messages.len() / size + 1);
    let mut group: Vec<Outgoing> = Vec::with_capacity(size);
    for outgoing in messages {
        if group.len() == size || group.first().is_some_and(|first| !go_together(first, &outgoing)) {
            close(&mut group, &mut parcels);
        }
        group.push(outgoing);
    }
    close(&mut group, &mut parcels);
    parcels
}

/// What a bundle says once must hold for all its parts. What is traced has a span of its own, and so a message.
fn go_together(first: &Outgoing, other: &Outgoing) -> bool {
    let said = |outgoing: &Outgoing| (outgoing.message.attempt, outgoing.message.published_at);
    let traced = |outgoing: &Outgoing| outgoing.message.trace.is_some();
    matches!(first.route, Route::Lane(_))
        && first.route == other.route
        && said(first) == said(other)
        && !traced(first)
        && !traced(other)
}

/// The group as one message, or as several where it is none.
fn close(group: &mut Vec<Outgoing>, parcels: &mut Vec<Parcel>) {
    match (group.len(), body(group)) {
        (parts @ 2.., Some(body)) => {
            let Outgoing { route, message } = &group[0];
            // Names the first, by which a person finds it; unique, as that is.
            let id = format!("{} +{}", message.id, parts - 1);
            let message = Message { id, body, ..message.clone() };
            parcels.push(Parcel { outgoing: Outgoing { route: route.clone(), message }, parts });
            group.clear();
        }
        _ => parcels.extend(group.drain(..).map(Parcel::single)),
    }
}

/// `None` where one of them isn't JSON.
fn body(group: &[Outgoing]) -> Option<Vec<u8>> {
    let messages = group.iter().map(|outgoing| &outgoing.message);
    let parts =
        messages.map(|message| Some((&message.id, serde_json::from_slice::<&RawValue>(&message.body).ok()?)));
    serde_json::to_vec(&parts.collect::<Option<Vec<_>>>()?).ok()
}

/// The messages that came as this one: itself where it is no bundle.
pub(super) fn unpack(message: Message) -> Vec<Message> {
    if message.body.first() != Some(&b'[') {
        return vec![message];
    }
    match serde_json::from_slice::<Vec<(String, &RawValue)>>(&message.body) {
        Ok(parts) if !parts.is_empty() => {
            let (attempt, published_at, trace) = (message.attempt, message.published_at, message.trace);
            let part = |(id, body): (String, &RawValue)| Message {
                id,
                body: body.get().into(),
                attempt,
                published_at,
                trace,
            };
            parts.into_iter().map(part).collect()
        }
        // Made by hand. What is wrong with it, the worker says.
        _ => vec![message],
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::priority::Priority;
    use crate::domain::trace::TraceParent;

    const FROM: usize = AT_LEAST * 8;
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn outgoing(n: usize) -> Outgoing {
        let published_at = DateTime::from_timestamp(50, 0).expect("a moment");
        let body = format!(r#"{{"n":{n}}}"#).into_bytes();
        let message = Message { id: format!("{n}"), body, attempt: 0, published_at, trace: None };
        Outgoing { route: Route::Lane(Priority::Low), message }
    }

    fn many() -> Vec<Outgoing> {
        (0..FROM + 3).map(outgoing).collect()
    }

    fn parts(parcels: &[Parcel]) -> Vec<usize> {
        parcels.iter().map(|parcel| parcel.parts).collect()
    }

    /// What a consumer sees of parcels.
    fn arrive(parcels: Vec<Parcel>) -> Vec<Message> {
        parcels.into_iter().flat_map(|parcel| unpack(parcel.outgoing.message)).collect()
    }

    fn messages(outgoing: Vec<Outgoing>) -> Vec<Message> {
        outgoing.into_iter().map(|outgoing| outgoing.message).collect()
    }

    #[test]
    fn many_go_together_and_arrive_as_they_were() {
        let parcels = pack(many(), 8);
        assert_eq!(parts(&parcels), [vec![8; FROM / 8], vec![3]].concat());
        let last = &parcels[FROM / 8].outgoing.message;
        assert_eq!(last.id, "64 +2");
        assert_eq!(last.body, br#"[["64",{"n":64}],["65",{"n":65}],["66",{"n":66}]]"#);
        assert_eq!(arrive(parcels), messages(many()));
    }

    #[test]
    fn few_go_alone_and_so_does_everything_where_nothing_is_to_be_bundled() {
        let few: Vec<Outgoing> = (0..FROM - 1).map(outgoing).collect();
        assert_eq!(parts(&pack(few, 8)), vec![1; FROM - 1]);
        assert_eq!(parts(&pack(many(), 1)), vec![1; FROM + 3]);
    }

    #[test]
    fn only_what_is_alike_goes_together() {
        let different: [fn(&mut Outgoing); 5] = [
            |one| one.route = Route::Lane(Priority::High),
            |one| one.route = Route::Dead { lane: Priority::Low, reason: "a reason".into() },
            |one| one.message.attempt = 1,
            |one| one.message.published_at += chrono::Duration::milliseconds(1),
            |one| one.message.trace = TraceParent::parse(TRACE),
        ];
        assert!(TraceParent::parse(TRACE).is_some());
        for (n, change) in different.into_iter().enumerate() {
            let mut all = many();
            change(&mut all[2]);
            let parcels = pack(all.clone(), 8);
            assert_eq!(parts(&parcels)[..4], [2, 1, 8, 8], "{n}");
            assert_eq!(arrive(parcels), messages(all), "{n}");
        }
    }

    #[test]
    fn two_retries_in_a_row_are_two_messages() {
        let mut all = many();
        let delay = std::time::Duration::from_secs(1);
        all[..2].iter_mut().for_each(|one| one.route = Route::Retry { lane: Priority::Low, delay });
        assert_eq!(parts(&pack(all, 8))[..3], [1, 1, 8]);
    }

    #[test]
    fn what_is_not_json_goes_alone() {
        let mut all = many();
        all[2].message.body = b"not JSON".to_vec();
        let parcels = pack(all.clone(), 8);
        assert_eq!(parts(&parcels)[..9], [1, 1, 1, 1, 1, 1, 1, 1, 8]);
        assert_eq!(arrive(parcels), messages(all));
    }

    #[test]
    fn what_only_looks_like_a_bundle_arrives_as_it_is() {
        for body in ["[", "[]", "[1]", r#"[["7",{}],8]"#, r#"[{"v":1}]"#] {
            let message = Message { body: body.into(), ..outgoing(1).message };
            assert_eq!(unpack(message.clone()), [message], "{body}");
        }
    }
}
