//! Limits that users can see, each in one place.

use std::num::NonZeroU32;
use std::time::Duration;

use config_documents::{REGISTRY_REFRESH_TOKEN_LIFETIME_SECONDS, REGISTRY_TOKEN_LIFETIME_SECONDS};

/// The longest request body that is read: 1 MiB. No ARM or directory request here comes near it.
pub(crate) const MAXIMUM_BODY_BYTES: usize = 1024 * 1024;

/// Parameters of a form that the token endpoint reads. Clients send about ten.
pub(crate) const MAXIMUM_FORM_PARAMETERS: usize = 32;

/// How long a client may take to send a body.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the rest of a refused request's body is read, so that the client reads the refusal.
pub(crate) const UNREAD_BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the database may take over a decision, and over an operation, before the client is told to come back.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long writing the row of a refused request into the activity log may take before it goes to the process's own log instead.
pub(crate) const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the key-encryption-key file is looked at, and the database asked which of its keys is to seal.
pub(crate) const KEY_FILE_INTERVAL: Duration = Duration::from_secs(2);

/// Sealed values that are sealed anew in one transaction.
pub(crate) const RESEALED_AT_ONCE: i64 = 500;

/// How long rows of the activity log are kept, unless the operator says otherwise, in days.
pub(crate) const ACTIVITY_RETENTION_DAYS: u32 = 90;

/// How long an operation waits for nodes before it answers `pending`, unless the operator says otherwise, in seconds.
pub(crate) const PROPAGATION_TIMEOUT_SECONDS: u64 = 2;

/// How often old rows of the activity log are forgotten, and how many in one statement.
pub(crate) const ACTIVITY_FORGET_INTERVAL: Duration = Duration::from_secs(60);
pub(crate) const ACTIVITY_FORGET_ROWS: i64 = 5000;

/// How long sign-ins are gathered before they are written, and how many different ones at most; the rest of a moment is only counted.
pub(crate) const SIGN_IN_RECORD_INTERVAL: Duration = Duration::from_millis(500);
pub(crate) const MAXIMUM_GATHERED_SIGN_INS: usize = 5000;

/// How long attempts to sign in are gathered that name nobody who is known, and from how many addresses, or for how many reasons, apart; the
/// rest of that time shares rows without an address. Nothing bounds how many strangers make.
pub(crate) const STRANGERS_RECORD_INTERVAL: Duration = Duration::from_secs(60);
pub(crate) const MAXIMUM_GATHERED_STRANGERS: usize = 100;

/// Refused requests of one caller that get a row each in the activity log, a minute and at once; of more, those with the same operation and
/// error share one.
pub(crate) const RECORDED_REFUSALS_OF_CALLER: NonZeroU32 = NonZeroU32::new(60).expect("not zero");

/// How long those that share one are gathered, and how many different ones at most; the rest is in the process's own log.
pub(crate) const REFUSALS_RECORD_INTERVAL: Duration = Duration::from_secs(60);
pub(crate) const MAXIMUM_GATHERED_REFUSALS: usize = 1000;

/// Events on one page of the activity log.
pub(crate) const ACTIVITY_PAGE_SIZE: i64 = 200;

/// How long a background task waits for the database before it takes it for away. No shorter than a statement waits for a lock.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long requests under way, and handing over the nodes' streams, may take when the process is told to end.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the last answers may take to leave then.
pub(crate) const FLUSH_TIME: Duration = Duration::from_millis(250);

/// How long a client may take to send a request's head.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest path that is looked at, in characters; a longer one is refused without being parsed.
pub(crate) const MAXIMUM_PATH_CHARACTERS: usize = 4096;

/// The longest `x-ms-client-request-id` that is logged and sent back, in characters.
pub(crate) const MAXIMUM_CLIENT_REQUEST_ID_CHARACTERS: usize = 128;

/// The longest message of an error, in characters; of a longer one the middle is left out.
pub(crate) const MAXIMUM_MESSAGE_CHARACTERS: usize = 1000;

/// How many faults of one request are named one by one.
pub(crate) const MAXIMUM_FAULTS: usize = 50;

/// Items on one page of a list, and the greatest `$top`.
pub(crate) const PAGE_SIZE: i64 = 1000;

/// Seconds after which a client is told to come back when the database is away.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 2;

/// How long an access token is good, if the secret that it was issued for is.
pub(crate) const TOKEN_LIFETIME: time::Duration = time::Duration::hours(1);

/// The same of one for registries, which az and the SDKs only exchange. They go on with one at hand until five minutes before its end, also
/// when its credential is gone, because a registry cannot ask them for a new one as the control plane does. It is not shorter than that:
/// az would write its files anew for each command, and several at once get into each other's way.
pub(crate) const REGISTRY_AUDIENCE_TOKEN_LIFETIME: time::Duration = time::Duration::minutes(10);

/// The longest access token that is looked at. Those issued here have about 800 bytes.
pub(crate) const MAXIMUM_TOKEN_BYTES: usize = 8 * 1024;

