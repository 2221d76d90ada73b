//! Every limit of the node that a user can meet, in one place. Nothing here is computed; documentation is made from it.

use std::time::Duration;

/// Longest repository name in bytes. A component of 255 bytes plus the `!` that ends a name in the layout would
/// not fit a file name.
pub const REPOSITORY_NAME_BYTES_MAXIMUM: usize = 200;

/// Longest tag in bytes (OCI Distribution, "Pulling manifests").
pub const TAG_BYTES_MAXIMUM: usize = 128;

/// Longest request path and longest query in bytes, before percent-decoding.
pub const PATH_BYTES_MAXIMUM: usize = 4096;

/// Largest manifest in bytes (OCI Distribution, "Pushing manifests", asks for at least this).
pub const MANIFEST_BYTES_MAXIMUM: u64 = 4 * 1024 * 1024;

/// Memory for the bodies of manifests that are being pushed. Those that are as small as [`MANIFEST_BYTES_SMALL`] are not counted …
pub const MANIFESTS_BYTES_AT_ONCE: usize = 64 * 1024 * 1024;

/// … others are asked to come again while there is no room …
pub const MANIFEST_BYTES_SMALL: u64 = 64 * 1024;

/// … and have to come within this.
pub const MANIFEST_BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// How many different blobs and manifests one manifest may refer to.
pub const MANIFEST_REFERENCES_MAXIMUM: usize = 10_000;

/// Longest media type in bytes (RFC 6838, section 4.2, allows 127 for each half).
pub const MEDIA_TYPE_BYTES_MAXIMUM: usize = 255;

/// How many PATCH requests with a body one upload may take.
pub const UPLOAD_CHUNKS_MAXIMUM: usize = 10_000;

/// What `OCI-Chunk-Min-Length` asks for, in bytes. Smaller chunks are taken too; they are only slower.
pub const UPLOAD_CHUNK_BYTES_ADVISED: u64 = 1024 * 1024;

/// A request body has to bring [`BODY_BYTES_MINIMUM`] each time that it was waited for this long; one that brings nothing is given up then …
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// … and one that brings fewer bytes than this, too.
pub const BODY_BYTES_MINIMUM: u64 = 64 * 1024;

/// Of a refused request's body so much is read, so that clients that send to the end before they read see the refusal: a manifest that is too
/// large, a chunk that goes elsewhere …
pub const UNREAD_BODY_BYTES_MAXIMUM: usize = 8 * 1024 * 1024;

/// … and it is not waited for longer than this.
pub const UNREAD_BODY_TIME_MAXIMUM: Duration = Duration::from_secs(1);

/// A client that takes nothing of an answer for this long is given up. A blob's bytes come in pieces of 64 KiB.
pub const READER_IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Downloads of blobs under way at once; each holds bytes that its client has not taken yet.
pub const DOWNLOADS_MAXIMUM: usize = 4096;

/// Ranges of a blob that one request may ask for, all together no longer than the blob; with more, the whole blob is sent.
pub const BLOB_RANGES_MAXIMUM: usize = 1024;

/// Repositories that are looked through for a blob to mount when the request does not say from where.
pub const MOUNT_SOURCES_MAXIMUM: usize = 100;

/// Requests of one registry that a node serves at once, downloads and uploads under way included, unless its operator says otherwise.
pub const REGISTRY_REQUESTS_MAXIMUM: u32 = 3000;

/// Requests of one caller in one registry that a node serves at once, unless its operator says otherwise.
pub const CALLER_REQUESTS_MAXIMUM: u32 = 2000;

/// With so many requests under way a node is crowded: each registry in use may have an equal share of them.
pub const CROWDED_REQUESTS: u32 = 4000;

/// Whoever is over such a limit is asked to wait this long. A rate says itself how long.
pub const TOO_BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Entries of one page of a listing, when the request names no number and at most.
pub const PAGE_ENTRIES_MAXIMUM: usize = 1000;

/// Bytes of descriptors in one page of referrers (OCI Distribution, "Listing Referrers": a response must fit a manifest).
pub const REFERRERS_PAGE_BYTES_MAXIMUM: usize = 4 * 1024 * 1024;

/// Tags or manifests of a repository whose listing is put in the order of their times; of more, it is refused: every page reads them
/// all.
pub const ORDERED_BY_TIME_MAXIMUM: usize = 20_000;

/// Tags that are shown with one manifest.
pub const MANIFEST_TAGS_SHOWN_MAXIMUM: usize = 1000;

/// The largest config of an image, in bytes, of which the platform is read and shown.
pub const CONFIG_BYTES_READ_MAXIMUM: u64 = 1024 * 1024;

/// The longest body of a change of attributes, in bytes.
pub const ATTRIBUTES_BYTES_MAXIMUM: u64 = 16 * 1024;

/// Entries of one page of `/acr/v1` when the request names no number; at most [`PAGE_ENTRIES_MAXIMUM`].
pub const ACR_PAGE_ENTRIES: usize = 100;

