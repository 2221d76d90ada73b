//! Finds the operation of a request: by method and path, literal segments compared whatever their case, empty segments passed over.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::http::Method;
use percent_encoding::percent_decode_str;

use super::{Operation, Protocol};

/// The table of operations, indexed for look-up.
pub struct Router {
    operations: Vec<Arc<Operation>>,
    by_length: HashMap<usize, Vec<Route>>,
}

struct Route {
    segments: Vec<Segment>,
    operation: Arc<Operation>,
}

enum Segment {
    Literal(String),
    Parameter(String),
}

/// What a path leads to.
pub(crate) enum Found {
    Operation {
        operation: Arc<Operation>,
        parameters: Vec<(String, String)>,
    },
    /// The path is known, with these methods only.
    OtherMethods(Vec<Method>),
    Nothing,
}

impl Router {
    pub fn new(operations: Vec<Operation>) -> Self {
        let operations: Vec<Arc<Operation>> = operations.into_iter().map(Arc::new).collect();
        let mut by_length: HashMap<usize, Vec<Route>> = HashMap::new();
        for operation in &operations {
            let segments: Vec<Segment> = arm::split_path(&operation.path)
                .map(Segment::parse)
                .collect();
            let route = Route {
                segments,
                operation: Arc::clone(operation),
            };
            by_length
                .entry(route.segments.len())
                .or_default()
                .push(route);
        }
        Self {
            operations,
            by_length,
        }
    }

    pub fn operations(&self) -> &[Arc<Operation>] {
        &self.operations
    }

    /// How many segments, from the first on, begin the path of an operation of a protocol.
    pub(crate) fn known_segments(&self, protocol: Protocol, segments: &[String]) -> usize {
        let known = |route: &Route| {
            let pairs = route.segments.iter().zip(segments);
            pairs
                .take_while(|(expected, segment)| route.matches(expected, segment))
                .count()
        };
        self.by_length
            .values()
            .flatten()
            .filter(|route| route.operation.protocol == protocol)
            .map(known)
            .max()
            .unwrap_or_default()
    }

    /// Looks decoded segments up. Among several routes of one path, literal segments win over parameters.
    pub(crate) fn find(&self, method: &Method, segments: &[String]) -> Found {
        let mut others: Vec<(usize, Method)> = Vec::new();
        let mut best: Option<(usize, &Route)> = None;
        for route in self.by_length.get(&segments.len()).into_iter().flatten() {
            let Some(literals) = route.literals_matched(segments) else {
                continue;
            };
            if route.operation.method == *method {
                if best.is_none_or(|(most, _)| literals > most) {
                    best = Some((literals, route));
                }
            } else {
                others.push((literals, route.operation.method.clone()));
            }
        }
        if let Some((literals, route)) = best
            && others.iter().all(|(other, _)| *other <= literals)
        {
            return Found::Operation {
                operation: Arc::clone(&route.operation),
                parameters: route.parameters(segments),
            };
        }
        match others.iter().map(|(literals, _)| *literals).max() {
            None => Found::Nothing,
            Some(most) => Found::OtherMethods(
                others
                    .into_iter()
                    .filter(|(literals, _)| *literals == most)
                    .map(|(_, method)| method)
                    .collect(),
            ),
        }
    }
}

impl Route {
    /// How many literal segments match; `None` when one does not.
    fn literals_matched(&self, segments: &[String]) -> Option<usize> {
        let mut literals = 0;
        for (expected, segment) in self.segments.iter().zip(segments) {
            if !self.matches(expected, segment) {
                return None;
            }
            literals += usize::from(matches!(expected, Segment::Literal(_)));
        }
        Some(literals)
    }

    fn matches(&self, expected: &Segment, segment: &str) -> bool {
        match expected {
            Segment::Literal(literal) => literal.eq_ignore_ascii_case(segment),
            // In Microsoft Graph's paths, these are words of OData's and no names.
            Segment::Parameter(_) => {
                self.operation.protocol != Protocol::Graph || !segment.starts_with('$')
            }
        }
    }

    fn parameters(&self, segments: &[String]) -> Vec<(String, String)> {
        self.segments
            .iter()
            .zip(segments)
            .filter_map(|(expected, segment)| match expected {
                Segment::Parameter(name) => Some((name.clone(), segment.clone())),
                Segment::Literal(_) => None,
            })
            .collect()
    }
}

impl Segment {
    fn parse(text: &str) -> Self {
        match text
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        {
            Some(name) => Self::Parameter(name.to_owned()),
            None => Self::Literal(text.to_owned()),
        }
    }
}

/// Splits a raw path into decoded segments; `None` when it is not UTF-8 after decoding.
pub(crate) fn decode_segments(path: &str) -> Option<Vec<String>> {
    arm::split_path(path)
        .map(|segment| {
            percent_decode_str(segment)
                .decode_utf8()
                .ok()
                .map(std::borrow::Cow::into_owned)
        })
        .collect()
}

/// Splits a raw query into decoded pairs; `+` stands for a blank, as clients of ARM send both.
pub(crate) fn decode_query(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_path_and_query_decode_or_are_refused(path in "[ -~]{0,80}", query in "[ -~]{0,80}") {
            if let Some(segments) = decode_segments(&path) {
                prop_assert!(segments.iter().all(|segment| !segment.is_empty()));
            }
            let _ = decode_query(&query);
        }
    }
}