/// Memory for tokens whose signature was verified.
pub(crate) const VERIFIED_TOKENS_BYTES: u64 = 8 * 1024 * 1024;

/// How long something is good, at most, that nodes gave for an access token: a refresh token, and an access token for that at its end. Nodes
/// know the key that signed the first of these for as long, so that all of them die when it is revoked.
pub(crate) const EXCHANGED_TOKEN_LIFETIME: time::Duration = time::Duration::seconds(
    (REGISTRY_REFRESH_TOKEN_LIFETIME_SECONDS + REGISTRY_TOKEN_LIFETIME_SECONDS) as i64,
);

/// How often the keys that sign access tokens are read again: after twice as long no control plane takes a key that was revoked.
pub(crate) const SIGN_IN_KEYS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a new key that signs access tokens is shown before it signs: longer than anybody may keep the keys that were shown before.
pub(crate) const SIGN_IN_KEY_LEAD: time::Duration = time::Duration::minutes(10);

/// After how many readings of the keys failed sign-ins and sessions that are over are forgotten.
pub(crate) const FORGET_ROUNDS: u32 = 60;

/// Failed sign-ins a minute, and at once, from one address in the name of one client.
pub(crate) const SIGN_IN_FAILURES_OF_CLIENT: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

/// Failed sign-ins a minute, and at once, from one address.
pub(crate) const SIGN_IN_FAILURES_OF_ADDRESS: NonZeroU32 = NonZeroU32::new(60).expect("not zero");

/// Addresses whose failures are counted apart, those beyond count as one; and pairs of address and client.
pub(crate) const SIGN_IN_FAILURE_ADDRESSES: usize = 20_000;

/// Failed sign-ins an hour, and at once, in the name of one person, or with secrets of one application that somebody chose, from addresses
/// from which that one has not signed in lately. Only for those: what was generated nobody guesses.
pub(crate) const SIGN_IN_FAILURES_OF_ACCOUNT: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// Passwords, and secrets that somebody chose, that are checked or set at once: each takes 19 MiB and tens of milliseconds of a core.
pub(crate) const SLOW_WORK_AT_ONCE: usize = 2;

/// How many wait for that: about as many as can have their turn in time.
pub(crate) const SLOW_WORK_QUEUE: usize = 100;

/// How long a sign-in, or a new password, waits for its turn.
pub(crate) const SLOW_WORK_WAIT: Duration = Duration::from_secs(5);

/// The longest password, and the longest secret of an application, that is looked at, in bytes.
pub(crate) const MAXIMUM_PASSWORD_BYTES: usize = 1024;

/// Chosen secrets that were right are remembered, so that they are not checked slowly each time: at most so many.
pub(crate) const REMEMBERED_SECRETS: u64 = 20_000;

/// How long a chosen secret that was right is remembered.
pub(crate) const REMEMBERED_SECRET_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How long an address from which somebody signed in is known as theirs.
pub(crate) const FAMILIAR_ADDRESS_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a refresh token is good when it is not used; the one that follows it is good for as long again.
pub(crate) const REFRESH_TOKEN_LIFETIME: time::Duration = time::Duration::days(14);

/// How long a person's session lasts, however often it is refreshed.
pub(crate) const SESSION_LIFETIME: time::Duration = time::Duration::days(90);

/// How long a refresh token that was used may be used again, as long as none that followed was: several processes share one, and answers get
/// lost.
pub(crate) const REFRESH_TOKEN_LEEWAY: time::Duration = time::Duration::seconds(30);

/// How far ahead the end of an external issuer's token may lie.
pub(crate) const FEDERATED_TOKEN_LIFETIME: time::Duration = time::Duration::hours(24);

/// How far ahead the end of an assertion may lie that an application signs with a certificate.
pub(crate) const ASSERTION_LIFETIME: time::Duration = time::Duration::hours(1);

/// The longest client assertion that is looked at.
pub(crate) const MAXIMUM_ASSERTION_BYTES: usize = 16 * 1024;

/// External issuers whose keys are kept, and as many that never answered, of which only this is known.
pub(crate) const ISSUERS: u64 = 1000;

/// How long an external issuer may take over each of its two answers.
pub(crate) const ISSUER_FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer of an external issuer that is read.
pub(crate) const MAXIMUM_ISSUER_ANSWER_BYTES: usize = 256 * 1024;

/// Keys of an external issuer that are looked at.
pub(crate) const MAXIMUM_ISSUER_KEYS: usize = 100;

/// Requests at once to external issuers that have answered before, and as many to those that never did.
pub(crate) const ISSUER_FETCHES: usize = 4;

/// Of these, requests at once to one host.
pub(crate) const ISSUER_FETCHES_OF_HOST: usize = 1;

/// How long such a request waits for its turn.
pub(crate) const ISSUER_TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an external issuer that answers is asked at most, as when a token names a key that it has not shown.
pub(crate) const ISSUER_FETCH_INTERVAL: time::Duration = time::Duration::minutes(1);

