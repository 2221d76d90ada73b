//! OData's query options, as far as clients send them: `$filter`, `$select`, `$top`, and `$skiptoken` of our own next links.

use arm::{ApiError, Filter, Term};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};
use store::directory::ObjectQuery;
use uuid::Uuid;

use super::errors::{bad_request, guid, shorten, unsupported_query};
use crate::front_door::{Answer, Request};
use crate::limits::{DIRECTORY_PAGE_SIZE, MAXIMUM_DIRECTORY_PAGE_SIZE};

/// The options of a list.
pub(super) const LIST_OPTIONS: &[&str] = &["$filter", "$select", "$top", "$skiptoken"];

/// What is encoded in a segment of a path.
const IN_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'@');

/// The options of one object.
pub(super) const OBJECT_OPTIONS: &[&str] = &["$select"];

/// A collection of the directory: what can be selected and filtered by.
pub(super) struct Collection {
    /// As messages name it.
    pub(super) name: &'static str,
    /// The names of all properties.
    pub(super) properties: &'static [&'static str],
    /// The properties that can be compared, each with how.
    pub(super) filters: &'static [(&'static str, Comparison)],
    /// A list of names by which an object is found, and whether any object has them: the application's id for service principals.
    pub(super) names: Names,
}

/// How a property is compared in a filter.
#[derive(Clone, Copy)]
pub(super) enum Comparison {
    ObjectId,
    AppId,
    DisplayName,
    UserPrincipalName,
    MailNickname,
    Enabled,
    /// Every object has this value.
    Always(&'static str),
}

impl Comparison {
    /// Whether `startswith` is understood, too.
    fn has_prefix(self) -> bool {
        matches!(self, Self::DisplayName | Self::UserPrincipalName)
    }
}

/// A property that is a list of names.
pub(super) enum Names {
    /// Of these an object has one: its application's id.
    AppId(&'static str),
    /// Of these no object has any.
    None(&'static str),
    /// There is no such property.
    Missing,
}

/// What a list was asked for.
pub(super) struct ListRequest {
    /// `None` when the filter asks for what no object has.
    pub(super) query: Option<ObjectQuery>,
    page: Page,
}

/// Which page of a list is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    size: i64,
    /// The last object of the page before.
    pub(super) after: Uuid,
}

impl ListRequest {
    /// Reads the options of a list.
    pub(super) fn parse(request: &Request, collection: &Collection) -> Result<Self, ApiError> {
        let page = Page::parse(request, LIST_OPTIONS)?;
        let conditions = match request.query("$filter") {
            Some(text) => conditions(text, collection)?,
            None => Some(ObjectQuery::default()),
        };
        Ok(Self {
            query: conditions.map(|conditions| ObjectQuery {
                after: page.after,
                limit: page.limit(),
                ..conditions
            }),
            page,
        })
    }

    /// The answer: a page of the objects found, with the address of the next one if there is one.
    pub(super) fn answer<T: Serialize>(
        &self,
        found: Vec<T>,
        id_of: impl Fn(&T) -> Uuid,
        request: &Request,
        collection: &Collection,
        public_url: &str,
    ) -> Result<Answer, ApiError> {
        let (found, next_link) = self.page.cut(found, id_of, request, public_url)?;
        let objects = found
            .iter()
            .map(|object| select(object, request, collection))
            .collect::<Result<Vec<Value>, ApiError>>()?;
        list(objects, next_link)
    }
}

impl Page {
    /// Reads `$top` and `$skiptoken`, and refuses options that are not among the known ones.
    pub(super) fn parse(request: &Request, known: &[&str]) -> Result<Self, ApiError> {
        refuse_other_options(request, known)?;
        Ok(Self {
            size: request
                .query("$top")
                .map_or(Ok(DIRECTORY_PAGE_SIZE), page_size)?,
            after: match request.query("$skiptoken") {
                Some(token) => guid(token, "$skiptoken")?,
                None => Uuid::nil(),
            },
        })
    }

    /// How many objects to look for: one more than a page, to know whether there is another.
    pub(super) fn limit(&self) -> i64 {
        self.size + 1
    }

