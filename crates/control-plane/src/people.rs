//! What the names and passwords of people have to be like, whoever sets them: a caller of the directory, or an operator.

use crate::limits::{
    MAXIMUM_PASSWORD_CHARACTERS, MAXIMUM_USER_PRINCIPAL_NAME_CHARACTERS,
    MINIMUM_PASSWORD_CHARACTERS,
};

/// The rule that a name or a password breaks; never the password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BrokenRule(String);

/// Only what makes guessing easy is refused: length is worth more than kinds of characters.
///
/// # Errors
/// The rule that is broken.
pub fn check_password(password: &str, user_principal_name: &str) -> Result<(), BrokenRule> {
    let length = password.chars().count();
    let local_part = local_part(user_principal_name);
    let rule = if length < MINIMUM_PASSWORD_CHARACTERS {
        format!("it has fewer than {MINIMUM_PASSWORD_CHARACTERS} characters")
    } else if length > MAXIMUM_PASSWORD_CHARACTERS {
        format!("it has more than {MAXIMUM_PASSWORD_CHARACTERS} characters")
    } else if local_part.len() >= 4 && contains_ignoring_case(password, local_part) {
        "it contains the user's name".to_owned()
    } else {
        return Ok(());
    };
    Err(BrokenRule(rule))
}

fn contains_ignoring_case(text: &str, part: &str) -> bool {
    arm::canonical_key(text).contains(&arm::canonical_key(part))
}

/// Whether a text is a user principal name: a local part and a domain.
///
/// # Errors
/// The form that it lacks.
pub fn check_user_principal_name(text: &str) -> Result<(), BrokenRule> {
    let is_local = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.ends_with('.')
            && part.chars().all(|character| {
                character.is_ascii_alphanumeric() || "'.-_!#^~+".contains(character)
            })
    };
    let is_domain = |domain: &str| {
        domain.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .chars()
                    .all(|character| character.is_ascii_alphanumeric() || character == '-')
        })
    };
    let is_well_formed = text.len() <= MAXIMUM_USER_PRINCIPAL_NAME_CHARACTERS
        && text
            .split_once('@')
            .is_some_and(|(local, domain)| is_local(local) && is_domain(domain));
    if is_well_formed {
        return Ok(());
    }
    Err(BrokenRule(format!(
        "it must have the form name@domain, with letters, digits and '.-_!#^~+ before the @ and at most {MAXIMUM_USER_PRINCIPAL_NAME_CHARACTERS} characters"
    )))
}

/// What stands before the `@` of a user principal name.
pub fn local_part(user_principal_name: &str) -> &str {
    user_principal_name.split('@').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_have_a_local_part_and_a_domain() {
        for good in [
            "ann@wharf.test",
            "o'neil.a-b_c+d@wharf",
            "A1@a-b.example.org",
        ] {
            assert_eq!(check_user_principal_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "ann",
            "@wharf.test",
            "ann@",
            "ann@@wharf",
            "a b@wharf",
            ".a@wharf",
            "a.@wharf",
            "a@-w.test",
            "a@w..test",
            "a@w.test/x",
            "ä@wharf.test",
            "a@wharf.test\n",
        ] {
            assert!(check_user_principal_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords_are_long_and_do_not_have_the_name() {
        assert!(check_password("correct horse", "ann.smith@wharf.test").is_ok());
        for bad in [
            "short",
            "12345678901",
            &"x".repeat(257),
            "my Ann.Smith 2026",
        ] {
            let rule = check_password(bad, "ann.smith@wharf.test").expect_err(bad);
            assert!(!rule.to_string().contains(bad));
        }
    }

    proptest! {
        #[test]
        fn any_name_is_kept_or_refused(name in "\\PC{0,130}") {
            if check_user_principal_name(&name).is_ok() {
                prop_assert_eq!(name.matches('@').count(), 1);
            }
        }
    }
}
