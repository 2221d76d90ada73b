//! Where random bytes come from.

/// A source of random bytes that nobody can predict.
pub trait Randomness: Send + Sync {
    /// Fills the whole of `destination`.
    fn fill(&self, destination: &mut [u8]);
}

/// The generator of the cryptographic library, seeded by the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, destination: &mut [u8]) {
        aws_lc_rs::rand::fill(destination)
            .expect("the generator aborts the process itself when the system gives no entropy");
    }
}
