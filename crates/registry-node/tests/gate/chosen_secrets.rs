//! Secrets that somebody chose, at a node: slow to check, so bounded, throttled before, and remembered after.

use std::time::Instant;

use config_documents::{ChosenSecret, Document, Principal, UsedCredentialId};
use credentials::{PasswordVerifier, Secret, SecretKind, SystemRandomness};
use futures_util::future::join_all;
use registry_node::limits::CHOSEN_SECRET_WAIT;
use time::Duration;
use uuid::Uuid;

use crate::{node::*, rounds::*, support::*};

const RIGHT: &str = "the one that I chose";
/// Verifiers of the same secret: two that cost next to nothing, so that guesses are quicker than they are forgiven …
const CHEAP: &str =
    "$argon2id$v=19$m=8,t=1,p=1$c2l4dGVlbiBieXRlcyAwMQ$XUEWFxCLscl47tp8jDt6yvSw3/HP+r0MQj6OI3Ggigw";
const CHEAP_TOO: &str =
    "$argon2id$v=19$m=8,t=1,p=1$c2l4dGVlbiBieXRlcyAwMg$fLtrVVdKfnadynyfJuF2zWlslqCsdyfjfo2IqvqhoB0";
/// … and one that costs as much as any may.
const DEAR: &str = "$argon2id$v=19$m=65536,t=4,p=1$c2l4dGVlbiBieXRlcyAwNA$1pfNCUlAU7Ia6VQg0wuh1OACzioLy9MFk6zkDN75Na0";

