//! What is printed once all is serving: lines to paste, and what to do where a name or a certificate is not known.

use std::path::Path;

use super::Serving;

/// The whole text.
pub(crate) fn text(serving: &Serving, state_dir: &Path, seconds: f32) -> String {
    let ca = shell_word(&serving.ca_file);
    let url = &serving.control_plane;
    let state_dir = state_dir.display();
    let Serving {
        tenant_id,
        client_id,
        client_secret,
        login_server_suffix: suffix,
        ..
    } = serving;
    let names: Vec<&str> = serving
        .regions
        .iter()
        .map(|(region, _)| region.as_str())
        .collect();
    let region = names.first().copied().unwrap_or_default();
    let regions = names.join(", ");
    format!(
        "\
Serving after {seconds:.1} s. Control plane: {url}   login servers: <name>{suffix}   regions: {regions}
State: {state_dir}   logs: {state_dir}/logs

For the Azure CLI, paste:

  export REQUESTS_CA_BUNDLE={ca}
  az cloud register -n wharfinger --endpoint-resource-manager {url}
  az cloud set -n wharfinger
  az login --service-principal -u {client_id} -p '{client_secret}' --tenant {tenant_id}

A first registry:

  az group create -n demo -l {region}
  az acr create -g demo -n contoso --sku Standard --admin-enabled true
  az acr credential show -n contoso
  docker login contoso{suffix}

Where *.localhost does not resolve: apt-get install libnss-myhostname, or one line a registry in /etc/hosts:
  127.0.0.1 contoso{host_suffix}
Where a client wants the certificate authority ({ca}):
  docker     copy it to /etc/docker/certs.d/contoso{suffix}/ca.crt
  podman     copy it to /etc/containers/certs.d/contoso{suffix}/ca.crt
  others     SSL_CERT_FILE={ca}, or curl --cacert {ca}

Ctrl-C ends everything; started again it is as it was.",
        host_suffix = suffix.split(':').next().unwrap_or(suffix),
    )
}

/// A path as one word of a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    if text.bytes().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell_whatever_it_holds() {
        for (path, word) in [
            (
                "/var/lib/wharfinger-dev/ca.pem",
                "/var/lib/wharfinger-dev/ca.pem",
            ),
            ("/home/a b/ca.pem", "'/home/a b/ca.pem'"),
            ("/home/a'$(b)/ca.pem", r"'/home/a'\''$(b)/ca.pem'"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