    /// What of the objects found is on the page, and the address of the next one if there is one.
    pub(super) fn cut<T>(
        &self,
        mut found: Vec<T>,
        id_of: impl Fn(&T) -> Uuid,
        request: &Request,
        public_url: &str,
    ) -> Result<(Vec<T>, Option<String>), ApiError> {
        let page_size = usize::try_from(self.size).map_err(ApiError::internal)?;
        let has_more = found.len() > page_size;
        found.truncate(page_size);
        let next_link = found.last().filter(|_| has_more).map(|last| {
            let options = request
                .query
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()));
            next_link(public_url, &request.segments, options, id_of(last))
        });
        Ok((found, next_link))
    }
}

/// The answer to a list.
pub(super) fn list(objects: Vec<Value>, next_link: Option<String>) -> Result<Answer, ApiError> {
    let mut body = json!({ "value": objects });
    if let Some(next_link) = next_link {
        body["@odata.nextLink"] = next_link.into();
    }
    Answer::ok(&body)
}

/// An object with the properties that `$select` names, or all.
pub(super) fn select(
    object: &impl Serialize,
    request: &Request,
    collection: &Collection,
) -> Result<Value, ApiError> {
    let mut value = serde_json::to_value(object).map_err(ApiError::internal)?;
    if let Some(selected) = request.query("$select")
        && let Some(members) = value.as_object_mut()
    {
        let selected = selected_properties(selected, collection)?;
        members.retain(|name, _| name.starts_with('@') || selected.contains(&name.as_str()));
    }
    Ok(value)
}

/// Checks the options of a request that does not ask for a list.
pub(super) fn check_object_options(
    request: &Request,
    collection: &Collection,
) -> Result<(), ApiError> {
    refuse_other_options(request, OBJECT_OPTIONS)?;
    match request.query("$select") {
        Some(selected) => selected_properties(selected, collection).map(drop),
        None => Ok(()),
    }
}

fn selected_properties(text: &str, collection: &Collection) -> Result<Vec<&'static str>, ApiError> {
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| {
            collection
                .properties
                .iter()
                .copied()
                .find(|known| known.eq_ignore_ascii_case(name))
                .ok_or_else(|| {
                    bad_request(format!(
                        "Could not find a property named '{}' of {}; it has: {}.",
                        shorten(name),
                        collection.name,
                        collection.properties.join(", ")
                    ))
                })
        })
        .collect()
}

/// Refuses OData's options that are not built; parameters without a dollar sign are none.
pub(super) fn refuse_other_options(request: &Request, known: &[&str]) -> Result<(), ApiError> {
    let other = request.query.iter().map(|(name, _)| name).find(|name| {
        name.starts_with('$') && !known.iter().any(|known| known.eq_ignore_ascii_case(name))
    });
    let Some(name) = other else { return Ok(()) };
    let supported = match known {
        [] => "none is".to_owned(),
        known => format!("supported are: {}", known.join(", ")),
    };
    Err(unsupported_query(format!(
        "The query option '{}' is not supported here; {supported}.",
        shorten(name)
    )))
}

fn page_size(text: &str) -> Result<i64, ApiError> {
    text.parse()
        .ok()
        .filter(|size| (1..=MAXIMUM_DIRECTORY_PAGE_SIZE).contains(size))
        .ok_or_else(|| {
            bad_request(format!(
                "Invalid page size specified: '{}'. It must be between 1 and {MAXIMUM_DIRECTORY_PAGE_SIZE} inclusive.",
                shorten(text)
            ))
        })
}

