//! How clients name the tenant in paths of sign-in, and what follows from it: the issuer and the addresses of the endpoints.

use arm::ApiError;
use store::installation::Installation;
use uuid::Uuid;

use crate::App;
use crate::front_door::Request;

/// A way to name the one tenant of this installation in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TenantForm {
    /// `adfs`: clients that meet this word do not ask the public cloud whether they may trust the host.
    Adfs,
    /// The tenant's id, for which its domain stands as well, or `common` or `organizations`, as it stands in addresses.
    Tenant(String),
}

impl TenantForm {
    /// The form of a request's `{tenant}`.
    ///
    /// # Errors
    /// As [`TenantForm::parse`].
    pub(super) fn of(app: &App, request: &Request) -> Result<Self, ApiError> {
        let Installation {
            public_url,
            tenant_id,
            ..
        } = &app.installation;
        Self::parse(request.parameter("tenant"), public_url, *tenant_id)
    }

    /// The form of a path's segment.
    ///
    /// # Errors
    /// Another tenant than this installation's.
    fn parse(text: &str, public_url: &str, tenant_id: Uuid) -> Result<Self, ApiError> {
        if text.eq_ignore_ascii_case("adfs") {
            return Ok(Self::Adfs);
        }
        if let Some(word) = ["common", "organizations"]
            .into_iter()
            .find(|word| word.eq_ignore_ascii_case(text))
        {
            return Ok(Self::Tenant(word.to_owned()));
        }
        let domain = default_domain(public_url);
        if Uuid::try_parse(text) == Ok(tenant_id) || domain.eq_ignore_ascii_case(text) {
            return Ok(Self::of_id(tenant_id));
        }
        let shown: String = text.chars().take(100).collect();
        Err(ApiError::invalid(
            "invalid_tenant",
            format!(
                "AADSTS90002: Tenant '{shown}' not found. This installation is the tenant '{tenant_id}'; it is also reached as '{domain}', 'adfs', 'common' or 'organizations'."
            ),
        ))
    }

    pub(super) fn of_id(tenant_id: Uuid) -> Self {
        Self::Tenant(tenant_id.to_string())
    }

    /// The issuer of tokens; the same whatever word stood for the tenant.
    pub(super) fn issuer(&self, public_url: &str, tenant_id: Uuid) -> String {
        match self {
            Self::Adfs => format!("{public_url}/adfs"),
            Self::Tenant(_) => format!("{public_url}/{tenant_id}/v2.0"),
        }
    }

    /// Both issuers.
    pub(super) fn issuers(public_url: &str, tenant_id: Uuid) -> [String; 2] {
        [
            Self::Adfs.issuer(public_url, tenant_id),
            Self::Tenant(String::new()).issuer(public_url, tenant_id),
        ]
    }

    fn segment(&self) -> &str {
        match self {
            Self::Adfs => "adfs",
            Self::Tenant(segment) => segment,
        }
    }

    pub(super) fn token_endpoint(&self, public_url: &str) -> String {
        format!("{public_url}/{}/oauth2/v2.0/token", self.segment())
    }

    /// Every address of the token endpoint, that which discovery at `/adfs` shows first.
    pub(super) fn token_endpoints(public_url: &str, tenant_id: Uuid) -> Vec<String> {
        let tenant = tenant_id.to_string();
        let domain = default_domain(public_url);
        ["adfs", &tenant, domain, "common", "organizations"]
            .into_iter()
            .flat_map(|segment| {
                [
                    format!("{public_url}/{segment}/oauth2/v2.0/token"),
                    format!("{public_url}/{segment}/oauth2/token"),
                ]
            })
            .collect()
    }

    pub(super) fn authorization_endpoint(&self, public_url: &str) -> String {
        format!("{public_url}/{}/oauth2/v2.0/authorize", self.segment())
    }

    pub(super) fn device_authorization_endpoint(&self, public_url: &str) -> String {
        format!("{public_url}/{}/oauth2/v2.0/devicecode", self.segment())
    }

    pub(super) fn keys_endpoint(&self, public_url: &str) -> String {
        match self {
            Self::Adfs => format!("{public_url}/adfs/discovery/keys"),
            Self::Tenant(segment) => format!("{public_url}/{segment}/discovery/v2.0/keys"),
        }
    }
}

/// The tenant's domain: the host of the public URL.
pub(crate) fn default_domain(public_url: &str) -> &str {
    let rest = public_url
        .split_once("://")
        .map_or(public_url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|digit| digit.is_ascii_digit()))
        .map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TENANT: Uuid = Uuid::from_u128(0xa1);
    const URL: &str = "https://w.example:8443";

    #[test]
    fn the_domain_is_the_host_without_the_port() {
        assert_eq!(default_domain(URL), "w.example");
        assert_eq!(default_domain("https://w.example/x"), "w.example");
        assert_eq!(default_domain("https://[::1]:8443"), "[::1]");
    }

    #[test]
    fn the_tenant_has_five_names() {
        let parse = |text: &str| TenantForm::parse(text, URL, TENANT);
        let upper = TENANT.to_string().to_uppercase();
        for (text, issuer) in [
            ("ADFS", "https://w/adfs".to_owned()),
            ("common", format!("https://w/{TENANT}/v2.0")),
            ("Organizations", format!("https://w/{TENANT}/v2.0")),
            (upper.as_str(), format!("https://w/{TENANT}/v2.0")),
            ("W.example", format!("https://w/{TENANT}/v2.0")),
        ] {
            let form = parse(text).expect("a name of the tenant");
            assert_eq!(form.issuer("https://w", TENANT), issuer);
            assert!(TenantForm::issuers("https://w", TENANT).contains(&issuer));
        }
        let error = parse("contoso.example").expect_err("another tenant");
        assert_eq!(error.code, "invalid_tenant");
        for name in ["contoso.example", "w.example", &TENANT.to_string()] {
            assert!(error.message.contains(name), "{}", error.message);
        }
    }

    proptest! {
        #[test]
        fn no_other_name_is_the_tenant(text in "\\PC{0,60}") {
            let is_name = ["adfs", "common", "organizations", "w.example"].iter().any(|name| name.eq_ignore_ascii_case(&text));
            prop_assert_eq!(TenantForm::parse(&text, URL, TENANT).is_ok(), is_name);
        }
    }
}
