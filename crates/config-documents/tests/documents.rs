//! The contract between the planes, through its public surface.

use config_documents::{
    AdminPassword, AdminPasswordSlot, AdminUser, Checksum, ChosenSecret, ControlPlaneMessage,
    Document, Epoch, Group, Kind, MalformedDocument, Node, NodeMessage, Principal, PrincipalSecret,
    Region, Registry, RegistryName, RegistryUsage, Rejected, Retention, Revision,
    RoleAssignmentMode, STREAM_FORM, SignInCredential, SignInKey, SigningKey, StoredDocument,
    UsedCredential, UsedCredentialId, forms,
};
use credentials::{
    PasswordVerifier, PublicKey, Randomness, Secret, SecretKind, Verifier, generate,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rbac::{ActionPattern, Condition, Permission, RoleAssignment, RoleDefinition, RoleKind, Scope};
use std::sync::LazyLock;
use time::OffsetDateTime;
use uuid::Uuid;

/// Bytes that follow from a seed, so that a failing case can be repeated.
struct Seeded(u8);

impl Randomness for Seeded {
    fn fill(&self, destination: &mut [u8]) {
        for (at, byte) in destination.iter_mut().enumerate() {
            *byte = self.0.wrapping_mul(31).wrapping_add(at as u8);
        }
    }
}

fn id() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn verifier() -> impl Strategy<Value = Verifier> {
    any::<u8>().prop_map(|seed| {
        Verifier::of(
            &generate(SecretKind::AdminPassword, &Seeded(seed)),
            &Seeded(!seed),
        )
    })
}

fn moment() -> impl Strategy<Value = OffsetDateTime> {
    (0_i64..4_000_000_000).prop_map(|seconds| {
        OffsetDateTime::from_unix_timestamp(seconds).expect("a moment before the year 2100")
    })
}

fn region() -> impl Strategy<Value = Region> {
    "[a-z]{1,12}|\\*".prop_map(Region)
}

fn public_key() -> impl Strategy<Value = PublicKey> {
    "[a-z0-9.-]{1,30}".prop_map(|kid| credentials::SigningKey::generate(&kid).public())
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just("/".to_owned()),
        id().prop_map(|subscription| format!("/subscriptions/{subscription}")),
        (id(), "[A-Za-z][A-Za-z0-9_-]{0,20}").prop_map(|(subscription, group)| {
            format!("/subscriptions/{subscription}/resourceGroups/{group}")
        }),
    ]
    .prop_map(|path| Scope::parse(&path).expect("a scope"))
}

fn admin_user() -> impl Strategy<Value = AdminUser> {
    (
        ".{0,20}",
        vec((any::<bool>(), any::<u64>(), verifier()), 0..3),
    )
        .prop_map(|(username, passwords)| AdminUser {
            username,
            passwords: passwords
                .into_iter()
                .map(|(first, generation, verifier)| AdminPassword {
                    slot: AdminPasswordSlot::ALL[usize::from(first)],
                    generation,
                    verifier,
                })
                .collect(),
        })
}

fn registry() -> impl Strategy<Value = Document> {
    (
        id(),
        ".{0,50}",
        ".{0,100}",
        ".{0,60}",
        region(),
        any::<bool>(),
        option::of(admin_user()),
        (any::<bool>(), option::of(retention()), any::<Option<u64>>()),
    )
        .prop_map(
            |(uid, name, resource_id, login_server, home_region, legacy, admin_user, form_2)| {
                let (anonymous_pull_enabled, retention, quota_bytes) = form_2;
                Document::Registry(Registry {
                    uid,
                    name,
                    resource_id,
                    login_server,
                    home_region,
                    role_assignment_mode: if legacy {
                        RoleAssignmentMode::LegacyRegistryPermissions
                    } else {
                        RoleAssignmentMode::AbacRepositoryPermissions
                    },
                    admin_user,
                    anonymous_pull_enabled,
                    retention,
                    quota_bytes,
                })
            },
        )
}

fn retention() -> impl Strategy<Value = Retention> {
    any::<[Option<u32>; 3]>().prop_map(|[days_since_push, days_since_pull, keep_newest]| {
        Retention {
            days_since_push,
            days_since_pull,
            keep_newest,
        }
    })
}

fn registry_name() -> impl Strategy<Value = Document> {
    (".{0,50}", id(), ".{0,60}", region(), vec(region(), 0..3)).prop_map(
        |(name, uid, login_server, home_region, regions)| {
            Document::RegistryName(RegistryName {
                name,
                uid,
                login_server,
                home_region,
                regions,
            })
        },
    )
}