/// Content nothing refers to is left alone for this long, unless the operator says otherwise …
pub const GRACE_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);

/// … with at least this.
pub const GRACE_PERIOD_MINIMUM: Duration = Duration::from_secs(60 * 60);

/// Content that was touched within this is not touched again by a push that refers to it. A promise that content is there ("layer already
/// exists") is good for the grace period less this. It is half of the shortest grace period, so that nodes and tools on one store need not
/// agree about how long theirs is.
pub const TOUCH_INTERVAL: Duration = Duration::from_secs(GRACE_PERIOD_MINIMUM.as_secs() / 2);

/// An upload to which nothing was added for this long is ended.
pub const IDLE_UPLOAD_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A registry's content is collected, and its bytes counted, this often by one of the nodes …
pub const COLLECTION_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);

/// … each of which looks for registries whose turn it is this often, give or take a tenth.
pub const COLLECTION_CHECK_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// A node that collects and says nothing for this long is thought dead by the others.
pub const COLLECTION_LEASE: Duration = Duration::from_secs(10 * 60);

/// Of the time that a node collects it rests this many times what it works, so that requests keep their rate.
pub const COLLECTION_REST: u32 = 4;

/// When a manifest was last pulled is kept no finer than this …
pub const PULL_TIME_STEP: Duration = Duration::from_secs(60 * 60);

/// … is written this long after the pull at most …
pub const PULL_WRITE_INTERVAL: Duration = Duration::from_secs(60);

/// … and not at all for more manifests than this in that time, whose pulls are noted at the next one.
pub const PULLS_NOTED_MAXIMUM: usize = 20_000;

/// While an operator collects alone every change is refused. A node that saw that nobody does looks again after this …
pub const WRITE_ADMISSION_LIFETIME: Duration = Duration::from_secs(15);

/// … so that the tool waits this long before it begins: no call to the store that began before takes longer …
pub const EXCLUSIVE_WAIT: Duration = Duration::from_secs(60);

/// … and when the tool dies the refusal ends after this …
pub const EXCLUSIVE_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// … and this, by which the clocks of its machine and of the nodes' may differ.
pub const EXCLUSIVE_CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

/// Seconds a client is asked to wait when the store cannot answer or a record is fought over.
pub const RETRY_AFTER_SECONDS: u32 = 5;

/// A record's request to an object store takes at most this, and is then repeated or, if it may have changed something, asked about.
pub const STORE_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// An object store that takes no connection within this is not reached.
pub const STORE_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A transfer of a blob's bytes from or to an object store that stands still for this long is given up. A part is sent within it.
pub const STORE_SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// What can be repeated without harm at an object store is, for at most this.
pub const STORE_REPEAT_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes that one request can put into a bucket; a larger blob comes in several PATCH requests.
pub const BUCKET_CHUNK_BYTES_MAXIMUM: u64 = 200 * 1024 * 1024 * 1024;

/// How long a client that was redirected to an object store may take to ask there. A download that began goes on.
pub const SIGNED_URL_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How long an access token lasts. It dies earlier with the credential it came from.
pub const ACCESS_TOKEN_LIFETIME: Duration =
    Duration::from_secs(config_documents::REGISTRY_TOKEN_LIFETIME_SECONDS);

/// How long a refresh token lasts. It dies earlier with the credential it came from.
pub const REFRESH_TOKEN_LIFETIME: Duration =
    Duration::from_secs(config_documents::REGISTRY_REFRESH_TOKEN_LIFETIME_SECONDS);

/// Memory for verified tokens whose signature is remembered, so that it is checked once. About 20,000 tokens.
pub const REMEMBERED_TOKENS_BYTES_MAXIMUM: u64 = 8 * 1024 * 1024;

/// Scopes that one token request may name.
pub const TOKEN_SCOPES_MAXIMUM: usize = 100;

/// Largest body of a request to the token endpoint, in bytes.
pub const TOKEN_REQUEST_BYTES_MAXIMUM: usize = 64 * 1024;

/// Failed logins that one address may make for one user of a registry before it has to wait …
pub const FAILED_LOGINS_OF_USER_MAXIMUM: u32 = 10;

/// … and the time after which it may try once more.
pub const FAILED_LOGIN_OF_USER_INTERVAL: Duration = Duration::from_secs(6);

/// Failed logins that one address may make for all users together before it has to wait …
pub const FAILED_LOGINS_OF_ADDRESS_MAXIMUM: u32 = 100;

/// … and the time after which it may try once more. An address is an IPv4 address or an IPv6 network of 64 bits.
pub const FAILED_LOGIN_OF_ADDRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Wrong guesses at the secrets that somebody chose for one principal, from all addresses together, before those that it has not logged in
/// from lately have to wait …
pub const GUESSES_AT_ACCOUNT_MAXIMUM: u32 = 100;

/// … and the time after which one of them may try once more. Each node counts for itself.
pub const GUESS_AT_ACCOUNT_INTERVAL: Duration = Duration::from_secs(36);

