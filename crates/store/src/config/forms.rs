//! The form in which documents of each kind are published: no newer one than every enrolled node has announced.

use std::collections::BTreeMap;

use config_documents::{Document, Kind, Region};
use sqlx::types::Json;

use super::{Change, Published, publish};
use crate::{Store, StoreError, Transaction};

/// Kinds with forms, as documents, nodes and rows have them.
pub(crate) type FormMap = BTreeMap<String, u32>;

/// The forms in use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Forms(pub(crate) FormMap);

/// The kinds that every build knows. A kind that came later is not understood by whoever does not name it.
const KINDS_OF_EVERY_BUILD: [Kind; 8] = [
    Kind::Registry,
    Kind::RegistryName,
    Kind::Node,
    Kind::Principal,
    Kind::Group,
    Kind::RoleDefinition,
    Kind::RoleAssignment,
    Kind::SigningKey,
];

/// A kind's form; of what is not named the first, or 0 where that says that the kind is not known.
fn form_in(forms: &FormMap, kind: &str) -> u32 {
    let unnamed =
        || u32::from(Kind::parse(kind).is_some_and(|kind| KINDS_OF_EVERY_BUILD.contains(&kind)));
    forms.get(kind).copied().unwrap_or_else(unnamed)
}

impl Forms {
    /// The newest of this build, for an installation without nodes.
    pub(super) fn newest() -> Self {
        let mut forms = config_documents::forms();
        forms.retain(|kind, _| Kind::parse(kind).is_some());
        Self(forms)
    }

    /// The form to write a kind in: that in use, or this build's newest when a newer build put a newer one into use. 0 while some node does
    /// not know the kind.
    pub(crate) fn of(&self, kind: Kind) -> u32 {
        form_in(&self.0, kind.as_str()).min(kind.form())
    }

    /// The region to publish a document for. In its first form a signing key does not say its region, so it is for that one only; in the
    /// second it is for all.
    pub(super) fn place<'a>(&self, region: &'a Region, kind: Kind, all: &'a Region) -> &'a Region {
        if kind == Kind::SigningKey && self.of(kind) > 1 {
            all
        } else {
            region
        }
    }

    /// The kinds that a node which announces `forms` would not understand, with the form in use.
    pub(crate) fn beyond(&self, forms: &FormMap) -> Vec<(String, u32)> {
        let beyond = |(kind, form): &(&String, &u32)| form_in(forms, kind) < **form;
        self.0
            .iter()
            .filter(beyond)
            .map(|(kind, form)| (kind.clone(), *form))
            .collect()
    }

    /// The same, raised to what this build and all nodes understand.
    fn raised(&self, nodes: &[FormMap]) -> Self {
        let mut raised = self.clone();
        for (kind, newest) in Self::newest().0 {
            let understood = nodes.iter().map(|forms| form_in(forms, &kind));
            let form = understood.fold(newest, u32::min);
            if form > form_in(&raised.0, &kind) {
                raised.0.insert(kind, form);
            }
        }
        raised
    }
}

/// What came of [`forms_raise`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// Kinds with their new forms; empty when only documents had to be written anew.
    pub forms: FormMap,
    /// The documents that had to be written in the new form, if there were any.
    pub published: Option<Published>,
}

