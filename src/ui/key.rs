//! `key`: the cluster's key and certificates for clients; files only, no daemon needed.

use std::process::ExitCode;

use super::{UiError, args::KeyCommand, output};
use crate::keys::{CLIENT_CERT_FILES, ClusterKey};

pub(super) fn key(command: &KeyCommand) -> Result<ExitCode, UiError> {
    match command {
        KeyCommand::Generate { out } => {
            let key = ClusterKey::generate_file(out)?;
            let path = out.display();
            let id = key.id()?;
            output::print(&format!(
                "{path}: new key {id}; copy the file to every node of the cluster, and to no other machine\n"
            ))?;
        }
        KeyCommand::ClientCert { out, key, name } => {
            ClusterKey::load(key)?.mint_client_identity(name)?.write_to(out)?;
            let [ca, cert, private] = CLIENT_CERT_FILES.map(|file| out.join(file).display().to_string());
            output::print(&format!(
                "{ca} {cert} {private}: a certificate for {name}; its holder may do all that root may\n"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