fn text(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn chosen(key_id: u128, secret: &Secret) -> ChosenSecret {
    ChosenSecret {
        key_id: Uuid::from_u128(key_id),
        verifier: PasswordVerifier::of(secret, &SystemRandomness),
        starts_at: now() - Duration::hours(1),
        expires_at: now() + Duration::hours(1),
    }
}

/// The right secret, under a verifier with a cost of its own.
fn right_under(verifier: &str) -> ChosenSecret {
    let verifier = PasswordVerifier::parse(verifier).expect("a verifier");
    assert!(verifier.matches(RIGHT));
    ChosenSecret {
        verifier,
        ..chosen(1, &text(RIGHT))
    }
}

/// One that has only these.
fn principal_with(secrets: Vec<ChosenSecret>) -> Principal {
    Principal {
        secrets: Vec::new(),
        chosen_secrets: secrets,
        ..principal(1, &secret(SecretKind::ServicePrincipalSecret), &[])
    }
}

struct World {
    node: Node,
    user: String,
}

impl World {
    async fn start(secrets: Vec<ChosenSecret>) -> Self {
        let mut node = Node::start().await;
        node.feed.publish(vec![
            Document::Principal(principal_with(secrets)),
            assignment(1, SUBSCRIPTION, object_id(1), "AcrPull"),
        ]);
        let user = app_id(1).to_string();
        Self { node, user }
    }

    fn change(&mut self, principal: Principal) {
        self.node.feed.publish(vec![Document::Principal(principal)]);
    }

    async fn answer(&self, secret: &Secret) -> Answer {
        let request = self.node.get("/v2/");
        send(request.basic_auth(&self.user, Some(secret.expose()))).await
    }

    async fn login(&self, secret: &Secret) -> u16 {
        self.answer(secret).await.status
    }

    /// Guesses until none is looked at any more; until when that is so.
    async fn use_up_guesses(&self) -> Instant {
        let wrong = text("a guess that is wrong");
        use_up(async || self.answer(&wrong).await).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_secret_logs_in_beside_a_generated_one_until_it_is_gone() {
    let (first, second) = (
        text("the first that I chose"),
        text("wfs_looks like another"),
    );
    let generated = secret(SecretKind::ServicePrincipalSecret);
    let mut world = World::start(vec![chosen(1, &first), chosen(2, &second)]).await;
    let both = Principal {
        secrets: principal(1, &generated, &[]).secrets,
        ..principal_with(vec![chosen(1, &first), chosen(2, &second)])
    };
    world.change(both.clone());
    for secret in [&first, &second, &generated] {
        assert_eq!(world.login(secret).await, 200);
    }
    assert_eq!(world.login(&text("the first that I chosf")).await, 401);
    let token = world
        .node
        .access_token(&world.user, &first, "repository:app:pull")
        .await;
    let bearer = async |world: &World| {
        let request = world.node.get("/v2/").bearer_auth(&token);
        send(request).await.status
    };
    assert_eq!(bearer(&world).await, 200);
    // The key of the first now has another secret.
    world.change(Principal {
        chosen_secrets: vec![chosen(1, &text("something else entirely"))],
        ..both.clone()
    });
    assert_eq!(world.login(&first).await, 401);
    assert_eq!(world.login(&second).await, 401);
    world.change(Principal {
        chosen_secrets: Vec::new(),
        ..both.clone()
    });
    assert_eq!(world.login(&first).await, 401);
    assert_eq!(bearer(&world).await, 401);
    assert_eq!(world.login(&generated).await, 200);
    for (enabled, starts_in, ends_in, status) in [
        (false, -1, 1, 401),
        (true, 1, 2, 401),
        (true, -2, -1, 401),
        (true, -1, 1, 200),
    ] {
        let secret = ChosenSecret {
            starts_at: now() + Duration::hours(starts_in),
            expires_at: now() + Duration::hours(ends_in),
            ..chosen(3, &first)
        };
        world.change(Principal {
            enabled,
            ..principal_with(vec![secret])
        });
        assert_eq!(world.login(&first).await, status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_too_often_is_not_even_checked() {
    let right = text(RIGHT);
    let status = undisturbed(async || {
        // A node that knows nobody yet: one that was right would be known in the next round.
        let world = World::start(vec![right_under(CHEAP)]).await;
        let until = world.use_up_guesses().await;
        let status = world.login(&right).await;
        (Instant::now() < until).then_some(status)
    })
    .await;
    assert_eq!(status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_right_is_known_whoever_guesses_meanwhile_until_it_changes() {
    let right = text(RIGHT);
    let statuses = undisturbed(async || {
        let mut world = World::start(vec![right_under(CHEAP)]).await;
        assert_eq!(world.login(&right).await, 200);
        let until = world.use_up_guesses().await;
        let known = world.login(&right).await;
        let was_in_time = Instant::now() < until;
        // The same secret under another verifier is not known.
        world.change(principal_with(vec![right_under(CHEAP_TOO)]));
        let until = world.use_up_guesses().await;
        let changed = world.login(&right).await;
        (was_in_time && Instant::now() < until).then_some((known, changed))
    })
    .await;
    assert_eq!(statuses, (200, 429));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_logins_at_once_are_checked_once() {
    let right = text(RIGHT);
    let statuses = undisturbed(async || {
        let world = World::start(vec![right_under(DEAR)]).await;
        // All go over the connection that this opens: a hundred handshakes would take their share of the time.
        send(world.node.get("/v2/")).await;
        let began = Instant::now();
        // Were each checked in its turn, most would wait for too long.
        let statuses = join_all((0..100).map(|_| world.login(&right))).await;
        let all_are_in = statuses.iter().all(|status| *status == 200);
        (all_are_in || began.elapsed() < CHOSEN_SECRET_WAIT).then_some(statuses)
    })
    .await;
    assert_eq!(statuses, [200; 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_told_how_to_log_in() {
    let world = World::start(Vec::new()).await;
    let request = world.node.get("/v2/");
    let answer = send(request.basic_auth("ann@wharf.example", Some("her password 1"))).await;
    assert_eq!((answer.status, answer.code()), (401, "UNAUTHORIZED"));
    let message = answer.body["errors"][0]["message"].to_string();
    assert!(message.contains("az acr login"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_let_somebody_in_is_noted_and_nothing_else() {
    let right = text(RIGHT);
    let world = World::start(vec![chosen(7, &right)]).await;
    let used = || {
        let mut used: Vec<UsedCredentialId> = world
            .node
            .feed
            .configuration
            .used()
            .take_untold(now())
            .into_iter()
            .map(|used| used.credential)
            .collect();
        used.sort();
        used
    };
    assert_eq!(world.login(&text("wrong wrong wrong wrong")).await, 401);
    assert_eq!(used(), []);
    assert_eq!(world.login(&right).await, 200);
    let admin = &world.node.passwords[1];
    let token = world
        .node
        .access_token("contoso", admin, "repository:app:pull")
        .await;
    assert_eq!(
        used(),
        [
            UsedCredentialId::Secret {
                key_id: Uuid::from_u128(7)
            },
            UsedCredentialId::AdminPassword {
                registry_uid: Uuid::from_u128(1),
                slot: config_documents::AdminPasswordSlot::Password2,
            },
        ]
    );
    // A token tells nothing new, and neither does the same hour.
    let hour = || now().unix_timestamp() / 3600;
    let used_again = undisturbed(async || {
        let begun_in = hour();
        assert_eq!(world.login(&right).await, 200);
        used();
        send(world.node.get("/v2/").bearer_auth(&token)).await;
        assert_eq!(world.login(&right).await, 200);
        let used_again = used();
        (hour() == begun_in).then_some(used_again)
    })
    .await;
    assert_eq!(used_again, []);
}
