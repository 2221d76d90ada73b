//! Secrets that somebody chose, at a node: slow to check, so bounded, throttled before, and remembered after.

use config_documents::{ChosenSecret, Document, Principal, UsedCredentialId};
use credentials::{PasswordVerifier, Secret, SecretKind, SystemRandomness};
use futures_util::future::join_all;
use time::Duration;
use uuid::Uuid;

use crate::{node::*, support::*};

const GUESSES_ALLOWED: usize = 10;

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

    async fn login(&self, secret: &Secret) -> u16 {
        let request = self.node.get("/v2/");
        send(request.basic_auth(&self.user, Some(secret.expose())))
            .await
            .status
    }

    /// Guesses until none is looked at any more.
    async fn use_up(&self) {
        let mut statuses = Vec::new();
        for number in 0..=GUESSES_ALLOWED {
            let guess = text(&format!("a guess that is wrong {number}"));
            statuses.push(self.login(&guess).await);
        }
        assert!(statuses.contains(&429), "{statuses:?}");
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
    let right = text("the one that I chose");
    let world = World::start(vec![chosen(1, &right)]).await;
    world.use_up().await;
    assert_eq!(world.login(&right).await, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_right_is_known_whoever_guesses_meanwhile_until_it_changes() {
    let right = text("the one that I chose");
    let mut world = World::start(vec![chosen(1, &right)]).await;
    assert_eq!(world.login(&right).await, 200);
    world.use_up().await;
    assert_eq!(world.login(&right).await, 200);
    // The same secret under another verifier is not known.
    world.change(principal_with(vec![chosen(1, &right)]));
    assert_eq!(world.login(&right).await, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_logins_at_once_are_checked_once() {
    let right = text("the one that I chose");
    let world = World::start(vec![chosen(1, &right)]).await;
    // Were each checked in its turn, most would wait for too long.
    let statuses = join_all((0..100).map(|_| world.login(&right))).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
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
    let right = text("the one that I chose");
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
    send(world.node.get("/v2/").bearer_auth(token)).await;
    assert_eq!(world.login(&right).await, 200);
    assert_eq!(used(), []);
}
