//! Conditions: the one form that is understood, and the refusal of all others.

use proptest::prelude::*;
use rbac::{Action, Condition};

const READ: &str = "Microsoft.ContainerRegistry/registries/repositories/content/read";
const WRITE: &str = "Microsoft.ContainerRegistry/registries/repositories/content/write";
const METADATA: &str = "Microsoft.ContainerRegistry/registries/repositories/metadata/read";
const CATALOG: &str = "Microsoft.ContainerRegistry/registries/catalog/read";
const NAME: &str = "@Request[Microsoft.ContainerRegistry/registries/repositories:name]";

fn restricting(actions: &[&str], comparisons: &[&str]) -> String {
    let actions: Vec<String> = actions
        .iter()
        .map(|action| format!("!(ActionMatches{{'{action}'}})"))
        .collect();
    let comparisons: Vec<String> = comparisons
        .iter()
        .map(|comparison| format!("{NAME} {comparison}"))
        .collect();
    format!(
        "(({}) OR ({}))",
        actions.join(" AND "),
        comparisons.join(" OR ")
    )
}

fn holds(text: &str, action: &str, repository: Option<&str>) -> bool {
    let condition = Condition::parse(text).expect("the form that is understood");
    condition.holds(&Action::parse(action).expect("an action"), repository)
}

#[test]
fn a_name_restricts_the_actions_that_are_named() {
    let text = restricting(&[READ, METADATA], &["StringEqualsIgnoreCase 'Hello-World'"]);
    assert!(holds(&text, READ, Some("hello-world")));
    assert!(holds(&text, METADATA, Some("HELLO-world")));
    assert!(!holds(&text, READ, Some("hello-world/more")));
    assert!(!holds(&text, &READ.to_uppercase(), Some("hello")));
    assert!(holds(&text, WRITE, Some("hello")), "it is not named");
    assert!(holds(&text, CATALOG, None), "it is not named");
    assert!(!holds(&text, READ, None), "of which repository?");
}

#[test]
fn a_prefix_is_one_of_the_whole_text() {
    let text = restricting(&[READ], &["StringStartsWithIgnoreCase 'backend/'"]);
    assert!(holds(&text, READ, Some("backend/api")));
    assert!(holds(&text, READ, Some("backend/api/v1")));
    assert!(!holds(&text, READ, Some("backend")));
    assert!(!holds(&text, READ, Some("backend-api")));
    assert!(!holds(&text, READ, Some("my/backend/api")));
    assert!(!holds(&text, READ, Some("b\u{e4}ckend/api")));
    let open = restricting(&[READ], &["StringStartsWithIgnoreCase 'backend'"]);
    assert!(holds(&open, READ, Some("backend-api")));
}

#[test]
fn one_of_several_comparisons_is_enough() {
    let text = restricting(
        &[READ],
        &[
            "StringEqualsIgnoreCase 'a'",
            "StringEqualsIgnoreCase 'b'",
            "StringStartsWithIgnoreCase 'c/'",
        ],
    );
    for (name, expected) in [("a", true), ("b", true), ("c/d", true), ("d", false)] {
        assert_eq!(holds(&text, READ, Some(name)), expected, "{name}");
    }
}

#[test]
fn lines_blanks_signs_and_parentheses_do_not_matter() {
    let text = format!(
        "(\n (\n  !(ActionMatches{{'{READ}'}})\n  &&\n  (NOT ActionMatches {{ '{WRITE}' }})\n )\n || \n (\n  {NAME} stringequalsignorecase 'a'\n )\n or ({NAME} StringEqualsIgnoreCase'b')\n)"
    );
    assert!(holds(&text, WRITE, Some("b")));
    assert!(!holds(&text, WRITE, Some("c")));
    let turned = format!("{NAME} StringEqualsIgnoreCase 'a' OR !(ActionMatches{{'{READ}'}})");
    assert!(holds(&turned, READ, Some("a")));
    assert!(!holds(&turned, READ, Some("b")));
}

#[test]
fn patterns_name_all_that_they_match() {
    let every = READ.replace("content/read", "*");
    let text = restricting(&[&every], &["StringEqualsIgnoreCase 'a'"]);
    for action in [READ, WRITE, METADATA] {
        assert!(!holds(&text, action, Some("b")), "{action}");
        assert!(holds(&text, action, Some("a")), "{action}");
    }
}