/// How long an address from which somebody logged in with a chosen secret is known as theirs.
pub const FAMILIAR_ADDRESS_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Addresses, and pairs of address and user, whose failed logins are remembered.
pub const FAILED_LOGINS_REMEMBERED: u64 = 20_000;

/// The longest password that is looked at, in bytes, where it is no token.
pub const MAXIMUM_PASSWORD_BYTES: usize = 1024;

/// Chosen secrets that are checked at once, each with 19 MiB of memory and tens of milliseconds of a processor …
pub const CHOSEN_SECRETS_AT_ONCE: usize = 2;

/// … how long a login waits for its turn …
pub const CHOSEN_SECRET_WAIT: Duration = Duration::from_secs(5);

/// … and how many that were right are not checked again …
pub const CHOSEN_SECRETS_REMEMBERED: u64 = 10_000;

/// … for how long, while the secret does not change.
pub const CHOSEN_SECRET_REMEMBERED_FOR: Duration = Duration::from_secs(60 * 60);

/// Credentials whose use of the last hours is remembered, to be told to the control plane; more are told of at a later use.
pub const USED_CREDENTIALS_MAXIMUM: usize = 100_000;

/// How many of them one message tells of …
pub const USED_CREDENTIALS_TOLD_AT_ONCE: usize = 2_000;

/// … and how far apart such messages are.
pub const USED_CREDENTIALS_INTERVAL: Duration = Duration::from_secs(2);

/// How often a node adds what it wrote and took away to the sum of a registry's bytes that the region's nodes share; about so old is the
/// sum by which a quota admits.
pub const USAGE_INTERVAL: Duration = Duration::from_secs(5);

/// How many registries' sums one message to the control plane tells of.
pub const USAGES_TOLD_AT_ONCE: usize = 2_000;

/// A request's head must arrive within this.
pub const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection without request is closed after this.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Connections served at once.
pub const CONNECTIONS_MAXIMUM: usize = 10_000;

/// Requests under way, downloads and uploads too, may take this long to end when the node stops, unless its operator says otherwise:
/// enough for 1 GB at 17 MB/s. New ones are refused meanwhile.
pub const SHUTDOWN_TIMEOUT_SECONDS: u64 = 60;

/// When the last request is done, connections that stay open may keep a node that stops this long: their clients take the rest meanwhile.
pub const IDLE_CONNECTION_TIME: Duration = Duration::from_secs(2);

/// The shortest bound on the age of a node's configuration past which it refuses every request. Marks come every second.
pub const STALENESS_BOUND_MINIMUM: Duration = Duration::from_secs(10);

/// When two snapshots in a row do not add up, the next is asked for after this, then after twice as long and so on …
pub const SNAPSHOT_RETRY_MINIMUM: Duration = Duration::from_secs(5);

/// … and after this at most.
pub const SNAPSHOT_RETRY_MAXIMUM: Duration = Duration::from_secs(60);

/// While no control plane is connected, a node says how old its configuration is this often.
pub const AGE_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A node waits this long for a control plane, from its start, before it serves from its copy …
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// … and at least this long after it has read a large copy.
pub const JOIN_TIMEOUT_MINIMUM: Duration = Duration::from_secs(2);

/// Requests forwarded to other regions at once; each holds up to [`FORWARD_BUFFER_BYTES`] a direction.
pub const FORWARDS_MAXIMUM: usize = 1024;

/// Nodes of a registry's region that are tried, one after the other, for one request.
pub const FORWARD_NODES_TRIED_MAXIMUM: usize = 3;

/// A node of another region that does not take a connection, TLS included, within this is passed over …
pub const FORWARD_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// … and tried last for this long.
pub const FORWARD_NODE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// A forwarded request on which the other region's node neither takes nor brings a byte for this long is given up …
pub const FORWARD_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// … but the answer to one that may not be asked twice is waited for this long, once the whole body is sent: a large upload is checked first …
pub const FORWARD_COMPLETION_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// … unless the machine of that node acknowledges nothing, of the request or of the probes that are sent …
pub const FORWARD_DEAD_NODE_TIMEOUT: Duration = Duration::from_secs(60);

/// … this often, while nothing else is.
pub const FORWARD_PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// A forwarded request that only reads is put to another node, if there is one, after this without an answer.
pub const FORWARD_READ_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that one connection between nodes holds back for a side that is slow.
pub const FORWARD_BUFFER_BYTES: usize = 256 * 1024;

/// Connections between nodes that are kept without a request, for each serving thread …
pub const FORWARD_CONNECTIONS_IDLE_MAXIMUM: usize = 64;

/// … and for how long. Shorter than [`KEEP_ALIVE`], so that the side that asks ends them.
pub const FORWARD_CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the signature counts by which a forwarding node vouches for its client's address.
pub const FORWARDED_MARK_LIFETIME: Duration = Duration::from_secs(60);

/// Documents that the node cannot understand of which it tells the control plane.
pub const REJECTED_TOLD_MAXIMUM: usize = 1_000;