/// Puts those forms into use that every enrolled node understands, and publishes what they change; `None` when nothing is to be done.
/// Never lowers one.
///
/// # Errors
/// Those of the database.
pub async fn forms_raise(store: &Store) -> Result<Option<Raised>, StoreError> {
    if !is_wanted(store).await? {
        return Ok(None);
    }
    let mut transaction = store.begin().await?;
    // The lock comes before the list of nodes: whoever enrols publishes, and compares after that.
    let in_use = sqlx::query_scalar!(
        r#"SELECT forms AS "forms: Json<FormMap>" FROM config_head WHERE singleton FOR UPDATE"#
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let in_use = Forms(in_use.ok_or(StoreError::NotInitialised)?.0);
    let nodes: Vec<FormMap> =
        sqlx::query_scalar!(r#"SELECT forms AS "forms: Json<FormMap>" FROM nodes"#)
            .fetch_all(&mut *transaction)
            .await?
            .into_iter()
            .map(|Json(forms)| forms)
            .collect();
    let raised = in_use.raised(&nodes);
    if raised != in_use {
        sqlx::query!(
            "UPDATE config_head SET forms = $1 WHERE singleton",
            Json(&raised.0) as _
        )
        .execute(&mut *transaction)
        .await?;
    }
    let mut changes = withheld(&mut transaction, &raised).await?;
    if raised.of(Kind::SigningKey) > 1 {
        changes.extend(signing_keys_for_all(&mut transaction).await?);
    }
    let published = if changes.is_empty() {
        None
    } else {
        Some(publish(&mut transaction, &changes).await?)
    };
    transaction.commit().await?;
    let mut forms = raised.0;
    forms.retain(|kind, form| *form > form_in(&in_use.0, kind));
    Ok((!forms.is_empty() || published.is_some()).then_some(Raised { forms, published }))
}

/// Whether a form could be raised, or a document is left in an older form (as an older control plane writes it).
async fn is_wanted(store: &Store) -> Result<bool, StoreError> {
    let row = sqlx::query!(
        r#"
        SELECT forms AS "forms: Json<FormMap>", EXISTS (
            SELECT FROM regions JOIN config_documents AS document ON document.region = regions.name
            WHERE document.kind = 'signing-key' AND NOT document.deleted
        ) AS "regional!"
        FROM config_head WHERE singleton
        "#
    )
    .fetch_optional(store.pool())
    .await?
    .ok_or(StoreError::NotInitialised)?;
    let in_use = Forms(row.forms.0);
    Ok(in_use.raised(&[]) != in_use || (row.regional && in_use.of(Kind::SigningKey) > 1))
}

/// The documents of which the form in use says more than that in which they were published.
async fn withheld(transaction: &mut Transaction, forms: &Forms) -> Result<Vec<Change>, StoreError> {
    let rows = sqlx::query!("SELECT region, kind, key, body FROM withheld_documents")
        .fetch_all(&mut **transaction)
        .await?;
    let mut changes = Vec::new();
    for row in rows {
        match Document::parse(&row.kind, &row.key, &row.body) {
            Ok(document) if document.is_whole_in_form(forms.of(document.kind())) => {
                changes.push(Change::Upsert {
                    region: Region(row.region),
                    document,
                });
            }
            Ok(_) => {}
            // A newer build wrote it, and raises it.
            Err(error) => tracing::error!(
                document.kind = row.kind,
                document.key = row.key,
                reason = %error,
                "a document that waits to be published cannot be read"
            ),
        }
    }
    Ok(changes)
}

/// The signing keys that are published for one region only, to be published for all.
async fn signing_keys_for_all(transaction: &mut Transaction) -> Result<Vec<Change>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT document.region, document.key, document.body AS "body!"
        FROM regions JOIN config_documents AS document ON document.region = regions.name
        WHERE document.kind = 'signing-key' AND NOT document.deleted
        "#
    )
    .fetch_all(&mut **transaction)
    .await?;
    let mut changes = Vec::with_capacity(rows.len());
    for row in rows {
        let parsed = Document::parse(Kind::SigningKey.as_str(), &row.key, &row.body);
        let Ok(Document::SigningKey(mut key)) = parsed else {
            // Nodes reject it as it is; it must not keep the others from being published.
            tracing::error!(
                document.key = row.key,
                "a signing key's document cannot be read"
            );
            continue;
        };
        let region = Region(row.region);
        key.region = Some(region.clone());
        changes.push(Change::Upsert {
            region,
            document: Document::SigningKey(key),
        });
    }
    Ok(changes)
}
