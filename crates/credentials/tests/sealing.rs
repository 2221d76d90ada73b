//! Key rings: what they seal they open, and nothing else.

use credentials::{KeyRing, KeyRingError, OpenError};
use proptest::prelude::*;

const FIRST: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const SECOND: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

fn ring(text: &str) -> KeyRing {
    KeyRing::parse(text).expect("a valid key file")
}

proptest! {
    #[test]
    fn what_was_sealed_opens(plaintext in proptest::collection::vec(any::<u8>(), 0..300), associated in ".{0,40}") {
        let ring = ring(FIRST);
        let sealed = ring.seal(&plaintext, associated.as_bytes());
        let opened = ring.open(&sealed, associated.as_bytes()).expect("just sealed");
        prop_assert_eq!(opened.as_slice(), plaintext.as_slice());
    }

    #[test]
    fn a_changed_byte_is_noticed(plaintext in proptest::collection::vec(any::<u8>(), 0..60), position in any::<prop::sample::Index>(), change in 1_u8..) {
        let ring = ring(FIRST);
        let mut sealed = ring.seal(&plaintext, b"row 1");
        let position = position.index(sealed.len());
        sealed[position] ^= change;
        prop_assert!(ring.open(&sealed, b"row 1").is_err());
    }

    #[test]
    fn arbitrary_bytes_do_not_open(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(ring(FIRST).open(&bytes, b"").is_err());
    }

    #[test]
    fn arbitrary_text_is_no_key_file(text in "[^#]{0,60}") {
        if let Ok(ring) = KeyRing::parse(&text) {
            prop_assert!(!ring.fingerprints().is_empty());
        }
    }
}

#[test]
fn sealed_data_does_not_open_in_another_place() {
    let ring = ring(FIRST);
    let sealed = ring.seal(b"password", b"registries/1/password");
    assert_eq!(
        ring.open(&sealed, b"registries/2/password").err(),
        Some(OpenError::Tampered)
    );
}

#[test]
fn a_new_first_key_seals_and_the_old_one_still_opens() {
    let old = ring(FIRST);
    let sealed = old.seal(b"password", b"");
    let both = ring(&format!("# since spring\n{SECOND}\n\n{FIRST}\n"));
    assert_eq!(
        both.open(&sealed, b"")
            .expect("the old key is there")
            .as_slice(),
        b"password"
    );
    assert_eq!(both.fingerprint(), ring(SECOND).fingerprint());
    assert_eq!(
        both.fingerprints(),
        [ring(SECOND).fingerprint(), old.fingerprint()]
    );
    let resealed = both.seal(b"password", b"");
    assert_eq!(
        old.open(&resealed, b"").err(),
        Some(OpenError::UnknownKey {
            fingerprint: both.fingerprint()
        })
    );
}

#[test]
fn the_faulty_line_is_named() {
    assert_eq!(
        KeyRing::parse("\n# nothing\n").err(),
        Some(KeyRingError::Empty)
    );
    assert_eq!(
        KeyRing::parse(&format!("{FIRST}\nnot base64!")).err(),
        Some(KeyRingError::NotBase64 { line: 2 })
    );
    assert_eq!(
        KeyRing::parse("AAEC").err(),
        Some(KeyRingError::Length { line: 1, found: 3 })
    );
    assert_eq!(
        KeyRing::parse(&format!("{FIRST}\n\n{FIRST}")).err(),
        Some(KeyRingError::Repeated { line: 3, first: 1 })
    );
}

#[test]
fn a_key_ring_prints_only_fingerprints() {
    let printed = format!("{:?}", ring(FIRST));
    assert_eq!(
        printed,
        format!("KeyRing([\"{}\"])", ring(FIRST).fingerprint())
    );
}

#[test]
fn a_key_ring_takes_a_newer_file_and_seals_with_the_key_it_is_told() {
    let renewed = ring(FIRST);
    let of_new = ring(SECOND).fingerprint();
    let of_old = renewed.fingerprint();
    assert!(!renewed.seal_with(&of_new), "it is not there yet");
    renewed.renew(ring(&format!("{SECOND}\n{FIRST}")));
    assert_eq!(renewed.fingerprint(), of_old, "until it is told otherwise");
    assert!(renewed.seal_with(&of_new));
    let sealed = renewed.seal(b"text", b"row");
    assert_eq!(
        ring(SECOND)
            .open(&sealed, b"row")
            .as_deref()
            .map(Vec::as_slice),
        Ok(b"text".as_slice())
    );
    renewed.renew(ring(&format!("{FIRST}\n{SECOND}")));
    assert_eq!(renewed.fingerprint(), of_new);
    renewed.renew(ring(FIRST));
    assert_eq!(renewed.fingerprint(), of_old, "the one that sealed is gone");
}
