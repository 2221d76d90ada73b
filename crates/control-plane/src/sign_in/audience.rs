//! What an access token is for, and how clients ask for it.

use crate::limits::{REGISTRY_AUDIENCE_TOKEN_LIFETIME, TOKEN_LIFETIME};

/// Of the registries' data plane, as every client of the Azure CLI and SDKs writes it; never contacted.
pub(super) const REGISTRY: &str = "https://containerregistry.azure.net";

/// Scopes that ask for something beside the access token (OpenID Connect Core 1.0, 5.4 and 11).
pub(super) const IDENTITY_SCOPES: [&str; 4] = ["openid", "profile", "email", OFFLINE_ACCESS];

/// Asks for a refresh token.
pub(super) const OFFLINE_ACCESS: &str = "offline_access";

/// What follows a resource in a scope that asks for all that the client was given there.
const DEFAULT_SCOPE: &str = "/.default";

/// What an access token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// The control plane: ARM and the directory, which share one audience so that a client needs one token for both.
    ControlPlane,
    /// The registries' data plane.
    Registry,
}

impl Audience {
    /// The audience that a scope asks for, whatever slashes it has before `.default` and at its end.
    pub(super) fn of_scope(scope: &str, public_url: &str) -> Option<Self> {
        let resource = scope
            .trim()
            .trim_end_matches('/')
            .strip_suffix(DEFAULT_SCOPE)?;
        Self::of_resource(resource, public_url)
    }

    /// The audience that the scopes of a person's client ask for: one, or the control plane when they ask for an identity only.
    pub(super) fn of_scopes(scopes: &str, public_url: &str) -> Option<Self> {
        let mut of_access = scopes
            .split_whitespace()
            .filter(|scope| !IDENTITY_SCOPES.contains(scope));
        match (of_access.next(), of_access.next()) {
            (None, _) => Some(Self::ControlPlane),
            (Some(scope), None) => Self::of_scope(scope, public_url),
            (Some(_), Some(_)) => None,
        }
    }

    /// The audience that a resource of version 1 of the protocol names.
    pub(super) fn of_resource(resource: &str, public_url: &str) -> Option<Self> {
        let resource = resource.trim().trim_end_matches('/');
        if resource.eq_ignore_ascii_case(public_url.trim_end_matches('/')) {
            Some(Self::ControlPlane)
        } else if resource.eq_ignore_ascii_case(REGISTRY) {
            Some(Self::Registry)
        } else {
            None
        }
    }

    /// How long a token for it is good.
    pub(super) fn token_lifetime(self) -> time::Duration {
        match self {
            Self::ControlPlane => TOKEN_LIFETIME,
            Self::Registry => REGISTRY_AUDIENCE_TOKEN_LIFETIME,
        }
    }

    /// The claim `aud`.
    pub(super) fn claim(self, public_url: &str) -> &str {
        match self {
            Self::ControlPlane => public_url,
            Self::Registry => REGISTRY,
        }
    }

    /// The scopes that are accepted, for errors and discovery.
    pub(super) fn scopes(public_url: &str) -> [String; 2] {
        [public_url, REGISTRY].map(|resource| format!("{resource}{DEFAULT_SCOPE}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const URL: &str = "https://wharf.example:8443";

    #[test]
    fn scopes_are_known_whatever_their_slashes() {
        let of = |scope: &str| Audience::of_scope(scope, URL);
        for scope in [
            "https://wharf.example:8443/.default",
            "https://wharf.example:8443//.default",
            "https://wharf.example:8443/.default/",
            "https://WHARF.example:8443/.default",
        ] {
            assert_eq!(of(scope), Some(Audience::ControlPlane), "{scope}");
        }
        assert_eq!(
            of("https://containerregistry.azure.net/.default"),
            Some(Audience::Registry)
        );
        for scope in [
            "",
            ".default",
            "/.default",
            "https://wharf.example:8443",
            "https://wharf.example/.default",
            "https://wharf.example:8443/.default offline_access",
            "https://management.azure.com/.default",
        ] {
            assert_eq!(of(scope), None, "{scope}");
        }
    }

    #[test]
    fn a_persons_client_asks_for_an_identity_besides() {
        let of = |scopes: &str| Audience::of_scopes(scopes, URL);
        let both = "https://wharf.example:8443/.default offline_access openid profile";
        assert_eq!(of(both), Some(Audience::ControlPlane));
        assert_eq!(of("openid profile"), Some(Audience::ControlPlane));
        assert_eq!(
            of("offline_access https://containerregistry.azure.net//.default"),
            Some(Audience::Registry)
        );
        assert_eq!(of("openid other"), None);
        let two =
            "https://wharf.example:8443/.default https://containerregistry.azure.net/.default";
        assert_eq!(of(two), None);
    }

    #[test]
    fn the_scopes_that_errors_name_are_accepted() {
        let known = Audience::scopes(URL).map(|scope| Audience::of_scope(&scope, URL));
        assert_eq!(
            known,
            [Some(Audience::ControlPlane), Some(Audience::Registry)]
        );
    }

    proptest! {
        #[test]
        fn no_other_text_is_a_scope(scope in "\\PC{0,60}") {
            if Audience::of_scope(&scope, URL).is_some() {
                prop_assert!(scope.to_ascii_lowercase().contains("/.default"));
            }
        }
    }
}
