//! A control plane of a test's own, and a client for it.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use control_plane::{App, Parts, Settings};
use credentials::{KeyRing, SecretKind, SystemRandomness, Verifier};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use service::metrics::Metrics;
use service::readiness::Readiness;
use service::shutdown::Shutdown;
use sqlx::PgPool;
use store::Store;
use store::directory::{Bootstrap, NewSecret, SecretVerifier};
use store::installation::{Initialisation, Installation, Region};
use store::role_assignments::RoleAssignment;
use store::subscriptions::Subscription;
use time::OffsetDateTime;
use uuid::{Uuid, uuid};

pub(crate) const OWNER: &str = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635";
pub(crate) const CONTRIBUTOR: &str = "b24988ac-6180-42a0-ab88-20f7382dd24c";
pub(crate) const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
pub(crate) const REGISTRIES: &str = "2026-09-01-preview";
pub(crate) const GROUPS: &str = "2024-11-01";
pub(crate) const ASSIGNMENTS: &str = "2022-04-01";

/// A running control plane and its bootstrap principal.
pub(crate) struct TestApp {
    pub(crate) base: String,
    pub(crate) store: Store,
    pub(crate) subscription_id: Uuid,
    pub(crate) tenant_id: Uuid,
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
    /// The bootstrap principal's token: Owner of the subscription, directory administrator.
    pub(crate) token: String,
    pub(crate) metrics: Metrics,
    client: reqwest::Client,
    shutdown: Shutdown,
}

/// An answer, read to its end.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// ARM's or Graph's error code.
    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

/// A principal that a test made.
pub(crate) struct Principal {
    pub(crate) object_id: String,
    pub(crate) app_id: String,
    pub(crate) secret: String,
    pub(crate) token: String,
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}

impl TestApp {
    pub(crate) async fn spawn(pool: PgPool) -> Self {
        Self::spawn_on(Store::over(pool)).await
    }

    /// With the pool that a control plane has.
    pub(crate) async fn spawn_on(store: Store) -> Self {
        Self::spawn_with(store, settings()).await
    }

    /// As an operator gets it who says nothing of how long changes wait for nodes.
    pub(crate) async fn spawn_hurried(pool: PgPool) -> Self {
        let settings = Settings {
            propagation_timeout: Duration::from_secs(2),
            ..settings()
        };
        Self::spawn_with(Store::over(pool), settings).await
    }

    pub(crate) async fn spawn_with(store: Store, settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (initialisation, client_secret) = initialisation(&base, key_ring().fingerprint());
        store.initialise(&initialisation).await.unwrap();
        control_plane::sign_in::ensure_key(&store, &key_ring(), OffsetDateTime::now_utc())
            .await
            .unwrap();
        let shutdown = Shutdown::new();
        let metrics = serve(&store, listener, &shutdown, settings).await;
        let mut this = Self {
            base,
            store,
            subscription_id: initialisation.subscription.subscription_id,
            tenant_id: initialisation.installation.tenant_id,
            client_id: initialisation.installation.bootstrap_app_id.to_string(),
            client_secret,
            token: String::new(),
            metrics,
            client: reqwest::Client::new(),
            shutdown,
        };
        this.token = this.sign_in(&this.client_id, &this.client_secret).await;
        this
    }

    /// Tells the control plane to end, as a signal does.
    pub(crate) fn stop(&self) {
        self.shutdown.request();
    }

    /// Another control plane of the same installation.
    pub(crate) async fn replica(&self) -> Self {
        self.replica_on(self.store.clone()).await
    }

    /// Another one, with database connections, and what goes with them, of its own.
    pub(crate) async fn replica_on(&self, store: Store) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = Shutdown::new();
        let metrics = serve(&store, listener, &shutdown, settings()).await;
        Self {
            base,
            store,
            subscription_id: self.subscription_id,
            tenant_id: self.tenant_id,
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.clone(),
            token: self.token.clone(),
            metrics,
            client: reqwest::Client::new(),
            shutdown,
        }
    }

    /// An access token for ARM.
    pub(crate) async fn sign_in(&self, client_id: &str, client_secret: &str) -> String {
        let scope = format!("{}/.default", self.base);
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client_id),
            ("client_secret", client_secret),
            ("scope", &scope),
        ];
        let url = format!("{}/adfs/oauth2/v2.0/token", self.base);
        let answer: Value = self
            .client
            .post(url)
            .form(&form)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("no token: {answer}"))
            .to_owned()
    }

    /// Sends a request as somebody; an empty token sends none.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> Reply {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        self.read(request).await
    }

    /// Sends a request that a test made with [`TestApp::request`].
    pub(crate) async fn read(&self, request: reqwest::RequestBuilder) -> Reply {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        Reply {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &self.token, None).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Reply {
        self.send(Method::PUT, path, &self.token, Some(body)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Method::POST, path, &self.token, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &self.token, None).await
    }

    pub(crate) fn subscription(&self) -> String {
        format!("/subscriptions/{}", self.subscription_id)
    }

    pub(crate) fn group(&self, name: &str) -> String {
        format!("{}/resourceGroups/{name}", self.subscription())
    }

    pub(crate) fn registry(&self, group: &str, name: &str) -> String {
        format!(
            "{}/providers/Microsoft.ContainerRegistry/registries/{name}",
            self.group(group)
        )
    }

    pub(crate) async fn create_group(&self, name: &str) {
        let path = format!("{}?api-version={GROUPS}", self.group(name));
        let reply = self.put(&path, json!({ "location": "westus" })).await;
        assert!(reply.status == 201 || reply.status == 200, "{}", reply.body);
    }

    /// Creates a registry with the admin account on, and its group.
    pub(crate) async fn create_registry(&self, group: &str, name: &str) {
        self.create_group(group).await;
        let path = format!("{}?api-version={REGISTRIES}", self.registry(group, name));
        let body = json!({ "location": "westus", "sku": { "name": "Basic" }, "properties": { "adminUserEnabled": true } });
        let reply = self.put(&path, body).await;
        assert_eq!(reply.status, 201, "{}", reply.body);
    }

    /// An application with a service principal, a secret and a token.
    pub(crate) async fn create_principal(&self, display_name: &str) -> Principal {
        let application = self
            .post("/v1.0/applications", json!({ "displayName": display_name }))
            .await;
        assert_eq!(application.status, 201, "{}", application.body);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let app_id = text(&application.body["appId"]);
        let path = format!(
            "/v1.0/applications/{}/addPassword",
            text(&application.body["id"])
        );
        let password = self
            .post(
                &path,
                json!({ "passwordCredential": { "displayName": "test" } }),
            )
            .await;
        assert_eq!(password.status, 200, "{}", password.body);
        let principal = self
            .post("/v1.0/servicePrincipals", json!({ "appId": app_id }))
            .await;
        assert_eq!(principal.status, 201, "{}", principal.body);
        let secret = text(&password.body["secretText"]);
        let token = self.sign_in(&app_id, &secret).await;
        Principal {
            object_id: text(&principal.body["id"]),
            app_id,
            secret,
            token,
        }
    }

    /// Assigns a role, and gives the assignment's path.
    pub(crate) async fn assign(&self, scope: &str, role: &str, principal: &Principal) -> String {
        let path = format!(
            "{scope}/providers/Microsoft.Authorization/roleAssignments/{}",
            Uuid::new_v4()
        );
        let reply = self
            .put(
                &format!("{path}?api-version={ASSIGNMENTS}"),
                json!({ "properties": {
                    "roleDefinitionId": format!("/providers/Microsoft.Authorization/roleDefinitions/{role}"),
                    "principalId": principal.object_id,
                    "principalType": "ServicePrincipal",
                }}),
            )
            .await;
        assert_eq!(reply.status, 201, "{}", reply.body);
        path
    }
}