/// The conditions of a `$filter`; `None` when no object can meet them.
fn conditions(text: &str, collection: &Collection) -> Result<Option<ObjectQuery>, ApiError> {
    let filter =
        Filter::parse_leniently(text).map_err(|error| unsupported_query(error.to_string()))?;
    let mut query = ObjectQuery::default();
    let mut can_match = true;
    for term in filter.0 {
        match term {
            Term::Equals { property, value } => {
                let comparison = comparison(&property, text, collection)?;
                can_match &= equals(&mut query, comparison, &property, value)?;
            }
            Term::StartsWith { property, value } => {
                match comparison(&property, text, collection)? {
                    Comparison::DisplayName => set(&mut query.display_name_starts_with, value)?,
                    Comparison::UserPrincipalName => {
                        set(&mut query.user_principal_name_starts_with, value)?;
                    }
                    _ => return Err(unsupported_filter(text, collection)),
                }
            }
            Term::Any {
                collection: names,
                value,
            } => match &collection.names {
                Names::AppId(known) if known.eq_ignore_ascii_case(&names) => {
                    // Any text may be asked for; only ids of applications are names.
                    match Uuid::try_parse(&value) {
                        Ok(app_id) => set(&mut query.app_id, app_id)?,
                        Err(_) => can_match = false,
                    }
                }
                Names::None(known) if known.eq_ignore_ascii_case(&names) => can_match = false,
                _ => return Err(unsupported_filter(text, collection)),
            },
            Term::Bound { .. } | Term::Call { .. } => {
                return Err(unsupported_filter(text, collection));
            }
        }
    }
    Ok(can_match.then_some(query))
}

/// How a property, in lower case, is compared in this collection.
fn comparison(property: &str, text: &str, collection: &Collection) -> Result<Comparison, ApiError> {
    collection
        .filters
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(property))
        .map(|(_, comparison)| *comparison)
        .ok_or_else(|| unsupported_filter(text, collection))
}

/// Adds a condition that a property has a value; false when no object has it.
fn equals(
    query: &mut ObjectQuery,
    comparison: Comparison,
    property: &str,
    value: String,
) -> Result<bool, ApiError> {
    match comparison {
        Comparison::DisplayName => set(&mut query.display_name, value)?,
        Comparison::UserPrincipalName => set(&mut query.user_principal_name, value)?,
        Comparison::MailNickname => set(&mut query.mail_nickname, value)?,
        Comparison::AppId => set(&mut query.app_id, guid(&value, "value of appId")?)?,
        Comparison::ObjectId => set(&mut query.object_ids, vec![guid(&value, "value of id")?])?,
        Comparison::Enabled => {
            let enabled = value.to_ascii_lowercase().parse().map_err(|_| {
                unsupported_query(format!(
                    "The value '{}' of {property} is neither true nor false.",
                    shorten(&value)
                ))
            })?;
            set(&mut query.enabled, enabled)?;
        }
        Comparison::Always(known) => return Ok(known.eq_ignore_ascii_case(&value)),
    }
    Ok(true)
}

fn set<T>(condition: &mut Option<T>, value: T) -> Result<(), ApiError> {
    match condition.replace(value) {
        None => Ok(()),
        Some(_) => Err(unsupported_query(
            "A property stands in the filter more than once, which is not supported.",
        )),
    }
}

fn unsupported_filter(text: &str, collection: &Collection) -> ApiError {
    let prefixes = collection
        .filters
        .iter()
        .filter(|(_, comparison)| comparison.has_prefix())
        .map(|(name, _)| format!("startswith({name}, …)"));
    let mut supported: Vec<String> = collection
        .filters
        .iter()
        .map(|(name, _)| format!("{name} eq"))
        .chain(prefixes)
        .collect();
    if let Names::AppId(names) | Names::None(names) = collection.names {
        supported.push(format!("{names}/any(x:x eq …)"));
    }
    unsupported_query(format!(
        "Unsupported or invalid query filter clause in '{}'. Supported for {} are: {}, joined by 'and'.",
        shorten(text),
        collection.name,
        supported.join(", ")
    ))
}

