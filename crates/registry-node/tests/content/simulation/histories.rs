//! Whole histories: many epochs of things done at the same time, with time passing between them, each held against the model.

use std::sync::Arc;

use registry_node::content::{
    CollectOptions, Content, ContentError, FaultKind, Pace, RetentionRules, VerifyOptions,
};
use time::{Duration, OffsetDateTime};

use super::model::{Event, State, can_lead};
use super::random::Random;
use super::scheduler::{Scheduler, Task, finish};
use super::stores::{Broken, World};
use super::world::{Action, MANIFESTS, REPOSITORIES, TAGS, Told, blob_bytes, look, perform};
use crate::harness::{REGISTRY, sha256};

const EPOCHS: usize = 24;
const HOUR: Duration = Duration::HOUR;
/// A promise is good for the grace period less the half hour within which nothing is touched again, and less what a push takes.
const PROMISE: Duration = Duration::hours(23);

/// What ran during an epoch: a client's action in a repository, or a pass of collection.
type Outcome = Result<Told, String>;

struct History {
    world: Arc<World>,
    random: Random,
    scheduler: Scheduler,
    nodes: [Content; 2],
    collectors: [Content; 2],
    plain: Content,
    retention: Option<RetentionRules>,
    states: [State; 2],
    /// Whose blobs were promised when.
    promises: Vec<(usize, usize, OffsetDateTime)>,
    /// Passes that go on from one epoch to the next.
    passes: Vec<Task<Outcome>>,
}

/// Runs the history of a seed. With `broken` stores, a rule of the protocol is left out.
///
/// # Errors
/// What was seen that cannot be.
fn run(seed: u64, broken: Broken, retention: Option<RetentionRules>) -> Result<(), String> {
    let world = World::new(seed);
    let of_clients = match broken {
        Broken::Touch | Broken::DeletionMark => broken,
        _ => Broken::Nothing,
    };
    let mut history = History {
        nodes: [world.open(of_clients), world.open(of_clients)],
        collectors: [world.open(broken), world.open(broken)],
        plain: world.open(Broken::Nothing),
        random: Random::new(seed),
        scheduler: Scheduler::new(&world, seed ^ 0xace),
        world,
        retention,
        states: Default::default(),
        promises: Vec::new(),
        passes: Vec::new(),
    };
    history.world.be_unreliable(6);
    for epoch in 0..EPOCHS {
        history
            .epoch()
            .map_err(|fault| format!("seed {seed}, epoch {epoch}: {fault}"))?;
    }
    history
        .end()
        .map_err(|fault| format!("seed {seed}: {fault}"))
}

impl History {
    fn epoch(&mut self) -> Result<(), String> {
        let pauses = [
            HOUR / 6,
            2 * HOUR,
            11 * HOUR,
            25 * HOUR,
            26 * HOUR,
            200 * HOUR,
        ];
        let pause = self.random.pick(&pauses);
        self.world.advance(pause);
        let now = self.world.now();
        self.promises.retain(|(.., at)| now - *at < PROMISE);
        if self.passes.is_empty() && !self.random.one_in(4) {
            let collector = self.random.below(2);
            self.begin_pass(collector);
            if self.random.one_in(4) {
                self.begin_pass(1 - collector);
            }
        }
        let mut tasks: Vec<Task<Outcome>> = std::mem::take(&mut self.passes);
        let passes = tasks.len();
        let mut actions = Vec::new();
        for _ in 0..self.random.below(5) {
            let repository = self.random.below(REPOSITORIES.len());
            let action = self.action(repository);
            actions.push((repository, action));
            tasks.push(self.begin(repository, action));
        }
        self.scheduler.run(&mut tasks, |index| index >= passes);
        let done = tasks.split_off(passes);
        for pass in &tasks {
            if let Some(Err(fault)) = &pass.outcome {
                return Err(fault.clone());
            }
        }
        self.passes = tasks;
        self.passes.retain(|pass| !pass.is_over());
        self.judge(&actions, &done)
    }

    fn begin_pass(&mut self, collector: usize) {
        let content = self.collectors[collector].clone();
        let options = CollectOptions {
            pace: Pace::Full,
            retention: self.retention,
            ..CollectOptions::default()
        };
        let pass = async move {
            match content.collect(REGISTRY, &options).await {
                Ok(report) if report.unreadable > 0 => Err("a record is unreadable".to_owned()),
                Ok(_) => Ok(Told::Done),
                Err(ContentError::Read(_) | ContentError::Write(_) | ContentError::Data(_)) => {
                    Ok(Told::Failed)
                }
                Err(error) => Err(error.to_string()),
            }
        };
        let dies_after = self.random.one_in(5).then(|| self.random.below(60));
        self.passes.push(Task::new(pass, dies_after));
    }

    fn begin(&mut self, repository: usize, action: Action) -> Task<Outcome> {
        let content = self.nodes[self.random.below(2)].clone();
        let seed = self.random.below(1000) as u64;
        let work = async move { Ok(perform(content, repository, action, seed).await) };
        let dies_after = self.random.one_in(8).then(|| self.random.below(25));
        Task::new(work, dies_after)
    }

    fn action(&mut self, repository: usize) -> Action {
        let tag = self.random.below(TAGS.len());
        let image = self.random.below(3);
        let promised = self.promises.iter().find(|(of, ..)| *of == repository);
        match (self.random.below(12), promised) {
            (0..=3, _) => Action::Push { image, tag },
            (4, _) => Action::Promise { image },
            (5 | 6, Some((_, image, _))) => Action::PushPromised { image: *image, tag },
            (5 | 6, None) => Action::Promise { image },
            (7, _) => Action::PushIndex { tag },
            (8..=10, _) => Action::DeleteManifest {
                manifest: self.random.below(MANIFESTS),
            },
            _ => Action::DeleteTag { tag },
        }
    }

