//! `wharfinger admin init`: makes an installation of an empty database. Typed again, it changes nothing.

use std::path::{Path, PathBuf};

use config_documents::Epoch;
use control_plane::sealing::KeyFile;
use control_plane::sign_in;
use credentials::{KeyRing, Randomness, Secret, SecretKind, SystemRandomness, Verifier};
use serde::Serialize;
use service::clock::Clock;
use service::configuration::{DatabaseUrlArguments, write_secret_file};
use store::Store;
use store::directory::{
    Bootstrap, FoundPrincipal, NewSecret, SecretAddition, SecretOwner, SecretVerifier,
};
use store::installation::{Initialisation, Installation};
use store::role_assignments::RoleAssignment;
use store::subscriptions::Subscription;
use time::{Duration, OffsetDateTime};
use uuid::{Uuid, uuid};

use super::{AdminError, open, recorded, region, say};

/// How long the bootstrap secret is good.
const BOOTSTRAP_SECRET_VALIDITY: Duration = Duration::days(730);

/// The installation, as the activity log names it.
const INSTALLATION: &str = "/providers/Wharfinger/installation";

/// The built-in role Owner.
const OWNER: Uuid = uuid!("8e3af657-a8ff-443c-a75c-2fe8c4bcb635");

/// Make an installation of an empty database; changes nothing when it is one already
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// File with the key-encryption keys, 32 bytes in base64 a line
    #[arg(long, value_name = "FILE")]
    key_encryption_key_file: PathBuf,
    /// URL at which clients reach the control plane, https and without a path
    #[arg(long, value_name = "URL")]
    public_url: String,
    /// What follows a registry's name in its login server, with a leading dot and, if any, the port
    #[arg(long, value_name = "SUFFIX")]
    login_server_suffix: String,
    /// Region where registries can live; may be given several times
    #[arg(long, required = true)]
    region: Vec<String>,
    /// Name of the tenant
    #[arg(long, default_value = "Wharfinger")]
    tenant_name: String,
    /// Name of the first subscription
    #[arg(long, default_value = "Default")]
    subscription_name: String,
    /// File to write the bootstrap principal's credentials to, as JSON, readable by its owner only
    #[arg(long, value_name = "FILE")]
    bootstrap_file: PathBuf,
}

/// What the bootstrap file holds.
#[derive(Serialize)]
struct BootstrapFile<'a> {
    tenant_id: Uuid,
    subscription_id: Uuid,
    client_id: Uuid,
    client_secret: &'a str,
}

pub(super) async fn run(arguments: &Arguments, clock: &Clock) -> Result<(), AdminError> {
    let public_url = public_url(&arguments.public_url)?;
    let suffix = login_server_suffix(&arguments.login_server_suffix)?;
    let key_ring = KeyFile(arguments.key_encryption_key_file.clone()).read()?;
    let store = open(&arguments.database).await?;
    store.migrate().await?;
    match store.installation_if_any().await? {
        Some(existing) => {
            same("public URL", &existing.public_url, &public_url)?;
            same(
                "login-server suffix",
                &existing.login_server_suffix,
                &suffix,
            )?;
            same_key(&existing, &key_ring)?;
            add_regions(&store, &arguments.region).await?;
            if !arguments.bootstrap_file.exists() {
                renew_bootstrap(&store, &existing, &arguments.bootstrap_file, clock).await?;
            }
            say("the installation is there already")?;
        }
        None => create(&store, arguments, public_url, suffix, &key_ring, clock).await?,
    }
    sign_in::ensure_key(&store, &key_ring, clock()).await?;
    store::config::publish_built_in_roles(&store).await?;
    Ok(())
}

fn same(what: &'static str, existing: &str, given: &str) -> Result<(), AdminError> {
    if existing == given {
        return Ok(());
    }
    Err(AdminError::AlreadyInitialised {
        what,
        existing: existing.to_owned(),
        given: given.to_owned(),
    })
}

/// What the installation sealed, this ring must open; and what it seals now is sealed with the installation's key.
fn same_key(existing: &Installation, key_ring: &KeyRing) -> Result<(), AdminError> {
    let fingerprint = &existing.key_encryption_fingerprint;
    if key_ring.seal_with(fingerprint) {
        return Ok(());
    }
    same(
        "key-encryption key with the fingerprint",
        fingerprint,
        &key_ring.fingerprint(),
    )
}

