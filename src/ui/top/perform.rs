//! Carries out what a user wants done, and says in one sentence what came of it.

use std::sync::Arc;

use rustix::process::Signal;
use rustls::ClientConfig;

use super::model::action::{Action, AskedNode, signal_name};
use crate::{
    api::{CallError, Client},
    job::JobId,
    keys::ClientIdentity,
    sys::pidfd,
    ui::{UiError, args::TopArgs, client, constrain, drain, migrate, recall},
};

/// What the record says of a move that ended so.
const CANCELLED: &str = "its move was cancelled";

/// The daemons that can be asked.
#[derive(Clone)]
pub struct Daemons {
    /// The one that is watched.
    pub watched: Client,
    /// With which others can be reached.
    tls: Option<Arc<ClientConfig>>,
}

impl Daemons {
    /// As the command line says.
    ///
    /// # Errors
    /// If the credentials cannot be read or used.
    pub fn new(args: &TopArgs) -> Result<Self, UiError> {
        let identity = args.credentials.as_deref().map(ClientIdentity::read_from).transpose()?;
        let tls = identity.map(|identity| identity.tls()).transpose()?;
        let watched = match (&args.server, &tls) {
            (Some(server), Some(tls)) => {
                let (host, _) = server.rsplit_once(':').unwrap_or((server, ""));
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Client::tls(server, host, Arc::clone(tls)).map_err(UiError::Call)?
            }
            _ => client(&args.run_dir),
        };
        Ok(Self { watched, tls })
    }

    /// The daemon of a node.
    fn at(&self, node: &AskedNode) -> Result<Client, CallError> {
        match (&node.address, &self.tls) {
            (Some(address), Some(tls)) => Client::tls(address, &node.name, Arc::clone(tls)),
            _ => Ok(self.watched.clone()),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// One sentence that says why it was not done.
    pub async fn perform(mut self, action: Action) -> Result<String, String> {
        let done = match action {
            Action::Signal { program, start_time_ms, signal } => {
                return self.signal(&program, start_time_ms, signal).await;
            }
            Action::Migrate { program, to } => self
                .watched
                .migrate(&program, &to)
                .await
                .map(|step| format!("{program} is on its way from {} to {}", step.source, step.target)),
            Action::Constrain { program, change } => {
                self.watched.constrain(&program, &change).await.map(|row| constrain::sentence(&row))
            }
            Action::Cancel { migration, .. } => {
                self.watched.cancel_migration(migration, CANCELLED).await.map(|step| migrate::sentence(&step))
            }
            Action::Drain { node, on } => match self.at(&node) {
                Ok(mut client) => client.drain(on).await.map(|row| drain::sentence(&row)),
                Err(error) => Err(error),
            },
            Action::Expel { node } => self.expel(&node).await,
        };
        done.map(|text| text.trim_end().to_owned()).map_err(|error| error.to_string())
    }

    /// Sends each guest of a node home. Those that cannot go stay, and are counted.
    async fn expel(&self, node: &AskedNode) -> Result<String, CallError> {
        let mut client = self.at(node)?;
        let all = client.list_processes(None).await?;
        let sent = recall::send_home(&mut client, recall::guests(&all, &node.name, &[]), false).await?;
        let refused =
            sent.iter().rev().find_map(|(guest, sent)| Some(format!("; {guest} stays: {}", sent.as_ref().err()?)));
        let count = sent.iter().filter(|(_, sent)| sent.is_ok()).count();
        Ok(format!("{count} guests of {} are on their way home{}", node.name, refused.unwrap_or_default()))
    }

    /// Signals a program of this machine. The handle is taken first: what the daemon says then is
    /// about that process, not about a later one with its pid.
    async fn signal(&mut self, program: &JobId, start_ms: Option<u64>, signal: Signal) -> Result<String, String> {
        let ended = || format!("{program} has ended");
        let handle = pidfd::open(program.pid).map_err(|_| ended())?;
        let row = self.watched.get_process(program).await.map_err(|error| error.to_string())?;
        if row.start_time_ms != start_ms {
            return Err(ended());
        }
        pidfd::send(handle, signal).map_err(|error| format!("cannot signal {program}: {error}"))?;
        Ok(format!("{} was sent to {program}", signal_name(signal)))
    }
}
