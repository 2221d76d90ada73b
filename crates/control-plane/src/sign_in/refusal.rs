//! Why no access token is issued: RFC 6749's errors with the numbers that people look up, and how often each outcome was.

use std::time::Duration;

use actix_web::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::json;
use service::metrics::Metrics;
use uuid::Uuid;

use crate::front_door::{Answer, Request};
use crate::slow_work::Busy;

/// Why nobody signs in with a browser, or with a code, and how people do.
pub(super) const NO_SIGN_IN_PAGES: &str = "There are no sign-in pages here yet. Sign in with user name and password: az login --username NAME --password PASSWORD; or as a service principal: az login --service-principal.";

/// How many characters of what a client sent are shown to it again.
const SHOWN_CHARACTERS: usize = 100;

/// How an attempt to sign in ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    InvalidRequest,
    UnknownClient,
    WrongSecret,
    WrongPassword,
    /// A certificate's or an external issuer's assertion that signs nobody in.
    WrongAssertion,
    /// Of an external issuer no keys can be had.
    IssuerUnavailable,
    WrongRefreshToken,
    /// Somebody used a refresh token a second time.
    RefreshTokenReused,
    /// The credential that was shown is over, or not there yet.
    SecretNotInForce,
    PasswordToBeChanged,
    Disabled,
    Limited,
    Busy,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::InvalidRequest => "invalid_request",
            Self::UnknownClient => "unknown_client",
            Self::WrongSecret => "wrong_secret",
            Self::WrongPassword => "wrong_password",
            Self::WrongAssertion => "wrong_assertion",
            Self::IssuerUnavailable => "issuer_unavailable",
            Self::WrongRefreshToken => "wrong_refresh_token",
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::SecretNotInForce => "secret_not_in_force",
            Self::PasswordToBeChanged => "password_to_be_changed",
            Self::Disabled => "disabled",
            Self::Limited => "limited",
            Self::Busy => "busy",
        }
    }

    /// Whether anybody can have it as often as they like, without having named somebody who is known.
    pub(super) fn is_of_anybody(self) -> bool {
        matches!(
            self,
            Self::InvalidRequest | Self::UnknownClient | Self::Limited | Self::Busy
        )
    }

    /// Whether it may have been a guess. Nobody guesses a signature, and whoever sets up a certificate or a federated credential has to see
    /// what is wrong.
    pub(super) fn is_guess(self) -> bool {
        matches!(
            self,
            Self::UnknownClient | Self::WrongSecret | Self::WrongPassword | Self::WrongRefreshToken
        )
    }
}

/// What is counted of sign-ins.
pub(super) struct SignInMetrics {
    outcomes: Family<OutcomeLabel, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl SignInMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            outcomes: metrics.counters(
                "wharfinger_sign_ins",
                "Requests for an access token, by outcome",
            ),
        }
    }

    pub(super) fn record(&self, outcome: Outcome) {
        let outcome = outcome.as_str();
        self.outcomes.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

/// Why no token is issued, as RFC 6749 (5.2) says it and with the number that people look up.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: &'static str,
    pub(super) number: u32,
    pub(super) message: String,
    pub(super) outcome: Outcome,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(
        outcome: Outcome,
        status: StatusCode,
        error: &'static str,
        number: u32,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            error,
            number,
            message: message.into(),
            outcome,
            retry_after: None,
        }
    }

    pub(super) fn invalid(error: &'static str, number: u32, message: impl Into<String>) -> Self {
        Self::new(
            Outcome::InvalidRequest,
            StatusCode::BAD_REQUEST,
            error,
            number,
            message,
        )
    }

    pub(super) fn missing(parameter: &str) -> Self {
        Self::invalid(
            "invalid_request",
            900_144,
            format!("The request body must contain the following parameter: '{parameter}'."),
        )
    }

    pub(super) fn wrong_secret(client_id: Uuid, reason: &str) -> Self {
        Self::new(
            Outcome::WrongSecret,
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            7_000_215,
            format!(
                "Invalid client secret provided: {reason}. Send the value of a secret of the application '{client_id}', not the secret's id."
            ),
        )
    }

    pub(super) fn unknown_client(client_id: &str) -> Self {
        let client_id = shorten(client_id);
        Self::new(
            Outcome::UnknownClient,
            StatusCode::BAD_REQUEST,
            "unauthorized_client",
            700_016,
            format!(
                "The application with identifier '{client_id}' was not found in the directory of this tenant."
            ),
        )
    }

    /// A grant (a password, a refresh token) that is not good.
    pub(super) fn invalid_grant(outcome: Outcome, number: u32, message: impl Into<String>) -> Self {
        Self::new(
            outcome,
            StatusCode::BAD_REQUEST,
            "invalid_grant",
            number,
            message,
        )
    }

    /// An assertion that signs nobody in.
    pub(super) fn wrong_assertion(number: u32, message: impl Into<String>) -> Self {
        Self::new(
            Outcome::WrongAssertion,
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            number,
            message,
        )
    }

    pub(super) fn limited(wait: Duration) -> Self {
        Self::later(
            Outcome::Limited,
            StatusCode::TOO_MANY_REQUESTS,
            90_055,
            "Too many sign-ins have failed here. A generated secret that is right is accepted at any time.",
            wait,
        )
    }

    /// Too much else is being checked.
    fn busy() -> Self {
        Self::later(
            Outcome::Busy,
            StatusCode::SERVICE_UNAVAILABLE,
            90_033,
            "Too many passwords are being checked.",
            Duration::from_secs(2),
        )
    }

    /// `what` ends with a full stop.
    pub(super) fn later(
        outcome: Outcome,
        status: StatusCode,
        number: u32,
        what: &str,
        wait: Duration,
    ) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let mut refusal = Self::new(
            outcome,
            status,
            "temporarily_unavailable",
            number,
            format!("{what} Try again in {seconds} seconds."),
        );
        refusal.retry_after = Some(Duration::from_secs(seconds.max(1)));
        refusal
    }

    /// The same request may be right in a moment: MSAL would answer it for a minute itself, as it does with any 400 that does not say when.
    pub(super) fn may_soon_be_right(mut self) -> Self {
        self.retry_after = Some(Duration::ZERO);
        self
    }

    pub(super) fn answer(&self, request: &Request, public_url: &str) -> Answer {
        let body = json!({
            "error": self.error,
            "error_description": format!("AADSTS{}: {}", self.number, self.message),
            "error_codes": [self.number],
            "timestamp": arm::format_time(request.now),
            "trace_id": request.request_id,
            "correlation_id": request.correlation_id,
        });
        let mut answer = Answer::empty(self.status);
        answer.body = Some(body.to_string());
        if self.status == StatusCode::UNAUTHORIZED {
            answer = answer.header("www-authenticate", format!("Basic realm=\"{public_url}\""));
        }
        if let Some(wait) = self.retry_after {
            answer = answer.header("retry-after", wait.as_secs().to_string());
        }
        answer
    }
}

impl From<Busy> for Refusal {
    fn from(_: Busy) -> Self {
        Self::busy()
    }
}

/// What is repeated of what a client sent; a secret may stand in the wrong field.
pub(super) fn shorten(text: &str) -> String {
    credentials::without_secrets(text)
        .chars()
        .take(SHOWN_CHARACTERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_whole_seconds_and_never_zero() {
        let seconds = |wait| {
            Refusal::limited(wait)
                .retry_after
                .map(|wait| wait.as_secs())
        };
        assert_eq!(seconds(Duration::ZERO), Some(1));
        assert_eq!(seconds(Duration::from_millis(1_001)), Some(2));
    }
}