/// Adds the regions that are not there; one that is keeps its display name.
async fn add_regions(store: &Store, names: &[String]) -> Result<(), AdminError> {
    let known = store.region_list().await?;
    for name in names {
        let region = region::parse(name, None)?;
        if !known.iter().any(|known| known.name == region.name) {
            store.region_put(&region).await?;
        }
    }
    Ok(())
}

async fn create(
    store: &Store,
    arguments: &Arguments,
    public_url: String,
    login_server_suffix: String,
    key_ring: &KeyRing,
    clock: &Clock,
) -> Result<(), AdminError> {
    let now = clock();
    let secret = credentials::generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
    let (tenant_id, subscription_id, app_id) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let principal_id = Uuid::new_v4();
    let regions = arguments
        .region
        .iter()
        .map(|name| region::parse(name, None))
        .collect::<Result<Vec<_>, _>>()?;
    let initialisation = Initialisation {
        installation: Installation {
            tenant_id,
            tenant_display_name: arguments.tenant_name.clone(),
            public_url,
            login_server_suffix,
            key_encryption_fingerprint: key_ring.fingerprint(),
            bootstrap_app_id: app_id,
        },
        regions,
        subscription: Subscription {
            subscription_id,
            tenant_id,
            display_name: arguments.subscription_name.clone(),
        },
        bootstrap: Bootstrap {
            application_object_id: Uuid::new_v4(),
            service_principal_object_id: principal_id,
            app_id,
            display_name: "bootstrap",
            secret: new_secret(&secret, &SystemRandomness, now),
            now,
        },
        owner_assignment: owner_assignment(
            subscription_id,
            &FoundPrincipal {
                object_id: principal_id,
                kind: "ServicePrincipal".to_owned(),
            },
            "The installation began with it.",
            now,
        ),
        epoch: Epoch(Uuid::now_v7()),
    };
    // The file comes first: should the database refuse, a credential that nobody has is worth nothing.
    write_bootstrap(
        &arguments.bootstrap_file,
        tenant_id,
        subscription_id,
        app_id,
        &secret,
    )?;
    let work = async { Ok(store.initialise(&initialisation).await?) };
    recorded(
        store,
        clock,
        "Wharfinger/installation/write",
        INSTALLATION,
        work,
    )
    .await?;
    say(&format!(
        "initialised tenant {tenant_id} with subscription {subscription_id}"
    ))?;
    say(&format!(
        "the bootstrap principal's credentials are in {}",
        arguments.bootstrap_file.display()
    ))
}

/// Makes a principal Owner of a subscription.
pub(super) fn owner_assignment(
    subscription_id: Uuid,
    owner: &FoundPrincipal,
    description: &str,
    now: OffsetDateTime,
) -> RoleAssignment {
    RoleAssignment {
        name: Uuid::new_v4(),
        scope: format!("/subscriptions/{subscription_id}"),
        principal_id: owner.object_id,
        principal_type: owner.kind.clone(),
        role_definition_id: OWNER,
        description: Some(description.to_owned()),
        condition: None,
        created_at: now,
        created_by: None,
        updated_at: now,
        updated_by: None,
    }
}

fn new_secret(secret: &Secret, randomness: &dyn Randomness, now: OffsetDateTime) -> NewSecret {
    NewSecret {
        key_id: Uuid::new_v4(),
        display_name: Some("bootstrap".to_owned()),
        hint: secret
            .expose()
            .chars()
            .take(SecretKind::ServicePrincipalSecret.prefix().len() + 3)
            .collect(),
        starts_at: now,
        expires_at: now + BOOTSTRAP_SECRET_VALIDITY,
        verifier: SecretVerifier::Generated(Verifier::of(secret, randomness)),
    }
}