/// When one that did not answer is asked again at the earliest: twice as late after each further failure, up to the second.
pub(crate) const ISSUER_RETRY_INTERVAL: time::Duration = time::Duration::seconds(5);
pub(crate) const MAXIMUM_ISSUER_RETRY_INTERVAL: time::Duration = time::Duration::minutes(5);

/// How old its keys may be before it is asked whether they are still so.
pub(crate) const ISSUER_KEYS_REFRESH: time::Duration = time::Duration::minutes(5);

/// How long its keys are used while it does not answer.
pub(crate) const ISSUER_KEYS_LIFETIME: time::Duration = time::Duration::hours(1);

/// Applications of one principal that were made without administering applications: by itself, and by applications that count in its quota.
pub(crate) const MAXIMUM_SELF_SERVICE_APPLICATIONS: i64 = 250;

/// Secrets of an application and its service principal together.
pub(crate) const MAXIMUM_SECRETS: i64 = 100;

/// Of these, secrets that somebody chose: each has to be checked slowly when another one is shown.
pub(crate) const MAXIMUM_CHOSEN_SECRETS: i64 = 4;

/// Certificates of an application and its service principal together.
pub(crate) const MAXIMUM_CERTIFICATES: i64 = 20;

/// Federated credentials of an application, the audiences of each, and the longest of their names and other texts, in characters.
pub(crate) const MAXIMUM_FEDERATED_CREDENTIALS: i64 = 20;
pub(crate) const MAXIMUM_FEDERATED_AUDIENCES: usize = 5;
pub(crate) const MAXIMUM_FEDERATED_NAME_CHARACTERS: usize = 120;
pub(crate) const MAXIMUM_FEDERATED_TEXT_CHARACTERS: usize = 600;

/// The longest display name in the directory, in characters.
pub(crate) const MAXIMUM_DISPLAY_NAME_CHARACTERS: usize = 256;

/// The longest description in the directory, in characters.
pub(crate) const MAXIMUM_DESCRIPTION_CHARACTERS: usize = 1024;

/// The longest mail nickname of a person or group, in characters.
pub(crate) const MAXIMUM_MAIL_NICKNAME_CHARACTERS: usize = 64;

/// The longest user principal name, in characters.
pub(crate) const MAXIMUM_USER_PRINCIPAL_NAME_CHARACTERS: usize = 113;

/// The shortest and the longest password of a person, in characters.
pub(crate) const MINIMUM_PASSWORD_CHARACTERS: usize = 12;
pub(crate) const MAXIMUM_PASSWORD_CHARACTERS: usize = 256;

/// The shortest and the longest secret of an application that its caller chose, in characters.
pub(crate) const MINIMUM_CHOSEN_SECRET_CHARACTERS: usize = 16;
pub(crate) const MAXIMUM_CHOSEN_SECRET_CHARACTERS: usize = 256;

/// Groups that a principal is a direct member of.
pub(crate) const MAXIMUM_DIRECT_GROUPS: i64 = 2000;

/// Owners of an object.
pub(crate) const MAXIMUM_OWNERS: i64 = 100;

/// Members, and owners, that a new group is given at once.
pub(crate) const MAXIMUM_FIRST_REFERENCES: usize = 20;

/// Objects on one page of a list of the directory, unless `$top` says otherwise.
pub(crate) const DIRECTORY_PAGE_SIZE: i64 = 100;

/// The greatest `$top` in the directory.
pub(crate) const MAXIMUM_DIRECTORY_PAGE_SIZE: i64 = 999;

/// Object ids in one request to `getByIds`.
pub(crate) const MAXIMUM_OBJECT_IDS: usize = 1000;

/// Database connections of each thread that serves requests. Few, because Postgres does not get faster with more.
pub(crate) const WORKER_CONNECTIONS: u32 = 6;

/// The longest description of a role assignment or a custom role, in characters.
pub(crate) const MAXIMUM_ROLE_DESCRIPTION_CHARACTERS: usize = 1024;

/// The longest name of a custom role, in characters.
pub(crate) const MAXIMUM_ROLE_NAME_CHARACTERS: usize = 512;

/// Custom roles of an installation.
pub(crate) const MAXIMUM_CUSTOM_ROLES: i64 = 5000;

/// Patterns of actions in one custom role, all four lists together: every decision about somebody who holds it looks at them.
pub(crate) const MAXIMUM_ROLE_PATTERNS: usize = 1000;

/// The longest pattern, in characters.
pub(crate) const MAXIMUM_ROLE_PATTERN_CHARACTERS: usize = 256;

/// Scopes at which one custom role can be assigned.
pub(crate) const MAXIMUM_ASSIGNABLE_SCOPES: usize = 100;

/// The longest times, in days, and the highest number of manifests to keep that a registry's retention policy may name.
pub(crate) const RETENTION_DAYS_MAXIMUM: u32 = 365;
pub(crate) const RETENTION_KEPT_MAXIMUM: u32 = 100_000;
