//! Parameters of the token endpoint: `application/x-www-form-urlencoded`, in a query or a body.

use percent_encoding::percent_decode;

/// Parameters in the order they came; names may repeat.
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Reads `name=value&name=value`. `None` if a name or value is not UTF-8 text.
    pub fn parse(text: &[u8]) -> Option<Self> {
        text.split(|byte| *byte == b'&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let mut parts = pair.splitn(2, |byte| *byte == b'=');
                let name = decode(parts.next().unwrap_or_default())?;
                let value = decode(parts.next().unwrap_or_default())?;
                Some((name, value))
            })
            .collect::<Option<Vec<_>>>()
            .map(Self)
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

fn decode(text: &[u8]) -> Option<String> {
    let with_blanks: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    String::from_utf8(percent_decode(&with_blanks).collect()).ok()
}