    fn judge(&mut self, actions: &[(usize, Action)], done: &[Task<Outcome>]) -> Result<(), String> {
        let mut events: [Vec<Event>; 2] = Default::default();
        for ((repository, action), task) in actions.iter().zip(done) {
            let told = task.outcome.clone().transpose()?;
            self.judge_promises(*repository, *action, told)?;
            events[*repository].push(Event {
                action: *action,
                told,
                started_at: task.started_at,
                ended_at: task.ended_at,
            });
        }
        for (repository, events) in events.iter().enumerate() {
            let seen = look(&self.plain, repository)?;
            let before = &self.states[repository];
            if !can_lead(before, &seen, events, self.retention.is_none()) {
                return Err(format!(
                    "{events:#?} cannot lead from {before:?} to {seen:?}"
                ));
            }
            self.states[repository] = seen;
        }
        Ok(())
    }

    fn judge_promises(
        &mut self,
        repository: usize,
        action: Action,
        told: Option<Told>,
    ) -> Result<(), String> {
        match (action, told) {
            (Action::Push { .. } | Action::PushPromised { .. }, Some(Told::ReferencesMissing)) => {
                Err(format!("{action:?}: a blob that was promised is missing"))
            }
            (Action::Promise { image }, Some(Told::Done)) => {
                self.promises.push((repository, image, self.world.now()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// At the end nothing fails any more: all is whole, and two passes leave nothing that nobody needs.
    fn end(mut self) -> Result<(), String> {
        self.world.be_unreliable(0);
        for pass in &mut self.passes {
            pass.kill();
        }
        self.world.grant_all();
        let options = CollectOptions {
            pace: Pace::Full,
            ..CollectOptions::default()
        };
        for _ in 0..2 {
            self.world.advance(200 * HOUR);
            finish(self.plain.collect(REGISTRY, &options)).map_err(|error| error.to_string())?;
        }
        let mut used = std::collections::BTreeSet::new();
        for repository in 0..REPOSITORIES.len() {
            let seen = look(&self.plain, repository)?;
            if seen != self.states[repository] {
                return Err("collection changed what is seen".to_owned());
            }
            let images = seen.manifests.iter().filter(|manifest| **manifest < 3);
            used.extend(images.flat_map(|image| super::world::blobs_of(*image)));
        }
        let mut faults = Vec::new();
        let verify = VerifyOptions {
            with_digests: true,
            ..VerifyOptions::default()
        };
        finish(
            self.plain
                .verify(REGISTRY, &verify, |fault| faults.push(fault)),
        )
        .map_err(|error| error.to_string())?;
        // Children of an index may be deleted on purpose.
        faults.retain(|fault| fault.kind != FaultKind::ManifestMissing);
        if !faults.is_empty() {
            return Err(format!("{faults:?}"));
        }
        self.nothing_is_left_over(&used)
    }

    fn nothing_is_left_over(&self, used: &std::collections::BTreeSet<usize>) -> Result<(), String> {
        let blobs = self.world.keys(&format!("r/{REGISTRY}/blob/"));
        let wanted: Vec<String> = used.iter().map(|blob| sha256(&blob_bytes(*blob))).collect();
        for key in &blobs {
            let hex = key.rsplit('/').next().unwrap_or_default();
            if !wanted.iter().any(|digest| digest.ends_with(hex)) {
                return Err(format!("{key} is left over"));
            }
        }
        let objects = self.world.objects();
        // A blob has one object or two.
        if blobs.len() != wanted.len() || objects.len() > 2 * wanted.len() {
            return Err(format!(
                "{} blobs are used; {} records and {} objects are left",
                wanted.len(),
                blobs.len(),
                objects.len()
            ));
        }
        let sessions = self.world.keys(&format!("r/{REGISTRY}/up/"));
        match sessions.is_empty() {
            true => Ok(()),
            false => Err(format!("{sessions:?} are left over")),
        }
    }
}

#[test]
fn nothing_that_was_promised_is_ever_missing() {
    for seed in 0..300 {
        if let Err(fault) = run(seed, Broken::Nothing, None) {
            panic!("{fault}");
        }
    }
}

#[test]
fn retention_takes_no_tag_and_nothing_that_a_tag_needs() {
    let rules = RetentionRules {
        days_since_push: Some(1),
        days_since_pull: None,
        keep_newest: Some(1),
    };
    for seed in 0..150 {
        if let Err(fault) = run(seed, Broken::Nothing, Some(rules)) {
            panic!("{fault}");
        }
    }
}

/// That the model finds a protocol without one of its rules says that it would find the mistake of forgetting it.
fn is_found(broken: Broken, sign: &str) {
    let found = (0..2000).find_map(|seed| run(seed, broken, None).err());
    let fault = found.unwrap_or_else(|| panic!("{broken:?} was not found"));
    assert!(fault.contains(sign), "{fault}");
}

#[test]
fn references_without_a_touch_are_found() {
    is_found(Broken::Touch, "blob");
}

#[test]
fn an_unconditional_remove_is_found() {
    is_found(Broken::ConditionalRemove, "blob");
}

#[test]
fn judging_by_what_was_listed_is_found() {
    is_found(Broken::JudgedAsRead, "blob");
}

#[test]
fn a_deletion_without_its_mark_is_found() {
    is_found(Broken::DeletionMark, "cannot lead");
}
