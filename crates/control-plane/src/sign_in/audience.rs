//! What an access token is for, and how clients ask for it.

/// Of the registries' data plane, as every client of the Azure CLI and SDKs writes it; never contacted.
pub(super) const REGISTRY: &str = "https://containerregistry.azure.net";

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
