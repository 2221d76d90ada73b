//! Which registry nodes there are: their names, ports and directories, and starting them.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use super::error::DevError;
use super::installation::{Installation, Plan, random_u16};
use super::state::{Installed, StateDirectory};
use super::terminal::say;
use super::{ports, steps};

/// What the node keeps in its state directory once it has joined.
const NODE_CREDENTIAL: &str = "credential.json";

/// What is there while the node knows that it was removed.
const NODE_REMOVED: &str = "removed.json";

/// One registry node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) region: String,
    /// Counts the region's nodes from 1.
    number: u16,
    pub(super) port: u16,
}

impl Node {
    /// What it is called in messages, logs and the ready file.
    pub(super) fn role(&self) -> String {
        format!("registry-{}", self.name())
    }

    /// Its name and that of its state directory; the region's first node goes without a number.
    fn name(&self) -> String {
        match self.number {
            1 => format!("node-{}", self.region),
            number => format!("node-{}-{number}", self.region),
        }
    }

    /// Where other nodes reach it.
    pub(super) fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

/// All nodes, region by region. The first listens on the login servers' port; the ports of the others are found once and remembered.
pub(super) fn choose(
    state: &mut StateDirectory,
    installed: &Installed,
) -> Result<Vec<Node>, DevError> {
    let mut nodes: Vec<Node> = Vec::new();
    for region in installed.regions() {
        for number in 1..=installed.nodes_per_region {
            let mut node = Node {
                region: region.to_owned(),
                number,
                port: installed.registry_port,
            };
            let directory = state.join(node.name());
            if directory.join(NODE_REMOVED).exists() {
                return Err(DevError::NodeRemoved { directory });
            }
            if !nodes.is_empty() {
                node.port = port_of(state, installed, &node.role())?;
            }
            nodes.push(node);
        }
    }
    Ok(nodes)
}

fn port_of(state: &mut StateDirectory, installed: &Installed, role: &str) -> Result<u16, DevError> {
    let before = state.remembered().node_ports.get(role).copied();
    let mut taken = state.remembered().ports();
    taken.retain(|port| Some(*port) != before);
    taken.extend([installed.port, installed.registry_port]);
    let port = ports::remembered_or_free(before, &taken, random_u16())?;
    state.remember(|remembered| {
        remembered.node_ports.insert(role.to_owned(), port);
    })?;
    Ok(port)
}

impl Installation {
    /// Starts a node, enrolling it if this is its first start, and returns when it serves.
    pub(super) async fn start_node(
        &mut self,
        state: &StateDirectory,
        plan: &Plan,
        node: &Node,
    ) -> Result<(), DevError> {
        let region = &node.region;
        let node_state = state.private_directory(&node.name())?;
        let join_token = state.join(format!("{}.join-token", node.name()));
        let enrolled = node_state.join(NODE_CREDENTIAL).exists();
        let mut arguments: Vec<OsString> = vec!["registry-node".into()];
        arguments.extend(["--region".into(), region.into()]);
        arguments.extend(["--state-dir".into(), node_state.into()]);
        arguments.extend(self.content_flags(state, region)?);
        arguments.extend(["--control-plane".into(), plan.control_plane_url().into()]);
        for flag in ["--control-plane-ca", "--node-ca"] {
            arguments.extend([flag.into(), plan.certificates.authority.clone().into()]);
        }
        arguments.extend(["--advertised-address".into(), node.address().into()]);
        // Whoever ends a run of his own does not wait long for a download.
        arguments.extend(["--shutdown-timeout".into(), "20".into()]);
        if enrolled {
            // It was used up when the node joined. It stays for the run in which that was, because the node's
            // command line names it.
            forget(&join_token)?;
        } else {
            say(format!("Registry node: enrolling one in {region}"));
            self.create_node(plan, region, &join_token).await?;
            arguments.extend(["--join-token-file".into(), join_token.into()]);
        }
        say(format!(
            "Registry node: starting on https://{}",
            node.address()
        ));
        self.keep_server(state, plan, node.role(), node.port, arguments)
            .await
    }

    /// Where the region's content is: in the bucket that was asked for, or in the state directory.
    fn content_flags(
        &self,
        state: &StateDirectory,
        region: &str,
    ) -> Result<Vec<OsString>, DevError> {
        if let Some(location) = &self.bucket.content_store {
            let location = location.below(region).map_err(DevError::ContentStore)?;
            return Ok(self.bucket.for_location(&location));
        }
        let directory = state.private_directory(&format!("content-{region}"))?;
        Ok(vec!["--content-dir".into(), directory.into()])
    }

    async fn create_node(
        &self,
        plan: &Plan,
        region: &str,
        join_token: &Path,
    ) -> Result<(), DevError> {
        let arguments = [
            "admin".as_ref(),
            "node".as_ref(),
            "create".as_ref(),
            "--database-url-file".as_ref(),
            plan.database_url_file.as_os_str(),
            "--region".as_ref(),
            region.as_ref(),
            "--join-token-file".as_ref(),
            join_token.as_os_str(),
        ];
        let step = "wharfinger admin node create";
        steps::run(&self.executable, step, &arguments, &self.shutdown).await
    }
}

fn forget(file: &Path) -> Result<(), DevError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DevError::file("delete", file)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(regions: &[&str], nodes_per_region: u16) -> Installed {
        Installed {
            port: 1,
            registry_port: 2,
            region: regions[0].to_owned(),
            further_regions: regions[1..]
                .iter()
                .map(|region| (*region).to_owned())
                .collect(),
            nodes_per_region,
        }
    }

    #[test]
    fn nodes_keep_their_ports_when_others_are_added() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut state = StateDirectory::open(directory.path()).expect("an empty directory");
        let few = choose(&mut state, &installed(&["westus", "eastus"], 1)).expect("free ports");
        let many =
            choose(&mut state, &installed(&["westus", "eastus", "asia"], 2)).expect("free ports");
        let roles: Vec<String> = many.iter().map(Node::role).collect();
        assert_eq!(
            roles,
            [
                "registry-node-westus",
                "registry-node-westus-2",
                "registry-node-eastus",
                "registry-node-eastus-2",
                "registry-node-asia",
                "registry-node-asia-2",
            ]
        );
        assert_eq!(many[0].port, 2);
        assert!(few.iter().all(|node| many.contains(node)));
        let mut ports: Vec<u16> = many.iter().map(|node| node.port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), many.len());
    }
}