#[test]
fn anything_else_is_refused_by_what_is_wrong_with_it() {
    let guard = format!("!(ActionMatches{{'{READ}'}})");
    let compare = format!("{NAME} StringEqualsIgnoreCase 'a'");
    let refused = [
        (String::new(), "at byte 0 it takes"),
        (guard.clone(), "names no repository"),
        (compare.clone(), "which actions"),
        (format!("{guard} AND {compare}"), "AND joins something else"),
        (
            format!("({guard} OR {compare}) AND ({guard} OR {compare})"),
            "AND joins something else",
        ),
        (format!("{guard} OR {guard} OR {compare}"), "more than once"),
        (
            format!("ActionMatches{{'{READ}'}} OR {compare}"),
            "without !",
        ),
        (
            format!("!({compare}) OR {compare}"),
            "negates something else",
        ),
        (
            format!("!!(ActionMatches{{'{READ}'}}) OR {compare}"),
            "negates something else",
        ),
        (
            format!("{guard} OR {NAME} StringLike 'a*'"),
            "letters, digits",
        ),
        (
            format!("{guard} OR {NAME} StringLike 'a'"),
            "the operator 'StringLike'",
        ),
        (
            format!("{guard} OR {NAME} StringNotEqualsIgnoreCase 'a'"),
            "the operator 'StringNot",
        ),
        (
            format!("{guard} OR {NAME} StringEqualsIgnoreCase ''"),
            "letters, digits",
        ),
        (
            format!("{guard} OR {NAME} StringEqualsIgnoreCase {{'a'}}"),
            "a value in quotes",
        ),
        (
            format!("{guard} OR {NAME} ForAnyOfAnyValues:StringEquals {{'a'}}"),
            "cannot be read",
        ),
        (
            format!("{guard} OR {}", compare.replace("@Request", "@Resource")),
            "the attribute '@Resource[",
        ),
        (
            format!("{guard} OR {}", compare.replace(":name", ":tag")),
            "the attribute 'Microsoft",
        ),
        (
            format!("!(ActionMatches{{'{CATALOG}'}}) OR {compare}"),
            "no action on a repository",
        ),
        (
            format!("!(ActionMatches{{'*'}}) OR {compare}"),
            "no action on a repository",
        ),
        (
            format!("!(ActionMatches{{'{READ}s'}}) OR {compare}"),
            "no action on a repository",
        ),
        (
            format!(
                "!(ActionMatches{{'{}'}}) OR {compare}",
                "Microsoft.ContainerRegistry/registries/pull/read"
            ),
            "no action on a repository",
        ),
        (
            format!("!(SubOperationMatches{{'x'}}) OR {compare}"),
            "'SubOperationMatches' is not supported",
        ),
        (
            format!("{guard} OR {compare} trailing"),
            "AND, OR or its end",
        ),
        (format!("({guard} OR {compare}"), "')'"),
        (format!("{guard} OR {compare}'"), "cannot be read"),
        (
            format!(
                "{}{guard}{} OR {compare}",
                "(".repeat(9_000),
                ")".repeat(9_000)
            ),
            "8192 are the most",
        ),
        (
            format!(
                "{}{guard}{} OR {compare}",
                "(".repeat(3_000),
                ")".repeat(3_000)
            ),
            "nested deeper",
        ),
        (
            format!("{}{guard} OR {compare}", "!".repeat(3_000)),
            "nested deeper",
        ),
    ];
    for (text, problem) in refused {
        let error = Condition::parse(&text).expect_err(&text);
        assert!(error.problem.contains(problem), "{text}: {}", error.problem);
        assert!(error.to_string().contains("StringStartsWithIgnoreCase"));
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
        prop_assert!(Condition::parse(&text).is_err());
    }

    #[test]
    fn a_mutilated_condition_is_refused_or_kept_as_it_is(at in any::<prop::sample::Index>(), letter in any::<char>()) {
        let text = restricting(&[READ, WRITE], &["StringEqualsIgnoreCase 'a'", "StringStartsWithIgnoreCase 'b/'"]);
        let mut letters: Vec<char> = text.chars().collect();
        let at = at.index(letters.len());
        letters[at] = letter;
        let text: String = letters.into_iter().collect();
        if let Ok(condition) = Condition::parse(&text) {
            prop_assert_eq!(condition.as_str(), &text);
            let json = serde_json::to_string(&condition).expect("a string");
            prop_assert_eq!(serde_json::from_str::<Condition>(&json).expect("the same"), condition);
        }
    }
}
