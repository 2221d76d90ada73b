//! The requirements of the OCI Distribution Specification 1.1, section by section: each is a function named after what it requires, and
//! is held against every kind of store, through one node and through two nodes that take turns request by request, so that nothing a
//! requirement builds on may live in a node.
//!
//! In memory and on a directory each requirement is a test. On S3 and Azure, whose test servers are slow, those of a section run in
//! one test, each in a registry of its own, and the test names the ones that failed.

mod content_discovery;
mod content_management;
mod nodes;
mod pull;
mod push;
mod push_manifests;
mod ranges;
mod referrers;

use std::panic::AssertUnwindSafe;

use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use super::harness::Registry;
use super::stores::StoreKind;

/// A requirement, asked of a registry that is empty.
type Requirement = fn(Registry) -> LocalBoxFuture<'static, ()>;

/// Requirements that run at once on a store whose server is slow.
const AT_ONCE: usize = 4;

/// Makes the tests of a section: one a requirement, store and number of nodes where stores are fast, else one a store and number of nodes.
macro_rules! requirements {
    (of several nodes: $($name:ident),+ $(,)?) => {
        super::requirements!(@all $($name),+);
        super::requirements!(@each memory, Memory, 2, $($name),+);
        super::requirements!(@each disk, Disk, 2, $($name),+);
        super::requirements!(@together s3, S3, 2);
        super::requirements!(@together azure, Azure, 2);
    };
    ($($name:ident),+ $(,)?) => {
        super::requirements!(@all $($name),+);
        super::requirements!(@each memory_one_node, Memory, 1, $($name),+);
        super::requirements!(@each memory_two_nodes, Memory, 2, $($name),+);
        super::requirements!(@each disk_one_node, Disk, 1, $($name),+);
        super::requirements!(@each disk_two_nodes, Disk, 2, $($name),+);
        super::requirements!(@together s3_one_node, S3, 1);
        super::requirements!(@together s3_two_nodes, S3, 2);
        super::requirements!(@together azure_one_node, Azure, 1);
        super::requirements!(@together azure_two_nodes, Azure, 2);
    };
    (@all $($name:ident),+) => {
        fn all() -> Vec<(&'static str, super::Requirement)> {
            vec![$((stringify!($name), |registry| Box::pin($name(registry)))),+]
        }
    };
    (@each $store:ident, $kind:ident, $nodes:literal, $($name:ident),+) => {
        mod $store {
            use crate::harness::Registry;
            use crate::stores::StoreKind;

            $(
                #[actix_web::test]
                async fn $name() {
                    super::$name(Registry::at_nodes(StoreKind::$kind, $nodes).await).await;
                }
            )+
        }
    };
    (@together $store:ident, $kind:ident, $nodes:literal) => {
        #[actix_web::test]
        async fn $store() {
            super::hold_together(crate::stores::StoreKind::$kind, $nodes, all()).await;
        }
    };
}
use requirements;

/// Holds all requirements of a section against one store, and says which do not hold.
async fn hold_together(
    kind: StoreKind,
    nodes: usize,
    requirements: Vec<(&'static str, Requirement)>,
) {
    let registry = Registry::at_nodes(kind, nodes).await;
    let failed: Vec<&str> = stream::iter(requirements)
        .map(|(name, requirement)| {
            let held = AssertUnwindSafe(requirement(registry.another())).catch_unwind();
            async move { held.await.is_err().then_some(name) }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(async |failed| failed)
        .collect()
        .await;
    assert!(failed.is_empty(), "these do not hold: {failed:?}");
}
