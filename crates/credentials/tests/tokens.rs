//! Signed tokens: only what this key signed, with this algorithm, is believed.

use credentials::{PublicKey, SigningKey, TokenError, TokenVerifier, check_times, kid_of};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
}

fn claims() -> Claims {
    Claims {
        sub: "contoso".to_owned(),
        exp: 1,
    }
}

#[test]
fn a_token_round_trips_whatever_its_times() {
    let key = SigningKey::generate("node-1");
    let token = key.sign(&claims()).expect("plain claims");
    let verifier = TokenVerifier::new(&key.public());
    assert_eq!(verifier.verify::<Claims>(&token), Ok(claims()));
    assert_eq!(kid_of(&token).as_deref(), Some("node-1"));
    let header = base64_decode(token.split('.').next().expect("a header"));
    let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
    assert_eq!(
        header,
        serde_json::json!({"typ": "JWT", "alg": "ES256", "kid": "node-1"})
    );
}

#[test]
fn a_key_survives_its_stored_forms() {
    let key = SigningKey::generate("node-1");
    let again = SigningKey::from_pkcs8("node-1", key.pkcs8()).expect("stored by us");
    let token = again.sign(&claims()).expect("plain claims");
    let json = serde_json::to_value(key.public()).expect("a JSON Web Key");
    assert_eq!(json["kty"], "EC");
    assert_eq!(json["crv"], "P-256");
    assert_eq!(json["alg"], "ES256");
    assert_eq!(json["use"], "sig");
    assert_eq!(json["kid"], "node-1");
    let public: PublicKey = serde_json::from_value(json).expect("written by us");
    assert_eq!(public, key.public());
    assert_eq!(
        TokenVerifier::new(&public).verify::<Claims>(&token),
        Ok(claims())
    );
}

#[test]
fn another_key_is_not_believed() {
    let token = SigningKey::generate("a")
        .sign(&claims())
        .expect("plain claims");
    let verifier = TokenVerifier::new(&SigningKey::generate("a").public());
    assert_eq!(
        verifier.verify::<Claims>(&token),
        Err(TokenError::Signature)
    );
}

#[test]
fn other_algorithms_are_refused() {
    let key = SigningKey::generate("a");
    let token = key.sign(&claims()).expect("plain claims");
    let (_, rest) = token.split_once('.').expect("a header");
    let (payload, _) = rest.split_once('.').expect("a payload");
    let verifier = TokenVerifier::new(&key.public());
    for header in [
        r#"{"alg":"HS256","kid":"a"}"#,
        r#"{"alg":"ES384","kid":"a"}"#,
        r#"{"alg":"none","kid":"a"}"#,
    ] {
        let forged = format!("{}.{payload}.c2ln", base64_encode(header.as_bytes()));
        let error = verifier.verify::<Claims>(&forged).expect_err("forged");
        assert!(
            matches!(error, TokenError::Algorithm | TokenError::Malformed),
            "{error:?}"
        );
    }
}

#[test]
fn claims_of_another_kind_are_told_from_a_broken_token() {
    let key = SigningKey::generate("a");
    let token = key
        .sign(&serde_json::json!({"sub": 3}))
        .expect("plain claims");
    let verifier = TokenVerifier::new(&key.public());
    assert_eq!(verifier.verify::<Claims>(&token), Err(TokenError::Claims));
    assert_eq!(verifier.verify::<Claims>("x.y"), Err(TokenError::Malformed));
}

#[test]
fn a_key_off_the_curve_or_of_another_kind_is_refused() {
    let json = serde_json::to_value(SigningKey::generate("a").public()).expect("a JSON Web Key");
    for (member, value) in [
        ("x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        ("y", "short"),
        ("kty", "RSA"),
        ("crv", "P-384"),
        ("alg", "ES384"),
        ("use", "enc"),
    ] {
        let mut changed = json.clone();
        changed[member] = value.into();
        assert!(
            serde_json::from_value::<PublicKey>(changed).is_err(),
            "{member}"
        );
    }
}

#[test]
fn times_are_checked_with_tolerance_only_before() {
    let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
    let at = now.unix_timestamp();
    assert_eq!(check_times(Some(at), at + 1, now), Ok(()));
    assert_eq!(check_times(None, at, now), Err(TokenError::Expired));
    assert_eq!(check_times(Some(at + 300), at + 900, now), Ok(()));
    assert_eq!(
        check_times(Some(at + 301), at + 900, now),
        Err(TokenError::NotYetValid)
    );
    assert_eq!(check_times(Some(i64::MIN), i64::MAX, now), Ok(()));
}

proptest! {
    #[test]
    fn arbitrary_tokens_are_refused_without_panic(token in "[A-Za-z0-9_.=-]{0,120}") {
        let verifier = TokenVerifier::new(&SigningKey::generate("a").public());
        prop_assert!(verifier.verify::<Claims>(&token).is_err());
        let _ = kid_of(&token);
    }

    #[test]
    fn a_changed_payload_is_noticed(position in any::<prop::sample::Index>()) {
        let key = SigningKey::generate("a");
        let token = key.sign(&claims()).expect("plain claims");
        let mut bytes = token.clone().into_bytes();
        let position = position.index(bytes.len());
        bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("ASCII");
        let verified = TokenVerifier::new(&key.public()).verify::<Claims>(&changed);
        // The last character of a base64 part may carry unused bits, never other claims.
        prop_assert!(verified.is_err() || verified == Ok(claims()));
    }
}

fn base64_encode(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(bytes)
}

fn base64_decode(text: &str) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.decode(text).expect("base64")
}