/// The address of the next page: path and options as they were, and where this page ended.
fn next_link<'a>(
    public_url: &str,
    segments: &[String],
    options: impl Iterator<Item = (&'a str, &'a str)>,
    last: Uuid,
) -> String {
    let mut link = public_url.to_owned();
    for segment in segments {
        link.push_str(&format!("/{}", utf8_percent_encode(segment, IN_SEGMENT)));
    }
    link.push('?');
    for (name, value) in options {
        let kept = LIST_OPTIONS
            .iter()
            .find(|known| known.eq_ignore_ascii_case(name));
        if let Some(name) = kept.filter(|name| **name != "$skiptoken") {
            let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
            link.push_str(&format!("{name}={value}&"));
        }
    }
    link.push_str(&format!("$skiptoken={last}"));
    link
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILTERS: &[(&str, Comparison)] = &[
        ("displayName", Comparison::DisplayName),
        ("appId", Comparison::AppId),
        ("id", Comparison::ObjectId),
        ("accountEnabled", Comparison::Enabled),
        ("securityEnabled", Comparison::Always("true")),
    ];

    const SERVICE_PRINCIPALS: Collection = Collection {
        name: "servicePrincipals",
        properties: &["id", "appId"],
        filters: FILTERS,
        names: Names::AppId("servicePrincipalNames"),
    };

    const APPLICATIONS: Collection = Collection {
        name: "applications",
        properties: &["id", "appId"],
        filters: FILTERS,
        names: Names::None("identifierUris"),
    };

    #[test]
    fn the_filters_of_the_azure_cli_are_understood() {
        let id = Uuid::from_u128(7);
        let parse = |text: &str| conditions(text, &SERVICE_PRINCIPALS).expect("supported");
        let query =
            parse("displayName eq 'CI bot' and startswith(displayName,'CI')").expect("some");
        assert_eq!(query.display_name.as_deref(), Some("CI bot"));
        assert_eq!(query.display_name_starts_with.as_deref(), Some("CI"));
        for text in [
            format!("servicePrincipalNames/any(c:c eq '{id}')"),
            format!("appId eq '{id}'"),
        ] {
            assert_eq!(parse(&text).expect("some").app_id, Some(id));
        }
        assert_eq!(
            parse(&format!("id eq '{id}'")).expect("some").object_ids,
            Some(vec![id])
        );
        assert!(parse("servicePrincipalNames/any(c:c eq 'http://ci-bot')").is_none());
        let query = parse("accountEnabled eq FALSE and securityEnabled eq true").expect("some");
        assert_eq!(query.enabled, Some(false));
        assert!(parse("securityEnabled eq false").is_none());
        let none = conditions("identifierUris/any(s:s eq 'http://ci-bot')", &APPLICATIONS);
        assert!(none.expect("supported").is_none());
    }

    #[test]
    fn other_filters_are_refused() {
        for text in [
            "userType eq 'Guest'",
            "displayName eq 'a' and displayName eq 'b'",
            "startswith(appId,'a')",
            "identifierUris/any(s:s eq 'a')",
            "assignedTo('a')",
            "displayName ne 'a'",
            "displayName ge 'a'",
            "accountEnabled eq 'perhaps'",
            "userPrincipalName eq 'ann@wharf.test'",
        ] {
            let error = conditions(text, &SERVICE_PRINCIPALS).expect_err(text);
            assert_eq!(error.code, "Request_UnsupportedQuery", "{text}");
        }
        let error = conditions("appId eq 'ci-bot'", &SERVICE_PRINCIPALS).expect_err("no GUID");
        assert!(error.message.contains("ci-bot"));
    }

    #[test]
    fn page_sizes_are_bounded() {
        assert_eq!(page_size("1").ok(), Some(1));
        assert_eq!(page_size("999").ok(), Some(999));
        for text in ["0", "-1", "1000", "", "x", "1.5"] {
            assert!(page_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_next_link_keeps_the_options_and_moves_on() {
        let options = [
            ("$FILTER", "startswith(displayName,'a b&c')"),
            ("$skiptoken", "old"),
            ("$top", "2"),
            ("other", "x"),
        ];
        let link = next_link(
            "https://w",
            &["v1.0".to_owned(), "applications".to_owned()],
            options.into_iter(),
            Uuid::from_u128(7),
        );
        assert_eq!(
            link,
            "https://w/v1.0/applications?$filter=startswith%28displayName%2C%27a%20b%26c%27%29&$top=2&$skiptoken=00000000-0000-0000-0000-000000000007"
        );
    }

    proptest! {
        #[test]
        fn any_filter_is_understood_or_refused(text in "\\PC{0,80}") {
            if let Err(error) = conditions(&text, &SERVICE_PRINCIPALS) {
                prop_assert!(error.code.starts_with("Request_"));
            }
        }

        #[test]
        fn names_reach_the_query_unchanged(name in "\\PC{0,40}") {
            let text = format!("displayName eq '{}'", name.replace('\'', "''"));
            let query = conditions(&text, &SERVICE_PRINCIPALS).expect("supported").expect("some");
            prop_assert_eq!(query.display_name, Some(name));
        }
    }
}
