//! The grammar of conditions: what is said, without a judgement of whether it is supported.

use super::InvalidCondition;
use crate::limits::CONDITION_DEPTH_MAXIMUM;

/// A condition as it is written. Alternatives within alternatives are one list, and so with AND.
#[derive(Debug)]
pub(super) enum Expression {
    Any(Vec<Expression>),
    All(Vec<Expression>),
    Not(Box<Expression>),
    ActionMatches(String),
    Compare {
        attribute: String,
        operator: String,
        value: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    Open,
    Close,
    OpenBrace,
    CloseBrace,
    Not,
    And,
    Or,
    Text(&'a str),
    Attribute(&'a str),
    Word(&'a str),
}

/// Reads a whole condition.
///
/// # Errors
/// The first place where it cannot be read.
pub(super) fn parse(text: &str) -> Result<Expression, InvalidCondition> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        depth: 0,
        length: text.len(),
    };
    let expression = parser.alternatives()?;
    match parser.peek() {
        None => Ok(expression),
        Some(_) => Err(parser.unexpected("AND, OR or its end")),
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token<'_>)>, InvalidCondition> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        if first.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let (token, length) = token(&text[at..])
            .ok_or_else(|| InvalidCondition::new(format!("it cannot be read from byte {at} on")))?;
        tokens.push((at, token));
        at += length;
    }
    Ok(tokens)
}

/// The token that a text begins with, and how many bytes it takes.
fn token(rest: &str) -> Option<(Token<'_>, usize)> {
    for (sign, token) in [
        ("(", Token::Open),
        (")", Token::Close),
        ("{", Token::OpenBrace),
        ("}", Token::CloseBrace),
        ("&&", Token::And),
        ("||", Token::Or),
        ("!", Token::Not),
    ] {
        if rest.starts_with(sign) {
            return Some((token, sign.len()));
        }
    }
    if let Some(quoted) = rest.strip_prefix('\'') {
        let text = &quoted[..quoted.find('\'')?];
        return Some((Token::Text(text), text.len() + 2));
    }
    if rest.starts_with('@') {
        let end = rest.find(']')? + 1;
        return Some((Token::Attribute(&rest[..end]), end));
    }
    let end = rest
        .find(|letter: char| !letter.is_ascii_alphanumeric())
        .unwrap_or(rest.len());
    let word = &rest[..end];
    let token = match word.to_ascii_uppercase().as_str() {
        "" => return None,
        "AND" => Token::And,
        "OR" => Token::Or,
        "NOT" => Token::Not,
        _ => Token::Word(word),
    };
    Some((token, end))
}

struct Parser<'a> {
    tokens: Vec<(usize, Token<'a>)>,
    next: usize,
    depth: usize,
    length: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&Token<'a>> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn take(&mut self, wanted: &Token<'_>) -> bool {
        let is_there = self.peek() == Some(wanted);
        self.next += usize::from(is_there);
        is_there
    }

    fn unexpected(&self, wanted: &str) -> InvalidCondition {
        let at = self
            .tokens
            .get(self.next)
            .map_or(self.length, |(at, _)| *at);
        InvalidCondition::new(format!("at byte {at} it takes {wanted}"))
    }

    fn expect(&mut self, wanted: &Token<'_>, shown: &str) -> Result<(), InvalidCondition> {
        if self.take(wanted) {
            Ok(())
        } else {
            Err(self.unexpected(shown))
        }
    }

    /// Joined by OR, which binds less than AND.
    fn alternatives(&mut self) -> Result<Expression, InvalidCondition> {
        let mut list = Vec::new();
        loop {
            match self.conjunction()? {
                Expression::Any(inner) => list.extend(inner),
                one => list.push(one),
            }
            if !self.take(&Token::Or) {
                return Ok(one_or(list, Expression::Any));
            }
        }
    }

    fn conjunction(&mut self) -> Result<Expression, InvalidCondition> {
        let mut list = Vec::new();
        loop {
            match self.term()? {
                Expression::All(inner) => list.extend(inner),
                one => list.push(one),
            }
            if !self.take(&Token::And) {
                return Ok(one_or(list, Expression::All));
            }
        }
    }

    fn term(&mut self) -> Result<Expression, InvalidCondition> {
        self.depth += 1;
        if self.depth > CONDITION_DEPTH_MAXIMUM {
            return Err(InvalidCondition::new(format!(
                "it is nested deeper than {CONDITION_DEPTH_MAXIMUM} times"
            )));
        }
        let expression = if self.take(&Token::Not) {
            Expression::Not(Box::new(self.term()?))
        } else if self.take(&Token::Open) {
            let inner = self.alternatives()?;
            self.expect(&Token::Close, "')'")?;
            inner
        } else {
            self.statement()?
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn statement(&mut self) -> Result<Expression, InvalidCondition> {
        match self.peek().cloned() {
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("ActionMatches") => {
                self.next += 1;
                self.expect(&Token::OpenBrace, "'{'")?;
                let action = self.text("an action in quotes")?;
                self.expect(&Token::CloseBrace, "'}'")?;
                Ok(Expression::ActionMatches(action))
            }
            Some(Token::Attribute(attribute)) => {
                self.next += 1;
                let Some(Token::Word(operator)) = self.peek().cloned() else {
                    return Err(self.unexpected("an operator"));
                };
                self.next += 1;
                let value = self.text("a value in quotes")?;
                Ok(Expression::Compare {
                    attribute: attribute_name(attribute),
                    operator: operator.to_owned(),
                    value,
                })
            }
            Some(Token::Word(word)) => {
                Err(InvalidCondition::new(format!("'{word}' is not supported")))
            }
            _ => Err(self.unexpected("'(', '!', ActionMatches or an attribute")),
        }
    }

    fn text(&mut self, shown: &str) -> Result<String, InvalidCondition> {
        match self.peek().cloned() {
            Some(Token::Text(text)) => {
                self.next += 1;
                Ok(text.to_owned())
            }
            _ => Err(self.unexpected(shown)),
        }
    }
}

fn one_or(mut list: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    match list.len() {
        1 => list.remove(0),
        _ => join(list),
    }
}

/// What stands in `@Request[…]`; of another source (`@Resource[…]`) the whole text, which is the name of nothing that is known.
fn attribute_name(attribute: &str) -> String {
    let source = "@request[";
    let is_of_the_request = attribute
        .get(..source.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(source));
    let name = if is_of_the_request {
        attribute[source.len()..].trim_end_matches(']').trim()
    } else {
        attribute
    };
    name.to_owned()
}
