//! Sealing at rest: AES-256-GCM under key-encryption keys that live outside the database.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const KEY_LENGTH: usize = 32;
const KEY_ID_LENGTH: usize = 8;
const FORM: u8 = 1;
const HEADER_LENGTH: usize = 1 + KEY_ID_LENGTH;

/// The keys of a key-encryption-key file. All of them open; one of them seals, the first unless
/// another is chosen, so that a key can be replaced by putting a new one in front, and by having
/// it seal once everybody has it.
pub struct KeyRing {
    keys: RwLock<Keys>,
}

/// The keys at a moment.
#[derive(Clone)]
struct Keys {
    in_order: Vec<Arc<SealingKey>>,
    /// Which one seals.
    sealing: usize,
}

struct SealingKey {
    id: [u8; KEY_ID_LENGTH],
    key: RandomizedNonceKey,
}

/// Why a text is not a key ring. Never repeats what stands in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// Nothing but blank lines and comments.
    #[error("there is no key: write one line with 32 random bytes in base64")]
    Empty,
    /// The line is not base64.
    #[error("line {line} is not base64")]
    NotBase64 {
        /// Counted from 1.
        line: usize,
    },
    /// The line holds too few or too many bytes.
    #[error("line {line} holds {found} bytes; a key is {KEY_LENGTH} bytes")]
    Length {
        /// Counted from 1.
        line: usize,
        /// How many bytes it holds.
        found: usize,
    },
    /// The same key stands on two lines.
    #[error("line {line} repeats the key of line {first}")]
    Repeated {
        /// Counted from 1.
        line: usize,
        /// Where the key stands first.
        first: usize,
    },
}

/// Why something sealed cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short, or of a form that this version does not know.
    #[error("the bytes are not in a known form of sealed data")]
    Form,
    /// Sealed with a key that is not in the ring.
    #[error("sealed with the key {fingerprint}, which is not in the key file")]
    UnknownKey {
        /// Of the key that would open it.
        fingerprint: String,
    },
    /// Changed since it was sealed, or moved to a place it was not sealed for.
    #[error("the sealed data or what it belongs to was changed")]
    Tampered,
}

impl KeyRing {
    /// Reads a key file: 32 bytes in base64 a line; blank lines and lines that begin with `#` are
    /// passed over.
    ///
    /// # Errors
    /// The first faulty line, by its number.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut keys: Vec<Arc<SealingKey>> = Vec::new();
        let mut lines_of_keys: Vec<usize> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = SealingKey::parse(line, number)?;
            if let Some(position) = keys.iter().position(|known| known.id == key.id) {
                return Err(KeyRingError::Repeated {
                    line: number,
                    first: lines_of_keys[position],
                });
            }
            keys.push(Arc::new(key));
            lines_of_keys.push(number);
        }
        if keys.is_empty() {
            return Err(KeyRingError::Empty);
        }
        Ok(Self {
            keys: RwLock::new(Keys {
                in_order: keys,
                sealing: 0,
            }),
        })
    }

    fn keys(&self) -> Keys {
        self.keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes the keys of a newer file; the key that seals stays, unless it is gone.
    pub fn renew(&self, newer: Self) {
        let mut newer = newer
            .keys
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let sealing = keys.in_order[keys.sealing].id;
        newer.sealing = newer.position(&sealing).unwrap_or(0);
        *keys = newer;
    }

    /// Seals with the key of that name from now on; whether it is in the ring.
    pub fn seal_with(&self, fingerprint: &str) -> bool {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let found = keys
            .in_order
            .iter()
            .position(|key| hexadecimal(&key.id) == fingerprint);
        if let Some(position) = found {
            keys.sealing = position;
        }
        found.is_some()
    }

    /// Seals `plaintext` with the key that seals. `associated` says where it belongs (a table, a row);
    /// it is not stored and must be the same when the data is opened.
    pub fn seal(&self, plaintext: &[u8], associated: &[u8]) -> Vec<u8> {
        let keys = self.keys();
        let key = &keys.in_order[keys.sealing];
        let header = header_of(&key.id);
        let mut sealed = plaintext.to_vec();
        let nonce = key
            .key
            .seal_in_place_append_tag(Aad::from([&header, associated].concat()), &mut sealed)
            .expect("AES-256-GCM seals whatever fits in memory");
        [header.as_slice(), nonce.as_ref(), &sealed].concat()
    }

    /// Opens what [`KeyRing::seal`] made, with whichever key sealed it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, sealed: &[u8], associated: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (header, rest) = sealed
            .split_at_checked(HEADER_LENGTH)
            .ok_or(OpenError::Form)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LEN).ok_or(OpenError::Form)?;
        let (form, id) = (header[0], &header[1..]);
        if form != FORM {
            return Err(OpenError::Form);
        }
        let keys = self.keys();
        let key = keys
            .in_order
            .iter()
            .find(|key| key.id == id)
            .ok_or_else(|| OpenError::UnknownKey {
                fingerprint: hexadecimal(id),
            })?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Form)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let length = key
            .key
            .open_in_place(
                nonce,
                Aad::from([header, associated].concat()),
                buffer.as_mut_slice(),
            )
            .map_err(|_| OpenError::Tampered)?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }

    /// The name of the key that seals: tells two key files apart and gives nothing away.
    pub fn fingerprint(&self) -> String {
        let keys = self.keys();
        hexadecimal(&keys.in_order[keys.sealing].id)
    }

    /// The names of all keys, in their order.
    pub fn fingerprints(&self) -> Vec<String> {
        let keys = self.keys();
        keys.in_order
            .iter()
            .map(|key| hexadecimal(&key.id))
            .collect()
    }
}

impl Keys {
    fn position(&self, id: &[u8; KEY_ID_LENGTH]) -> Option<usize> {
        self.in_order.iter().position(|key| key.id == *id)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("KeyRing")
            .field(&self.fingerprints())
            .finish()
    }
}

impl SealingKey {
    fn parse(text: &str, line: usize) -> Result<Self, KeyRingError> {
        let bytes = Zeroizing::new(
            STANDARD
                .decode(text)
                .map_err(|_| KeyRingError::NotBase64 { line })?,
        );
        if bytes.len() != KEY_LENGTH {
            return Err(KeyRingError::Length {
                line,
                found: bytes.len(),
            });
        }
        let digest = Sha256::new()
            .chain_update(b"wharfinger key-encryption key\0")
            .chain_update(bytes.as_slice())
            .finalize();
        let mut id = [0_u8; KEY_ID_LENGTH];
        id.copy_from_slice(&digest[..KEY_ID_LENGTH]);
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes)
            .expect("AES-256-GCM takes any key of 32 bytes");
        Ok(Self { id, key })
    }
}

fn header_of(id: &[u8; KEY_ID_LENGTH]) -> [u8; HEADER_LENGTH] {
    let mut header = [FORM; HEADER_LENGTH];
    header[1..].copy_from_slice(id);
    header
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