/// Gives the bootstrap principal one more secret, because the file with the one it had is gone.
async fn renew_bootstrap(
    store: &Store,
    installation: &Installation,
    file: &Path,
    clock: &Clock,
) -> Result<(), AdminError> {
    let application = store
        .bootstrap_application()
        .await?
        .ok_or(AdminError::BootstrapDeleted)?;
    let subscriptions = store.subscription_list().await?;
    let subscription = subscriptions
        .first()
        .ok_or(store::StoreError::NotInitialised)?;
    let secret = credentials::generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
    write_bootstrap(
        file,
        installation.tenant_id,
        subscription.subscription_id,
        application.app_id,
        &secret,
    )?;
    let new = new_secret(&secret, &SystemRandomness, clock());
    let work = async {
        let owner = SecretOwner::Application(application.object_id);
        match store
            .secret_add(owner, &new, control_plane::sign_in::SECRET_LIMITS)
            .await?
        {
            SecretAddition::Added(_) => Ok(()),
            SecretAddition::OwnerNotFound => Err(AdminError::BootstrapDeleted),
            SecretAddition::TooMany | SecretAddition::TooManyChosen => {
                Err(AdminError::TooManySecrets)
            }
        }
    };
    let operation = "Microsoft.Directory/applications/addPassword/action";
    let resource = format!(
        "/providers/Microsoft.Directory/applications/{}",
        application.object_id
    );
    recorded(store, clock, operation, &resource, work).await?;
    say(&format!(
        "a new secret of the bootstrap principal is in {}",
        file.display()
    ))
}

fn write_bootstrap(
    file: &Path,
    tenant_id: Uuid,
    subscription_id: Uuid,
    client_id: Uuid,
    secret: &Secret,
) -> Result<(), AdminError> {
    let content = BootstrapFile {
        tenant_id,
        subscription_id,
        client_id,
        client_secret: secret.expose(),
    };
    let text = serde_json::to_string_pretty(&content).expect("the file's members are text");
    Ok(write_secret_file(file, text.as_bytes())?)
}

fn public_url(text: &str) -> Result<String, AdminError> {
    let url = text.trim_end_matches('/');
    let authority = url.strip_prefix("https://").unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        // The last colon of an IPv6 address without a port is the address's own.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_ipv6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    if (is_ipv6 || host.split('.').all(is_label)) && is_port(port) {
        return Ok(url.to_owned());
    }
    Err(AdminError::Argument {
        argument: "public-url",
        value: text.to_owned(),
        rule: "it must read https://host or https://host:port, in lower case and without a path",
    })
}

fn login_server_suffix(text: &str) -> Result<String, AdminError> {
    let (host, port) = text
        .split_once(':')
        .map_or((text, None), |(host, port)| (host, Some(port)));
    let host_is_valid = host
        .strip_prefix('.')
        .is_some_and(|domain| domain.split('.').all(is_label));
    if host_is_valid && is_port(port) {
        return Ok(text.to_owned());
    }
    Err(AdminError::Argument {
        argument: "login-server-suffix",
        value: text.to_owned(),
        rule: "it must read .domain or .domain:port, in lower case",
    })
}

/// A label of a host name, in lower case (RFC 1123, 2.1).
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A port, if there is one, in digits only.
fn is_port(port: Option<&str>) -> bool {
    port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_public_url_is_a_host_and_perhaps_a_port() {
        for text in [
            "https://localhost",
            "https://a-1.example:8443",
            "https://[::1]:8443",
            "https://[::1]",
            "https://10.0.0.1:1/",
        ] {
            assert_eq!(
                public_url(text).ok().as_deref(),
                Some(text.trim_end_matches('/'))
            );
        }
        for text in [
            "",
            "http://a",
            "https://",
            "https://:::",
            "https://a:",
            "https://a:0",
            "https://a:+1",
            "https://A",
            "https://a..b",
            "https://-a",
            "https://a/b",
            "https://[a]",
            "https://user@a",
            "https://a:65536",
        ] {
            assert!(public_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_suffix_is_a_domain_with_a_leading_dot_and_perhaps_a_port() {
        for text in [".r", ".registry.localhost:5443"] {
            assert_eq!(login_server_suffix(text).ok().as_deref(), Some(text));
        }
        for text in [
            "", ".", "r", ".r.", "..r", ".R", ".r:", ".r:+1", ".-r", ".r/x",
        ] {
            assert!(login_server_suffix(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_as_it_is_or_refused(text in "\\PC{0,40}") {
            if let Ok(url) = public_url(&text) {
                prop_assert_eq!(url, text.trim_end_matches('/'));
            }
            if let Ok(suffix) = login_server_suffix(&text) {
                prop_assert_eq!(suffix, text);
            }
        }
    }
}