pub(crate) fn key_ring() -> KeyRing {
    KeyRing::parse("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=").unwrap()
}

/// Those of tests. A change waits as long as a test does: on a busy machine a node takes its time, and is no less current for that.
pub(crate) fn settings() -> Settings {
    Settings {
        self_service_applications: true,
        issuer_ca_file: None,
        // Those of tests are on loopback.
        issuer_allow_private: true,
        cors_allowed_origins: vec!["https://portal.example".to_owned()],
        activity_retention_days: 30,
        propagation_timeout: Duration::from_secs(30),
    }
}

/// Starts a control plane that ends with the shutdown, and gives its metrics.
async fn serve(
    store: &Store,
    listener: TcpListener,
    shutdown: &Shutdown,
    settings: Settings,
) -> Metrics {
    service::install_crypto_provider();
    let metrics = Metrics::new("control-plane");
    let app = App::assemble(Parts {
        store: store.clone(),
        key_ring: Arc::new(key_ring()),
        key_file: None,
        clock: Arc::new(OffsetDateTime::now_utc),
        randomness: Arc::new(SystemRandomness),
        settings,
        metrics: metrics.clone(),
        readiness: Readiness::new(&["database"]),
        shutdown: shutdown.clone(),
    })
    .await
    .unwrap();
    let server = control_plane::serve(Arc::clone(&app), vec![listener], None).unwrap();
    let handle = server.handle();
    let ending = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = server => {}
            () = control_plane::done(&app, &ending) => {}
        }
        handle.stop(false).await;
    });
    metrics
}

fn initialisation(base: &str, fingerprint: String) -> (Initialisation<'static>, String) {
    let now = OffsetDateTime::now_utc();
    let secret = credentials::generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
    let (tenant_id, subscription_id, principal_id) =
        (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let bootstrap_app_id = Uuid::new_v4();
    let initialisation = Initialisation {
        installation: Installation {
            tenant_id,
            tenant_display_name: "Test".to_owned(),
            public_url: base.to_owned(),
            login_server_suffix: ".registry.localhost:5443".to_owned(),
            key_encryption_fingerprint: fingerprint,
            bootstrap_app_id,
        },
        regions: vec![
            Region {
                name: "westus".to_owned(),
                display_name: "West US".to_owned(),
            },
            Region {
                name: "northeurope".to_owned(),
                display_name: "North Europe".to_owned(),
            },
        ],
        subscription: Subscription {
            subscription_id,
            tenant_id,
            display_name: "Test".to_owned(),
        },
        bootstrap: Bootstrap {
            application_object_id: Uuid::new_v4(),
            service_principal_object_id: principal_id,
            app_id: bootstrap_app_id,
            display_name: "bootstrap",
            secret: NewSecret {
                key_id: Uuid::new_v4(),
                display_name: None,
                hint: "wfs".to_owned(),
                starts_at: now,
                expires_at: now + time::Duration::days(1),
                verifier: SecretVerifier::Generated(Verifier::of(&secret, &SystemRandomness)),
            },
            now,
        },
        owner_assignment: RoleAssignment {
            name: Uuid::new_v4(),
            scope: format!("/subscriptions/{subscription_id}"),
            principal_id,
            principal_type: "ServicePrincipal".to_owned(),
            role_definition_id: uuid!("8e3af657-a8ff-443c-a75c-2fe8c4bcb635"),
            description: None,
            condition: None,
            created_at: now,
            created_by: None,
            updated_at: now,
            updated_by: None,
        },
        epoch: config_documents::Epoch(Uuid::now_v7()),
    };
    (initialisation, secret.expose().to_owned())
}