fn principal() -> impl Strategy<Value = Document> {
    (
        id(),
        option::of(id()),
        any::<bool>(),
        vec((id(), verifier(), moment(), moment()), 0..4),
        vec((id(), moment(), moment()), 0..2),
        vec((id(), option::of(moment())), 0..3),
        vec(id(), 0..4),
    )
        .prop_map(
            |(object_id, app_id, enabled, secrets, chosen, sign_in, groups)| {
                Document::Principal(Principal {
                    object_id,
                    app_id,
                    enabled,
                    secrets: secrets
                        .into_iter()
                        .map(
                            |(key_id, verifier, starts_at, expires_at)| PrincipalSecret {
                                key_id,
                                verifier,
                                starts_at,
                                expires_at,
                            },
                        )
                        .collect(),
                    chosen_secrets: chosen
                        .into_iter()
                        .map(|(key_id, starts_at, expires_at)| ChosenSecret {
                            key_id,
                            verifier: CHOSEN.clone(),
                            starts_at,
                            expires_at,
                        })
                        .collect(),
                    sign_in_credentials: sign_in
                        .into_iter()
                        .map(|(key_id, expires_at)| SignInCredential { key_id, expires_at })
                        .collect(),
                    groups,
                })
            },
        )
}

/// Slow to make, so there is one.
static CHOSEN: LazyLock<PasswordVerifier> = LazyLock::new(|| {
    PasswordVerifier::of(
        &Secret::new("a password of somebody".to_owned()),
        &Seeded(1),
    )
});

fn condition() -> impl Strategy<Value = Condition> {
    "[a-z]{1,8}/?".prop_map(|name| Condition::parse(&condition_text(&name)).expect("a condition"))
}

fn condition_text(prefix: &str) -> String {
    format!(
        "(!(ActionMatches{{'Microsoft.ContainerRegistry/registries/repositories/content/read'}}) OR \
         (@Request[Microsoft.ContainerRegistry/registries/repositories:name] StringStartsWithIgnoreCase '{prefix}'))"
    )
}

fn sign_in_key() -> impl Strategy<Value = Document> {
    (
        public_key(),
        id(),
        vec(".{0,20}", 0..3),
        vec(".{0,20}", 0..3),
        option::of(moment()),
    )
        .prop_map(|(public_key, tenant_id, issuers, audiences, ends_at)| {
            Document::SignInKey(SignInKey {
                public_key,
                tenant_id,
                issuers,
                audiences,
                ends_at,
            })
        })
}

fn role_definition() -> impl Strategy<Value = Document> {
    (
        id(),
        ".{0,40}",
        ".{0,40}",
        any::<bool>(),
        vec(
            "[A-Z][a-z]{1,8}\\.[A-Z][a-z]{1,8}/[a-z]{1,8}/(\\*|read)",
            0..4,
        ),
        vec(scope(), 0..3),
    )
        .prop_map(
            |(id, role_name, description, built_in, actions, assignable_scopes)| {
                let actions: Vec<ActionPattern> = actions
                    .iter()
                    .map(|action| ActionPattern::parse(action).expect("a pattern"))
                    .collect();
                Document::RoleDefinition(RoleDefinition {
                    id,
                    role_name,
                    description,
                    kind: if built_in {
                        RoleKind::BuiltIn
                    } else {
                        RoleKind::Custom
                    },
                    permissions: vec![Permission {
                        actions: actions.clone(),
                        data_actions: actions,
                        ..Permission::default()
                    }],
                    assignable_scopes,
                })
            },
        )
}

fn document() -> impl Strategy<Value = Document> {
    prop_oneof![
        registry(),
        registry_name(),
        principal(),
        role_definition(),
        (id(), region(), ".{0,40}").prop_map(|(node_id, region, address)| Document::Node(Node {
            node_id,
            region,
            address
        })),
        (id(), vec(id(), 0..4))
            .prop_map(|(object_id, groups)| Document::Group(Group { object_id, groups })),
        (id(), scope(), id(), id(), option::of(condition())).prop_map(
            |(id, scope, principal_id, role_definition_id, condition)| {
                Document::RoleAssignment(RoleAssignment {
                    id,
                    scope,
                    principal_id,
                    role_definition_id,
                    condition,
                })
            }
        ),
        sign_in_key(),
        (id(), public_key(), proptest::option::of(region())).prop_map(
            |(node_id, public_key, region)| Document::SigningKey(SigningKey {
                node_id,
                public_key,
                region,
            })
        ),
    ]
}

