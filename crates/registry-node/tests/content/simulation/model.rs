//! What a repository is to its clients, and whether what they were told can have happened in some order that leads to what is seen.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::world::{Action, INDEX, Told};

/// What can be seen of a repository: by number, which manifests are there, and where each tag points.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) manifests: BTreeSet<usize>,
    pub(super) tags: BTreeMap<usize, usize>,
}

impl State {
    fn put(&mut self, manifest: usize, tag: Option<usize>) {
        self.manifests.insert(manifest);
        if let Some(tag) = tag {
            self.tags.insert(tag, manifest);
        }
    }

    fn delete(&mut self, manifest: usize) {
        self.manifests.remove(&manifest);
        self.tags.retain(|_, pointed_at| *pointed_at != manifest);
    }
}

/// Something that was done to the repository, between two moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) action: Action,
    /// `None` if the client never heard.
    pub(super) told: Option<Told>,
    pub(super) started_at: usize,
    pub(super) ended_at: usize,
}

impl Event {
    /// Whether it must have happened.
    fn is_certain(&self) -> bool {
        matches!(self.told, Some(Told::Done | Told::Unknown))
    }

    /// Which manifest under which tag a push writes.
    fn put(&self) -> Option<(usize, usize)> {
        match self.action {
            Action::Push { image, tag } | Action::PushPromised { image, tag } => Some((image, tag)),
            Action::PushIndex { tag } => Some((INDEX, tag)),
            _ => None,
        }
    }
}

/// Whether the events, each at some moment between its beginning and its end, lead from one state to the other. What nobody was told of
/// may have happened, or not. A push that met a deletion may have happened in parts, or more than once, before it was done. Where
/// untagged manifests go by themselves, `are_untagged_kept` is not set.
pub(super) fn can_lead(
    from: &State,
    to: &State,
    events: &[Event],
    are_untagged_kept: bool,
) -> bool {
    let mut seen = HashSet::new();
    let all = (1_u32 << events.len()) - 1;
    let mut to_try = vec![(from.clone(), all, 0_u32)];
    while let Some((state, remaining, repeats)) = to_try.pop() {
        let is_done = |index: usize| remaining & (1 << index) == 0;
        let are_all_done =
            (0..events.len()).all(|index| is_done(index) || !events[index].is_certain());
        let is_seen =
            state.tags == to.tags && (!are_untagged_kept || state.manifests == to.manifests);
        if are_all_done && is_seen {
            return true;
        }
        if !seen.insert((state.clone(), remaining, repeats)) {
            continue;
        }
        for (index, event) in events.iter().enumerate() {
            let has_to_wait = (0..events.len()).any(|other| {
                !is_done(other)
                    && events[other].is_certain()
                    && events[other].ended_at < event.started_at
            });
            if is_done(index) || has_to_wait {
                continue;
            }
            for (next, is_over) in outcomes(&state, event, are_untagged_kept) {
                let remaining = if is_over {
                    remaining & !(1 << index)
                } else {
                    remaining
                };
                let repeats = repeats + u32::from(!is_over);
                if repeats <= 3 {
                    to_try.push((next, remaining, repeats));
                }
            }
        }
    }
    false
}

/// The states that an event may leave, and whether it is over then.
fn outcomes(state: &State, event: &Event, are_untagged_kept: bool) -> Vec<(State, bool)> {
    let mut found = Vec::new();
    let mut add = |is_over: bool, change: &dyn Fn(&mut State)| {
        let mut next = state.clone();
        change(&mut next);
        found.push((next, is_over));
    };
    if let Some((manifest, tag)) = event.put() {
        if event.told == Some(Told::ReferencesMissing) {
            return found;
        }
        add(true, &|next| next.put(manifest, Some(tag)));
        add(false, &|next| next.put(manifest, Some(tag)));
        add(false, &|next| next.put(manifest, None));
    }
    match event.action {
        Action::DeleteManifest { manifest } => {
            let is_tagged = state.tags.values().any(|tagged| *tagged == manifest);
            let is_there = state.manifests.contains(&manifest);
            let may_be_there = is_there || !are_untagged_kept;
            let may_be_gone = !is_there || !(are_untagged_kept || is_tagged);
            if may_be_there && event.told != Some(Told::Unknown) {
                add(true, &|next| next.delete(manifest));
            }
            if may_be_gone && event.told == Some(Told::Unknown) {
                add(true, &|_| {});
            }
        }
        Action::DeleteTag { tag } => {
            let is_there = state.tags.contains_key(&tag);
            if is_there && event.told != Some(Told::Unknown) {
                add(true, &|next| {
                    next.tags.remove(&tag);
                });
            }
            // Two who delete it at the same time are both told that it is done.
            if !is_there {
                add(true, &|_| {});
            }
        }
        Action::Promise { .. } => add(true, &|_| {}),
        _ => {}
    }
    found
}

#[test]
fn the_model_knows_what_can_have_happened() {
    let lead = |from: &State, to: &State, events: &[Event]| can_lead(from, to, events, true);
    let event = |action, told, started_at, ended_at| Event {
        action,
        told,
        started_at,
        ended_at,
    };
    let push = |told, from, to| event(Action::Push { image: 0, tag: 0 }, told, from, to);
    let delete = |told, from, to| event(Action::DeleteManifest { manifest: 0 }, told, from, to);
    let nothing = State::default();
    let mut pushed = State::default();
    pushed.put(0, Some(0));
    let done = Some(Told::Done);
    assert!(lead(&nothing, &pushed, &[push(done, 1, 5)]));
    assert!(!lead(&nothing, &nothing, &[push(done, 1, 5)]));
    assert!(lead(&nothing, &nothing, &[push(None, 1, usize::MAX)]));
    assert!(lead(&nothing, &pushed, &[push(None, 1, usize::MAX)]));
    // One after the other, and at the same time.
    assert!(!lead(
        &nothing,
        &pushed,
        &[push(done, 1, 5), delete(done, 6, 9)]
    ));
    assert!(lead(
        &nothing,
        &pushed,
        &[push(done, 1, 7), delete(done, 6, 9)]
    ));
    assert!(lead(
        &nothing,
        &nothing,
        &[push(done, 1, 7), delete(done, 6, 9)]
    ));
    assert!(!lead(&pushed, &pushed, &[delete(done, 1, 2)]));
    // A tag that comes back.
    let mut other = State::default();
    other.put(0, Some(1));
    let again = event(Action::Push { image: 0, tag: 1 }, done, 6, 9);
    assert!(lead(&pushed, &other, &[delete(done, 1, 5), again]));
    let mut both = other.clone();
    both.put(0, Some(0));
    assert!(!lead(&pushed, &both, &[delete(done, 1, 5), again]));
}
