//! Generated secrets and their verifiers, through the public surface.

use credentials::{
    MalformedSecret, Randomness, Secret, SecretKind, SystemRandomness, Verifier, generate,
    recognise, without_secrets,
};
use proptest::prelude::*;

/// Random bytes that a test chose.
struct Chosen(Vec<u8>);

impl Randomness for Chosen {
    fn fill(&self, destination: &mut [u8]) {
        for (index, byte) in destination.iter_mut().enumerate() {
            *byte = self.0[index % self.0.len()];
        }
    }
}

fn kinds() -> impl Strategy<Value = SecretKind> {
    proptest::sample::select(SecretKind::ALL.to_vec())
}

proptest! {
    #[test]
    fn a_generated_secret_is_recognised(kind in kinds(), bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
        let secret = generate(kind, &Chosen(bytes));
        prop_assert_eq!(recognise(secret.expose()), Ok(kind));
        prop_assert_eq!(secret.expose().len(), 53);
        prop_assert!(secret.expose().chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    }

    #[test]
    fn different_randomness_gives_different_secrets(left in any::<[u8; 32]>(), right in any::<[u8; 32]>()) {
        prop_assume!(left != right);
        let left = generate(SecretKind::AdminPassword, &Chosen(left.to_vec()));
        let right = generate(SecretKind::AdminPassword, &Chosen(right.to_vec()));
        prop_assert_ne!(left.expose(), right.expose());
    }

    #[test]
    fn one_changed_character_is_refused(
        kind in kinds(),
        position in 0_usize..53,
        replacement in "[0-9A-Za-z_ -]",
    ) {
        let text = generate(kind, &SystemRandomness).expose().to_owned();
        let mut characters: Vec<char> = text.chars().collect();
        let replacement = replacement.chars().next().expect("one character");
        prop_assume!(characters[position] != replacement);
        characters[position] = replacement;
        let mistyped: String = characters.into_iter().collect();
        prop_assert!(recognise(&mistyped).is_err());
    }

    #[test]
    fn arbitrary_text_is_refused_without_panic(text in ".{0,80}") {
        prop_assert!(recognise(&text).is_err());
    }

    #[test]
    fn a_verifier_survives_bytes_and_json(bytes in any::<[u8; 48]>()) {
        let verifier = Verifier::from_bytes(&bytes).expect("48 bytes");
        prop_assert_eq!(verifier.to_bytes(), bytes.to_vec());
        let json = serde_json::to_string(&verifier).expect("a string");
        prop_assert_eq!(json.len(), 66);
        prop_assert_eq!(serde_json::from_str::<Verifier>(&json).expect("the same string"), verifier);
    }

    #[test]
    fn other_bytes_are_no_verifier(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assume!(bytes.len() != 48);
        prop_assert!(Verifier::from_bytes(&bytes).is_err());
    }
}

#[test]
fn each_fault_of_a_secret_is_named() {
    let text = generate(SecretKind::JoinToken, &SystemRandomness)
        .expose()
        .to_owned();
    assert_eq!(recognise("hunter2"), Err(MalformedSecret::Prefix));
    assert_eq!(recognise(&text[..52]), Err(MalformedSecret::Length));
    assert_eq!(
        recognise(&text.replace("wfj_", "wfs_")),
        Err(MalformedSecret::Checksum)
    );
    let spaced = format!("{} {}", &text[..20], &text[21..]);
    assert_eq!(recognise(&spaced), Err(MalformedSecret::Character));
}

#[test]
fn a_verifier_knows_its_secret_only() {
    let secret = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
    let verifier = Verifier::of(&secret, &SystemRandomness);
    assert!(verifier.matches(secret.expose()));
    assert!(!verifier.matches(&secret.expose()[..52]));
    assert!(!verifier.matches(""));
    let other = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
    assert!(!verifier.matches(other.expose()));
}

#[test]
fn the_same_secret_has_a_different_verifier_each_time() {
    let secret = Secret::new("something long and random".to_owned());
    let first = Verifier::of(&secret, &SystemRandomness);
    let second = Verifier::of(&secret, &SystemRandomness);
    assert_ne!(first.to_bytes(), second.to_bytes());
}

#[test]
fn a_verifier_prints_nothing_of_itself() {
    let verifier = Verifier::of(&Secret::new("canary".to_owned()), &SystemRandomness);
    assert_eq!(format!("{verifier:?}"), "Verifier(..)");
}

proptest! {
    #[test]
    fn a_secret_is_taken_out_of_any_text(
        kind in kinds(), before in "\\PC{0,20}", after in "[^0-9A-Za-z]\\PC{0,20}", kept in 16_usize..53
    ) {
        let secret = generate(kind, &SystemRandomness);
        let part = &secret.expose()[..kept];
        let shown = without_secrets(&format!("{before}{part}{after}{part}")).into_owned();
        prop_assert!(!shown.contains(&part[..12]), "{}", shown);
        prop_assert!(shown.contains(kind.prefix()));
    }

    #[test]
    fn other_text_stays_as_it_is(text in "[a-v _/.]{0,60}") {
        prop_assert_eq!(without_secrets(&text), text.as_str());
    }
}