/// Region, kind, key and body of a live document.
fn stored() -> impl Strategy<Value = (String, String, String, String)> {
    ("[a-z]{1,3}", "[a-z]{1,3}", "[a-z]{1,3}", ".{0,10}")
}

fn sum<'a>(documents: impl IntoIterator<Item = &'a (String, String, String, String)>) -> Checksum {
    documents
        .into_iter()
        .fold(Checksum::default(), |sum, (region, kind, key, body)| {
            sum + Checksum::of(region, kind, key, body)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_document_is_read_back_as_it_was_written(document in document()) {
        let (kind, key, body) = (document.kind().as_str(), document.key(), document.body());
        let read = Document::parse(kind, &key, &body).expect("its own body");
        prop_assert!(read == document);
        prop_assert_eq!(read.body(), body);
    }

    #[test]
    fn a_document_is_refused_under_another_key(document in document(), key in ".{0,40}") {
        prop_assume!(key != document.key());
        let refused = Document::parse(document.kind().as_str(), &key, &document.body());
        let by_key = matches!(refused, Err(MalformedDocument::Key { .. }));
        prop_assert!(by_key);
    }

    #[test]
    fn a_newer_form_is_refused_by_its_number(document in document(), beyond in 1_u64..1_000) {
        let form = u64::from(document.kind().form()) + beyond;
        let mut body: serde_json::Value = serde_json::from_str(&document.body()).expect("JSON");
        body["form"] = form.into();
        let refused = Document::parse(document.kind().as_str(), &document.key(), &body.to_string());
        let by_form = matches!(refused, Err(MalformedDocument::UnknownForm { form: named, .. }) if named == form);
        prop_assert!(by_form);
    }

    #[test]
    fn no_body_makes_the_parser_panic(kind in 0..forms().len(), key in ".{0,20}", body in ".{0,200}") {
        let kind = forms().into_keys().nth(kind).expect("a kind");
        prop_assert!(Document::parse(&kind, &key, &body).is_err());
    }

    #[test]
    fn a_mutilated_body_is_refused_or_reads_as_some_document(document in document(), at in any::<prop::sample::Index>(), byte in 32_u8..127) {
        let mut body = document.body().into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        if let Ok(body) = String::from_utf8(body)
            && let Ok(read) = Document::parse(document.kind().as_str(), &document.key(), &body)
        {
            prop_assert_eq!(read.key(), document.key());
        }
    }

    #[test]
    fn the_checksum_does_not_depend_on_order(documents in vec(stored(), 0..20), seed in any::<prop::sample::Index>()) {
        let mut turned = documents.clone();
        if !turned.is_empty() {
            let at = seed.index(turned.len());
            turned.rotate_left(at);
            turned.reverse();
        }
        prop_assert_eq!(sum(&documents), sum(&turned));
    }

    #[test]
    fn taking_a_document_away_undoes_adding_it(documents in vec(stored(), 0..20), one in stored()) {
        let before = sum(&documents);
        let mut after = before;
        after += Checksum::of(&one.0, &one.1, &one.2, &one.3);
        prop_assert_ne!(after, before);
        after -= Checksum::of(&one.0, &one.1, &one.2, &one.3);
        prop_assert_eq!(after, before);
    }

    #[test]
    fn moving_a_character_between_the_parts_changes_the_checksum(one in stored()) {
        let (region, kind, key, body) = one;
        let moved = Checksum::of(&region, &format!("{kind}{}", &key[..1]), &key[1..], &body);
        prop_assert_ne!(moved, Checksum::of(&region, &kind, &key, &body));
    }

    #[test]
    fn a_checksum_is_read_back_from_its_32_digits(number in any::<u128>()) {
        let text = serde_json::to_string(&Checksum(number)).expect("text");
        prop_assert_eq!(text.len(), 34);
        prop_assert_eq!(serde_json::from_str::<Checksum>(&text).expect("its own text"), Checksum(number));
    }

    #[test]
    fn text_that_is_not_32_digits_is_no_checksum(text in "[0-9a-f+-]{0,40}") {
        prop_assume!(text.len() != 32 || text.contains(['+', '-']));
        prop_assert!(serde_json::from_value::<Checksum>(text.into()).is_err());
    }

    #[test]
    fn messages_are_read_back_as_they_were_written(message in control_plane_message(), answer in node_message()) {
        let text = serde_json::to_string(&message).expect("JSON");
        let read: ControlPlaneMessage = serde_json::from_str(&text).expect("its own text");
        prop_assert_eq!(serde_json::to_string(&read).expect("JSON"), text);
        let text = serde_json::to_string(&answer).expect("JSON");
        let read: NodeMessage = serde_json::from_str(&text).expect("its own text");
        prop_assert_eq!(serde_json::to_string(&read).expect("JSON"), text);
    }

    #[test]
    fn no_text_makes_the_messages_parser_panic(text in ".{0,200}") {
        prop_assert!(serde_json::from_str::<ControlPlaneMessage>(&text).is_err());
        prop_assert!(serde_json::from_str::<NodeMessage>(&text).is_err());
    }
}

fn control_plane_message() -> impl Strategy<Value = ControlPlaneMessage> {
    let epoch = || id().prop_map(Epoch);
    let stored = (
        region(),
        ".{0,8}",
        ".{0,8}",
        option::of(".{0,30}"),
        any::<u64>(),
    )
        .prop_map(|(region, kind, key, body, revision)| StoredDocument {
            region,
            kind,
            key,
            body,
            revision: Revision(revision),
        });
    prop_oneof![
        epoch().prop_map(|epoch| ControlPlaneMessage::SnapshotBegin { epoch }),
        Just(ControlPlaneMessage::SnapshotEnd),
        any::<u32>().prop_map(|stream_form| ControlPlaneMessage::Greeting { stream_form }),
        vec(stored, 0..4).prop_map(|documents| ControlPlaneMessage::Documents { documents }),
        (epoch(), any::<u64>(), moment(), any::<u128>(), any::<u64>()).prop_map(
            |(epoch, revision, time, checksum, heard)| ControlPlaneMessage::Mark {
                epoch,
                revision: Revision(revision),
                time,
                checksum: Checksum(checksum),
                heard,
            }
        ),
    ]
}

fn node_message() -> impl Strategy<Value = NodeMessage> {
    let rejected = (region(), ".{0,8}", ".{0,8}", any::<u64>(), ".{0,30}").prop_map(
        |(region, kind, key, revision, reason)| Rejected {
            region,
            kind,
            key,
            revision: Revision(revision),
            reason,
        },
    );
    prop_oneof![
        (
            id(),
            region(),
            option::of(id()),
            any::<u64>(),
            ".{0,20}",
            option::of(any::<u32>())
        )
            .prop_map(
                |(node_id, region, epoch, revision, address, staleness_bound_seconds)| {
                    NodeMessage::Hello {
                        node_id,
                        region,
                        forms: forms(),
                        epoch: epoch.map(Epoch),
                        revision: Revision(revision),
                        address,
                        staleness_bound_seconds,
                    }
                }
            ),
        (
            any::<u64>(),
            option::of(id()),
            any::<u64>(),
            vec(rejected, 0..4)
        )
            .prop_map(
                |(sequence, epoch, revision, rejected)| NodeMessage::Applied {
                    sequence,
                    epoch: epoch.map(Epoch),
                    revision: Revision(revision),
                    rejected,
                }
            ),
        ".{0,30}".prop_map(|reason| NodeMessage::SnapshotWanted { reason }),
        (id(), any::<bool>(), moment()).prop_map(|(id, is_secret, hour)| NodeMessage::Used {
            credentials: vec![UsedCredential {
                credential: if is_secret {
                    UsedCredentialId::Secret { key_id: id }
                } else {
                    UsedCredentialId::AdminPassword {
                        registry_uid: id,
                        slot: AdminPasswordSlot::Password,
                    }
                },
                hour,
            }],
        }),
        (id(), any::<u64>(), moment()).prop_map(|(registry_uid, bytes, counted_at)| {
            NodeMessage::Usage {
                registries: vec![RegistryUsage {
                    registry_uid,
                    bytes,
                    counted_at,
                }],
            }
        }),
    ]
}

#[test]
fn every_kind_has_a_name_and_a_form() {
    for (name, form) in forms() {
        if name == STREAM_FORM {
            continue;
        }
        let kind = Kind::parse(&name).expect("a kind of the table");
        assert_eq!(kind.as_str(), name);
        assert_eq!(kind.form(), form);
        assert!(form >= 1);
    }
}

#[test]
fn unknown_kinds_and_form_0_are_named_in_the_refusal() {
    let refused = |kind: &str, body: &str| {
        Document::parse(kind, "key", body)
            .expect_err("it cannot be understood")
            .to_string()
    };
    assert_eq!(refused("ship", "{}"), "kind 'ship' is unknown");
    assert_eq!(refused("Registry", "{}"), "kind 'Registry' is unknown");
    assert_eq!(
        refused("group", r#"{"form":0}"#),
        "form 0 of kind 'group' is unknown; the newest known is 1"
    );
    assert_eq!(
        refused("group", "{}"),
        "the body of kind 'group' is malformed"
    );
}

#[test]
fn form_1_of_a_registry_lets_nobody_in_and_removes_nothing() {
    let plain = Registry {
        uid: Uuid::from_u128(7),
        name: "contoso".to_owned(),
        resource_id: "/subscriptions/1".to_owned(),
        login_server: "contoso.registry.example".to_owned(),
        home_region: Region("westus".to_owned()),
        role_assignment_mode: RoleAssignmentMode::LegacyRegistryPermissions,
        admin_user: None,
        anonymous_pull_enabled: false,
        retention: None,
        quota_bytes: None,
    };
    let kept_for_7_days = Retention {
        days_since_push: Some(7),
        days_since_pull: None,
        keep_newest: None,
    };
    let more = [
        Registry {
            anonymous_pull_enabled: true,
            ..plain.clone()
        },
        Registry {
            retention: Some(kept_for_7_days),
            ..plain.clone()
        },
        Registry {
            quota_bytes: Some(0),
            ..plain.clone()
        },
    ];
    let plain = Document::Registry(plain);
    assert!(plain.is_whole_in_form(1));
    for document in more.map(Document::Registry) {
        let body = document.body_in_form(1).expect("it says enough");
        let read = Document::parse("registry", &document.key(), &body).expect("it is read");
        assert_eq!(read, plain);
        assert!(!document.is_whole_in_form(1) && document.is_whole_in_form(2));
    }
}

#[test]
fn form_1_of_a_principal_allows_less() {
    let principal = Principal {
        object_id: Uuid::from_u128(7),
        app_id: None,
        enabled: true,
        secrets: Vec::new(),
        chosen_secrets: Vec::new(),
        sign_in_credentials: vec![SignInCredential {
            key_id: Uuid::from_u128(8),
            expires_at: None,
        }],
        groups: vec![Uuid::from_u128(9)],
    };
    let document = Document::Principal(principal.clone());
    let body = document.body_in_form(1).expect("it says enough");
    let read = Document::parse("principal", &document.key(), &body).expect("it is read");
    let less = Document::Principal(Principal {
        sign_in_credentials: Vec::new(),
        ..principal
    });
    assert_eq!(read, less);
    assert!(!document.is_whole_in_form(1) && document.is_whole_in_form(2));
    assert!(less.is_whole_in_form(1));
}

#[test]
fn an_assignment_with_a_condition_is_not_said_without_it() {
    let assignment = |condition| {
        Document::RoleAssignment(RoleAssignment {
            id: Uuid::from_u128(1),
            scope: Scope::root(),
            principal_id: Uuid::from_u128(2),
            role_definition_id: Uuid::from_u128(3),
            condition,
        })
    };
    let restricted = assignment(Condition::parse(&condition_text("a/")).ok());
    assert_eq!(restricted.body_in_form(1), None);
    assert!(!restricted.is_whole_in_form(1) && restricted.is_whole_in_form(2));
    assert!(assignment(None).body_in_form(1).is_some() && assignment(None).is_whole_in_form(1));
    let body = restricted
        .body()
        .replace("StringStartsWithIgnoreCase", "StringLike");
    let refused = Document::parse("role-assignment", &restricted.key(), &body);
    assert!(refused.is_err(), "a condition that is not understood");
}

#[test]
fn nothing_is_said_in_form_0() {
    let group = Document::Group(Group {
        object_id: Uuid::from_u128(1),
        groups: Vec::new(),
    });
    assert_eq!(group.body_in_form(0), None);
    assert!(!group.is_whole_in_form(0));
}

#[test]
fn form_1_of_a_signing_key_leaves_the_region_out() {
    let key = SigningKey {
        node_id: Uuid::from_u128(7),
        public_key: credentials::SigningKey::generate("kid-7").public(),
        region: Some(Region("westus".to_owned())),
    };
    let document = Document::SigningKey(key.clone());
    let read = |body: String| Document::parse("signing-key", "kid-7", &body).expect("it is read");
    assert_eq!(read(document.body()), document);
    assert_eq!(
        read(document.body_in_form(1).expect("it says enough")),
        Document::SigningKey(SigningKey {
            region: None,
            ..key
        })
    );
}
